"""What enters the linear layers while audio streams through the graph.

Ranges must come from where the model will be: fed window by window with the states it has made
itself, from the first window of a stream on, at every chunk size, loud and faint, in silence and
noise.  So streams are drawn from a manifest, speakers in turn, and every one gets the next chunk
size and the next of `CONDITIONS`.

Gathering can be interrupted at any time: what is known lies beside the result and is taken up again
when model, manifest and settings are the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.graph import FloatGraph
from calibration.histogram import Histogram
from edge_runtime.audio import open_audio
from edge_runtime.errors import AudioError, ConfigError
from edge_runtime.features import SAMPLE_RATE, open_frontend
from edge_runtime.files import write_atomically
from edge_runtime.manifest import Utterance
from edge_runtime.modelspec import ModelSpec, Window

Samples = NDArray[np.float32]

CONDITIONS = ("as recorded", "faint", "clipped", "noisy")
_SAVE_EVERY = 25  # streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is observed. Everything random is drawn from `seed`."""

    utterances: tuple[Utterance, ...]
    chunks: int = 1000  # at least this many windows
    seed: int = 0

    def fingerprint(self, graph: FloatGraph) -> str:
        """Of everything that decides the result."""
        # The graph itself, not its file: smoothed it has other values.
        content = graph.model.SerializeToString(deterministic=True)
        facts = [hashlib.sha256(content).hexdigest(), self.chunks, self.seed]
        for u in self.utterances:
            facts += [u.audio_filepath.name, u.duration, u.text, u.speaker]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Stream(NamedTuple):
    """One stream to run: where its audio comes from, and how."""

    utterance: Utterance | None  # None: no speech at all
    condition: str
    window: Window


@dataclass(slots=True)
class Observations:
    """Histograms by tensor, and how much has been run."""

    histograms: dict[str, Histogram]
    chunks: int = 0
    streams: int = 0


def streams(plan: Plan, windows: Sequence[Window]) -> Iterator[Stream]:
    """Every utterance once in every condition, and again until each has met every chunk size."""
    order = np.random.default_rng(plan.seed).permutation(len(plan.utterances))
    of_speaker: dict[str, list[Utterance]] = {}
    for index in order:
        utterance = plan.utterances[index]
        of_speaker.setdefault(utterance.speaker, []).append(utterance)
    turns = max(map(len, of_speaker.values()), default=0)
    in_turn = [us[turn] for turn in range(turns) for us in of_speaker.values() if turn < len(us)]
    for window in windows:
        yield Stream(None, "as recorded", window)  # digital silence
        yield Stream(None, "noisy", window)
    for round_ in range(len(CONDITIONS) * len(windows)):
        for number, utterance in enumerate(in_turn):
            yield Stream(
                utterance,
                CONDITIONS[(number + round_) % len(CONDITIONS)],
                windows[(number // len(CONDITIONS) + round_) % len(windows)],
            )


def observe(
    graph: FloatGraph,
    spec: ModelSpec,
    plan: Plan,
    partial: Path,
    *,
    progress: Callable[[int], object] = lambda chunks: None,
) -> Observations:
    """Run streams until there are enough chunks; `partial` keeps what is known meanwhile.

    Raises ConfigError where the manifest has not enough audio, AudioError naming a file that cannot
    be read.
    """
    fingerprint = plan.fingerprint(graph)
    known = _load(partial, fingerprint, graph.activations)
    for stream in _taps(graph, spec, plan, skip=known.streams):
        if known.chunks >= plan.chunks:
            break
        for taps in stream:
            for name, values in taps.items():
                known.histograms[name].add(values)
            known.chunks += 1
        known.streams += 1
        progress(known.chunks)
        if known.streams % _SAVE_EVERY == 0 or known.chunks >= plan.chunks:
            _save(partial, fingerprint, known)
    if known.chunks < plan.chunks:
        raise ConfigError(
            f"the manifest has audio for {known.chunks} chunks in every condition, but "
            f"{plan.chunks} are wanted: name more audio, or fewer with --chunks"
        )
    return known


def windows(
    graph: FloatGraph, spec: ModelSpec, plan: Plan
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """What `observe` sees of a plan, window by window: values by tensor.

    Ends with the audio; that it is enough is for `observe` to say.
    """
    chunks = 0
    for stream in _taps(graph, spec, plan):
        if chunks >= plan.chunks:
            return
        for taps in stream:
            chunks += 1
            yield taps


def _taps(
    graph: FloatGraph, spec: ModelSpec, plan: Plan, *, skip: int = 0
) -> Iterator[Iterator[dict[str, NDArray[np.float32]]]]:
    """The windows of every stream from number `skip` on; nothing is read before it is asked for."""
    run = tapped(graph)
    rng = np.random.default_rng([plan.seed, 1])

    def run_one(stream: Stream, noise: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        samples = _sound(stream, np.random.default_rng(noise))
        frames = open_frontend(spec.frontend).compute(samples)
        for taps in run_stream(run, spec, stream.window, frames):
            yield dict(zip(graph.activations, taps, strict=True))

    for number, stream in enumerate(streams(plan, spec.windows)):
        noise = int(rng.integers(1 << 32))  # drawn for streams that are skipped, too
        if number >= skip:
            yield run_one(stream, noise)


Run = Callable[[list[NDArray[Any]]], list[NDArray[Any]]]


def initial_state(spec: ModelSpec) -> list[NDArray[Any]]:
    """The three states that one stream begins with."""
    channel, time = spec.caches
    return [
        np.zeros((1, *channel), np.float32),
        np.zeros((1, *time), np.float32),
        np.zeros(1, np.int64),
    ]


def run_stream(
    run: Run, spec: ModelSpec, window: Window, frames: Samples
) -> Iterator[list[NDArray[Any]]]:
    """Feeds frames [n, 80] window by window; yields what `run` returns behind the five outputs."""
    state = initial_state(spec)
    for start in range(0, max(len(frames) - window.overlap, 1), window.shift):
        piece = frames[start : start + window.size]
        feeds = np.zeros((1, spec.feature_dim, window.size), np.float32)
        feeds[0, :, : len(piece)] = piece.T
        results = run([feeds, np.array([len(piece)], np.int64), *state])
        state = results[2:5]
        yield results[5:]


def session_of(
    model: onnx.ModelProto | Path, *, config: Mapping[str, str] | None = None, **options: Any
) -> Any:
    """An onnxruntime session on one thread, with entries and attributes of its options."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # failures arrive as exceptions
    for name, value in options.items():
        setattr(settings, name, value)
    for name, text in (config or {}).items():
        settings.add_session_config_entry(name, text)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])


def tapped(graph: FloatGraph) -> Run:
    """Runs the float graph; what enters its linear layers comes after the five outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    outputs = [output.name for output in model.graph.output][:5]
    there = {output.name for output in model.graph.output}
    for name in graph.activations:
        if name not in there:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = session_of(model)
    inputs = [node.name for node in session.get_inputs()]
    wanted = [*outputs, *graph.activations]

    def run(feeds: list[NDArray[Any]]) -> list[NDArray[Any]]:
        results: list[NDArray[Any]] = session.run(wanted, dict(zip(inputs, feeds, strict=True)))
        return results

    return run


def read(utterance: Utterance) -> Samples:
    """The whole recording, f32 [n].  Raises AudioError naming a file that cannot be read."""
    path = utterance.audio_filepath
    try:
        with open_audio(path) as source:
            return np.concatenate([*source.blocks(), np.zeros(0, np.float32)])
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}") from error


def _sound(stream: Stream, rng: np.random.Generator) -> Samples:
    """The samples of a stream under its condition, f32 [n] in [-1, 1]."""
    if stream.utterance is None:
        samples = np.zeros(2 * SAMPLE_RATE, np.float32)
        level = 0.1
    else:
        samples = read(stream.utterance)
        level = float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    match stream.condition:
        case "faint":
            samples = samples * np.float32(10 ** (-30 / 20))
        case "clipped":
            samples = np.clip(samples * np.float32(10 ** (20 / 20)), -1.0, 1.0)
        case "noisy":  # 10 dB below the speech
            noise = rng.standard_normal(len(samples), np.float32)
            samples = np.clip(samples + noise * np.float32(level * 10 ** (-10 / 20)), -1.0, 1.0)
    return samples


# -- what is known, on disk ------------------------------------------------------------------------


def _save(path: Path, fingerprint: str, known: Observations) -> None:
    scalars = [[h.limit, h.low, h.high, h.zeros] for h in known.histograms.values()]
    content = io.BytesIO()
    np.savez_compressed(
        content,
        fingerprint=np.array(fingerprint),
        progress=np.array([known.chunks, known.streams]),
        scalars=np.array(scalars),
        counts=np.array([h.counts for h in known.histograms.values()]),
    )
    write_atomically(path, content.getbuffer())


def _load(path: Path, fingerprint: str, names: Sequence[str]) -> Observations:
    """What an interrupted run with the same fingerprint knew; else nothing."""
    fresh = Observations({name: Histogram() for name in names})
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["fingerprint"]) != fingerprint or len(file["scalars"]) != len(names):
                return fresh
            for name, scalars, counts in zip(names, file["scalars"], file["counts"], strict=True):
                limit, low, high, zeros = map(float, scalars)
                fresh.histograms[name] = Histogram(limit, low, high, int(zeros), counts.copy())
            fresh.chunks, fresh.streams = map(int, file["progress"])
    except (OSError, ValueError, KeyError):  # none there, or not one of ours
        return Observations({name: Histogram() for name in names})
    return fresh
