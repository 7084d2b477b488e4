"""A small exported encoder, opened both ways: as a file and as what quantisation sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import soundfile
from numpy.typing import NDArray

from calibration.calibrate import HELD_BACK
from calibration.graph import FloatGraph, load_graph
from calibration.histogram import Histogram
from calibration.observe import Observations, Plan, run_stream, session_of
from calibration.ranges import Ranges
from edge_runtime.engine import Engine
from edge_runtime.manifest import Utterance
from edge_runtime.modelspec import ModelSpec
from edge_runtime.precision import this_processor
from tests.training.encoders import small
from training.export import contract_metadata, streaming_onnx


def noise_plan(folder: Path, seconds: float) -> Plan:
    """A plan over a few recordings of noise, each of another loudness."""
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(HELD_BACK + 8):
        path = folder / f"{number}.wav"
        noise = rng.uniform(0.01, 0.3) * rng.standard_normal(round(seconds * 16_000))
        soundfile.write(path, noise, 16_000)
        utterances.append(Utterance(audio_filepath=path, duration=seconds, text=""))
    return Plan(utterances=tuple(utterances), chunks=60)


def write_encoder(path: Path, arm: str = "vit_conformer", *, half: bool = False) -> Path:
    """The streaming graph of a small random encoder."""
    encoder = small(arm)
    path.write_bytes(
        streaming_onnx(
            encoder, contract_metadata(encoder, window=16), half=half
        ).SerializeToString()
    )
    return path


def spec_of(path: Path) -> ModelSpec:
    return Engine.open(path, chunk_frames=(8, 16, 32), default_chunk_ms=160).spec


def features(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(-8.0, 4.0, (round(seconds * 100), 80)).astype(np.float32)


# What keeps products of unsigned activations from overflowing, as the recogniser's backend does.
EXACT = {"session.x64quantprecision": "1"} if this_processor().overflows else {}


def logprobs(
    model: onnx.ModelProto,
    spec: ModelSpec,
    frames: NDArray[np.float32],
    config: Mapping[str, str] | None = None,
) -> NDArray[np.float32]:
    """[T', V], streamed at the default window by nothing but onnxruntime."""
    session = session_of(model, config=config)
    names = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()][:5]
    steps = run_stream(
        lambda feeds: (r := session.run(outputs, dict(zip(names, feeds, strict=True)))) + r[:1],
        spec,
        spec.default_window,
        frames,
    )
    return np.concatenate([step[0][0] for step in steps])


def ranges_of(path: Path, frames: NDArray[np.float32]) -> tuple[FloatGraph, Ranges]:
    """Ranges of everything that `frames` bring about."""
    from calibration import observe

    graph, spec = load_graph(path), spec_of(path)
    seen = Observations({name: Histogram() for name in graph.activations})
    run = observe.tapped(graph)
    for taps in run_stream(run, spec, spec.default_window, frames):
        for name, values in zip(graph.activations, taps, strict=True):
            seen.histograms[name].add(values)
        seen.chunks += 1
    return graph, Ranges.of(graph, seen, manifest_sha256="0" * 64, tools={})
