"""Engines of the tiny models, built by the simulated TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import Binding, Shape
from edge_runtime.backends.onnx import open_onnx
from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.contract.bundle import GOLDENS_NAME
from jetson.backend import TensorRTBackend, describe_graph
from jetson.build import BuildRequest, build_plan
from jetson.goldens import Goldens, noise, record
from tests.jetson.simulated import Faults, SimulatedCuda, simulated_tensorrt
from tests.models import bundle_manifest, memory_model, save, tokens_text

MEMORY_ROWS: list[Shape] = [(1, 2, 3), (1, 1, 5), ()]


def shapes(batch: int, frames: int) -> tuple[Shape, ...]:
    """Of the memory model's inputs."""
    return ((batch, 80, frames), (batch,), *((batch, *row) for row in MEMORY_ROWS))


def memory_engine(
    folder: Path,
    cuda: SimulatedCuda | None = None,
    *,
    version: str = "10.3.0",
    faults: Faults | None = None,
    frames: Sequence[int] = (8, 16),
    batches: Sequence[int] = (1, 2, 4, 8),
    graphs: bool = True,
) -> TensorRTBackend:
    """The memory model as an engine."""
    cuda = cuda or SimulatedCuda()
    trt = simulated_tensorrt(cuda, version, faults)
    model = save(memory_model(), folder / "encoder.onnx")
    plan = build_plan(
        trt,
        BuildRequest(
            model=model,
            mode="float",
            profiles=[shapes(batch, n) for n in frames for batch in batches],
            timing_cache=folder / "timing",
        ),
    )
    return TensorRTBackend(cuda, trt, plan, describe_graph(open_onnx(model)), graphs=graphs)


def memory_goldens(folder: Path, frames: int = 16, steps: int = 12) -> Goldens:
    """What the memory model says in onnxruntime."""
    model = save(memory_model(), folder / "goldens-of.onnx")
    return record(open_onnx(model), noise(frames * steps, frames), MEMORY_ROWS, frames)


def memory_bundle(path: Path, *, goldens: bool = True) -> Bundle:
    """A bundle of the memory model with the files that TensorRT is built from.

    The model has nothing to quantise: its INT8 and float16 files are the float one, under names of
    their own and from a producer each, so that their digests differ.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    precisions = {
        "float32": "encoder.onnx",
        "int8-trt10": "encoder.int8-trt10.onnx",
        "float16-trt10": "encoder.float16-trt10.onnx",
        "int8-trt8": "encoder.int8-trt8.onnx",
    }
    files: dict[str, Path | bytes] = {"tokens.txt": tokens_text(15).encode()}
    for name, file in precisions.items():
        model = memory_model()
        model.producer_name = name
        files[file] = model.SerializeToString()
    if goldens:
        save_goldens(memory_goldens(path.parent), path.parent / GOLDENS_NAME)
        files[GOLDENS_NAME] = path.parent / GOLDENS_NAME
    manifest = bundle_manifest(
        precisions=precisions,
        chunk_frames=(16, 32),
        default_chunk_ms=320,
        goldens=GOLDENS_NAME if goldens else None,
    )
    return write_bundle(path, manifest, files)


def save_goldens(goldens: Goldens, path: Path) -> None:
    """The file that `Goldens.load` reads."""
    states: dict[str, Any] = {f"state{i}": state for i, state in enumerate(goldens.states)}
    np.savez_compressed(
        path,
        chunk_frames=np.int64(goldens.chunk_frames),
        features=goldens.features,
        lengths=goldens.lengths,
        logprobs=goldens.logprobs,
        **states,
    )


def windows(count: int, frames: int, seed: int = 0) -> NDArray[np.float32]:
    """[n, frames, 80] log-mel-like."""
    rng = np.random.default_rng(seed)
    return rng.normal(-8, 4, (count, frames, 80)).astype(np.float32)


def step(binding: Binding, window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Runs one window, the same for all rows. -> a copy of the log-probabilities."""
    binding.features[:] = window.T
    return binding.run().copy()
