"""One streaming CTC model, stepped window by window.

    engine = Engine.from_bundle(bundle)             # or Engine.open("encoder.onnx")
    session = engine.session(chunk_frames=32)
    session.push(frames)                            # f32 [n, 80], any n
    for out in session.step():                      # [] until a window is complete
        out.logprobs                                # f32 [T', V], valid until the next step
    session.finish()
    session.step()                                  # the tail: zero-padded, outputs trimmed
    session.reset()                                 # a fresh stream

Window k covers feature frames [k * shift, k * shift + size) of its stream. Graphs of ours have
size == shift and lose nothing at the start. NeMo's windows overlap by nine frames, which the first
window takes from the stream itself, so the first 90 ms are only context; `pad_start` puts that many
zero frames in front instead.

A session steps a batch of independent streams, its rows. A row without a complete window when
others have one takes part in the run like all rows, and afterwards gets its old state back. No row
is ever influenced by what the others contain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import Backend, Binding, TensorSpec, open_backend
from edge_runtime.bundle import Bundle
from edge_runtime.contract.bundle import FRAME_MS, TOKENS_NAME
from edge_runtime.errors import BackendError, BundleError, BundleIncompatible, ConfigError
from edge_runtime.frame_stats import POWER_SUM, bounded, frame_stats
from edge_runtime.modelspec import ModelSpec, Window

MAX_BATCH = 1024  # rows; buffers are allocated for all of them


class Output(NamedTuple):  # not a dataclass: one is made per step
    """What one row got from one step."""

    row: int
    logprobs: NDArray[np.float32]  # [T', V] view, valid until the session's next step
    first_frame: int  # index of logprobs[0] among all output frames of the row's stream
    stats: list[list[float]] | None = None  # T' x 5, see `edge_runtime.frame_stats`


class Engine:
    """A model that can be run. Immutable; sessions hold the state of streams."""

    def __init__(self, backend: Backend, spec: ModelSpec) -> None:
        self.spec = spec
        self._backend = backend
        self._proven: set[tuple[int, Window]] = set()

    @classmethod
    def open(
        cls,
        model: Path | str,
        *,
        chunk_frames: Sequence[int] = (),
        default_chunk_ms: int | None = None,
        frontend: str | None = None,
        backend: str = "onnxruntime",
        threads: int = 1,
    ) -> Engine:
        """Opens a graph file; see `ModelSpec.of` for the options. Nothing is run yet.

        Raises BundleError if the file must not be used, BackendError or ConfigError if the backend
        cannot be had.
        """
        opened = open_backend(backend, model, threads=threads)
        spec = ModelSpec.of(
            opened,
            chunk_frames=chunk_frames,
            default_chunk_ms=default_chunk_ms,
            frontend=frontend,
        )
        return cls(opened, spec)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        precision: str = "float32",
        backend: str = "onnxruntime",
        threads: int = 1,
    ) -> Engine:
        """Opens the graph of a verified bundle. Raises as `open`."""
        manifest = bundle.manifest
        engine = cls.open(
            bundle.model(precision),
            chunk_frames=manifest.chunk_frames,
            default_chunk_ms=manifest.default_chunk_ms,
            frontend=manifest.frontend,
            backend=backend,
            threads=threads,
        )
        tokens = len(bundle.vocabulary())
        if tokens != engine.spec.vocab_size:
            raise BundleIncompatible(
                f"has {tokens} tokens",
                file=str(bundle.file(TOKENS_NAME)),
                expected=f"{engine.spec.vocab_size} as the graph",
                remedy="export the bundle again",
            )
        return engine

    @property
    def backend(self) -> Backend:
        """What runs the graph."""
        return self._backend

    def window(self, chunk_ms: int | None = None) -> Window:
        """The window of that chunk size, or the default. Raises ConfigError naming the choices."""
        if chunk_ms is None:
            return self.spec.default_window
        for window in self.spec.windows:
            if window.chunk_ms == chunk_ms:
                return window
        choices = ", ".join(str(window.chunk_ms) for window in self.spec.windows)
        raise ConfigError(f"this model has no chunk of {chunk_ms} ms (choose from: {choices})")

    def session(
        self, batch: int = 1, *, chunk_frames: int | None = None, pad_start: bool = False
    ) -> Session:
        """State and buffers for `batch` streams. The first session of a shape tries it on silence.

        `chunk_frames` is the shift of one of `spec.windows`, by default `spec.default_window`'s.
        Raises ConfigError for a chunk or batch the model does not have, BundleError if the graph
        breaks the contract when it is run.
        """
        if not 1 <= batch <= MAX_BATCH:
            raise ConfigError(f"the batch must be 1 to {MAX_BATCH}, not {batch}")
        if self.spec.batch not in (None, batch):
            raise ConfigError(f"this model runs batches of {self.spec.batch}, not {batch}")
        window = self.window(None if chunk_frames is None else chunk_frames * FRAME_MS)
        binding = self._backend.bind(self.spec.input_shapes(batch, window))
        if (batch, window) not in self._proven:
            self._prove(binding, batch)
            self._proven.add((batch, window))
        return Session(self.spec, window, binding, pad_start=pad_start)

    def _prove(self, binding: Binding, batch: int) -> None:
        """One window of zeros: an engine that cannot do that must not be given audio."""
        logprobs = binding.run()
        shape = logprobs.shape
        if len(shape) != 3 or shape[::2] != (batch, self.spec.vocab_size) or not shape[1]:
            raise BundleIncompatible(
                f"are {list(shape)}",
                file=self._backend.source,
                field="logprobs",
                expected=f"[{batch}, frames, {self.spec.vocab_size}]",
                remedy="export the model again",
            )
        if np.isnan(logprobs).any():
            raise BundleError(
                "are NaN on silence",
                file=self._backend.source,
                field="logprobs",
                remedy="export the model again",
            )
        if binding.frame_stats is not None:
            for found, row_logprobs in zip(binding.frame_stats.tolist(), logprobs, strict=True):
                if not np.allclose(bounded(found), frame_stats(row_logprobs), rtol=1e-3, atol=1e-3):
                    raise BundleError(
                        "are not the statistics of logprobs",
                        file=self._backend.source,
                        field="frame_stats",
                        remedy="export the model again",
                    )
        for row in range(batch):
            binding.reset(row)

    def inspect(self) -> dict[str, Any]:
        """What the model is, as plain JSON values."""

        def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
            return [
                {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
                for spec in specs
            ]

        spec = self.spec
        return {
            "file": self._backend.source,
            "inputs": tensors(self._backend.inputs),
            "outputs": tensors(self._backend.outputs),
            "metadata": dict(self._backend.metadata),
            "frontend": spec.frontend,
            "sample_rate": spec.sample_rate,
            "vocab_size": spec.vocab_size,
            "blank_id": spec.blank_id,
            "output_frame_ms": spec.subsampling * FRAME_MS,
            "state_bytes_per_stream": sum(4 * math.prod(shape) for shape in spec.caches) + 8,
            "default_chunk_ms": spec.default_window.chunk_ms,
            "chunks": [
                {
                    "chunk_ms": window.chunk_ms,
                    "window_frames": window.size,
                    "shift_frames": window.shift,
                    # From a sound to the step that can report it, at worst.
                    "latency_ms": window.chunk_ms + spec.lookahead_ms,
                }
                for window in spec.windows
            ],
        }

    def close(self) -> None:
        """Frees the backend. Sessions must not be stepped afterwards."""
        self._backend.close()


class _Row:
    """Bookkeeping of one stream."""

    __slots__ = ("emitted", "finished", "pending")

    def __init__(self, pending: NDArray[np.float32]) -> None:
        self.pending = pending  # [frames, 80] not yet consumed; a window starts at pending[0]
        self.emitted = 0  # output frames
        self.finished = False


class Session:
    """A batch of streams at one chunk size, stepped together."""

    def __init__(
        self, spec: ModelSpec, window: Window, binding: Binding, *, pad_start: bool
    ) -> None:
        self.spec = spec
        self.window = window
        self.batch = len(binding.lengths)
        self._binding = binding
        # Views of each row's buffers: making one right after the graph has run costs microseconds.
        self._inputs = list(binding.features)  # [80, T]
        self._stats = None if binding.frame_stats is None else list(binding.frame_stats)
        self._none = np.empty((0, spec.feature_dim), np.float32)
        self._start = np.zeros((window.overlap if pad_start else 0, spec.feature_dim), np.float32)
        self._offset = 0 if pad_start else window.overlap  # feature frame that output 0 starts at
        self._rows = [_Row(self._start) for _ in range(self.batch)]
        self._frames_per_window = 0  # T', known after the first step

    def push(self, features: NDArray[np.float32], row: int = 0) -> None:
        """Appends frames f32 [n, 80] to a stream. Raises ValueError after `finish`."""
        state = self._rows[row]
        if state.finished:
            raise ValueError("the stream is finished; reset it first")
        if features.ndim != 2 or features.shape[1] != self.spec.feature_dim:
            raise ValueError(f"features must be [n, {self.spec.feature_dim}]: {features.shape}")
        if len(state.pending):
            state.pending = np.concatenate([state.pending, features])
        else:
            state.pending = features.copy()

    def finish(self, row: int = 0) -> None:
        """No more frames: what is left becomes a last window, padded with zero frames."""
        self._rows[row].finished = True

    def reset(self, row: int = 0) -> None:
        """Makes `row` a fresh stream."""
        self._rows[row] = _Row(self._start)
        self._binding.reset(row)

    def ready(self, row: int = 0) -> bool:
        """Whether the next step would run a window of `row`."""
        return self._valid_frames(self._rows[row]) > 0

    def step(self) -> list[Output]:
        """Runs the next window of every row that has one; [] without a run if none has.

        A row has at most one output per step: call until the list is empty. Raises BackendError if
        the graph fails or returns NaN.
        """
        valid = [self._valid_frames(row) for row in self._rows]
        if not any(valid):
            return []
        binding, size, shift = self._binding, self.window.size, self.window.shift
        for i, (row, count) in enumerate(zip(self._rows, valid, strict=True)):
            if count:
                target = self._inputs[i]
                if len(row.pending) == count == size:
                    target[...] = row.pending.T
                else:
                    target[:, :count] = row.pending[:count].T
                    target[:, count:] = 0
                binding.lengths[i] = count
        logprobs = binding.run()  # [B, T', V]
        self._frames_per_window = logprobs.shape[1]
        outputs = []
        for i, (row, count) in enumerate(zip(self._rows, valid, strict=True)):
            if not count:
                binding.keep(i)
                continue
            result, stats = logprobs[i], None
            if count < size:
                result = result[: self._output_frames(count)]
            if self._stats is not None:
                stats = self._stats[i].tolist()[: len(result)]
                broken = math.isnan(sum([frame[POWER_SUM] for frame in stats]))  # over all tokens
            else:
                broken = math.isnan(result.item(result.argmax()))  # NaN counts as most
            if broken:
                raise BackendError("the graph returned NaN; reset the stream")
            outputs.append(Output(i, result, row.emitted, stats))
            row.emitted += len(result)
            row.pending = row.pending[shift:] if len(row.pending) > shift else self._none
        return outputs

    def frame_time(self, frame: int) -> float:
        """Seconds from the stream's start to the start of its output frame `frame`.

        Output j of window k stands for the features from k * shift + overlap + j * subsampling on.
        Frames are evenly spaced where a window gives shift / subsampling of them: in every export
        known so far. Time never runs backwards: where a window gives more, the surplus shares its
        last moment.
        """
        per_window = self._frames_per_window or max(1, self.window.shift // self.spec.subsampling)
        k, j = divmod(frame, per_window)
        within = min(j * self.spec.subsampling, self.window.shift)
        feature_frame = k * self.window.shift + within + self._offset
        return feature_frame * FRAME_MS / 1000

    def _valid_frames(self, row: _Row) -> int:
        """Frames of real input in the row's next window; 0 if it must wait (or is over)."""
        count = len(row.pending)
        if count >= self.window.size:
            return self.window.size
        # What is left after the last full window counts only beyond the overlap, which is context.
        return count if row.finished and count > self.window.overlap else 0

    def _output_frames(self, count: int) -> int:
        """Outputs that stand for real input, of a window with `count` real frames."""
        if count == self.window.size:
            return self._frames_per_window
        wanted = math.ceil((count - self.window.overlap) / self.spec.subsampling)
        return min(self._frames_per_window, wanted)
