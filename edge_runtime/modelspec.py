"""What a graph says about itself, checked against the streaming CTC contract.

    #  input                    dtype  shape          #  output               dtype
    0  audio_signal             f32    [B, 80, T]     0  logprobs             f32 [B, T', V]
    1  length                   i64    [B]            1  encoded_lengths      i64 [B]
    2  cache_last_channel       f32    [B, ., ., .]   2  ..._next             as input 2
    3  cache_last_time          f32    [B, ., ., .]   3  ..._next             as input 3
    4  cache_last_channel_len   i64    [B]            4  ..._next_len         as input 4

Positions count, names do not: that is how sherpa-onnx reads such graphs. Sizes of the caches come
from the metadata where the graph leaves them symbolic, as NeMo's exports do. Everything is checked
before anything is allocated, so a file that asks for absurd sizes is refused, not obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from edge_runtime.backends import Backend, Shape, TensorSpec
from edge_runtime.contract.bundle import FRAME_MS, FRONTENDS, MAX_CHUNK_FRAMES
from edge_runtime.errors import BundleError, BundleIncompatible

FEATURE_DIM = 80
MAX_VOCABULARY = 1 << 17  # four times the largest tokeniser in use
MAX_CACHE_VALUES = 1 << 24  # per stream and cache, 64 MiB; a 114 M-parameter NeMo model has 1.2 M
MAX_SUBSAMPLING = 64

_EXPECTED = (("float32", 3), ("int64", 1), ("float32", 4), ("float32", 4), ("int64", 1))
_REMEDY = "export the model again"


@dataclass(frozen=True, slots=True)
class Window:
    """Window k covers feature frames [k * shift, k * shift + size)."""

    size: int  # feature frames the graph is fed at once
    shift: int  # feature frames by which it advances

    @property
    def overlap(self) -> int:
        """Frames that a window shares with the one before it."""
        return self.size - self.shift

    @property
    def chunk_ms(self) -> int:
        """Milliseconds of audio per step."""
        return self.shift * FRAME_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A graph that fulfils the contract."""

    frontend: str  # name for open_frontend
    sample_rate: int  # Hz
    feature_dim: int  # mel bins
    vocab_size: int  # V, blank included
    subsampling: int  # feature frames per output frame
    lookahead_ms: int  # audio after an output frame that it needs, beyond its chunk
    windows: tuple[Window, ...]  # ascending; the graph may be run with any of them
    default_window: Window
    caches: tuple[Shape, Shape]  # without the batch axis
    batch: int | None  # the only batch size the graph takes, None for any

    @property
    def blank_id(self) -> int:
        """The last id."""
        return self.vocab_size - 1

    @property
    def frame_s(self) -> float:
        """Seconds of audio per output frame."""
        return self.subsampling * FRAME_MS / 1000

    def input_shapes(self, batch: int, window: Window) -> tuple[Shape, ...]:
        """Shapes of the five inputs."""
        channel, time = self.caches
        return (
            (batch, self.feature_dim, window.size),
            (batch,),
            (batch, *channel),
            (batch, *time),
            (batch,),
        )

    @classmethod
    def of(
        cls,
        backend: Backend,
        *,
        chunk_frames: Sequence[int] = (),
        default_chunk_ms: int | None = None,
        frontend: str | None = None,
    ) -> ModelSpec:
        """Reads and checks the inputs, outputs and metadata of `backend`.

        `chunk_frames` are the window shifts that the graph may be run with (a manifest knows them;
        the graph's metadata name only one); `frontend` is what the manifest says, or what a graph
        without our metadata is to be fed. A graph that says nothing gets NeMo's own features.

        Raises BundleIncompatible or BundleError naming file and field.
        """
        return _Reader(backend).spec(tuple(chunk_frames), default_chunk_ms, frontend)


class _Reader:
    """Reads one backend's description; every refusal names the file."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def spec(
        self, chunk_frames: tuple[int, ...], default_chunk_ms: int | None, frontend: str | None
    ) -> ModelSpec:
        inputs = self._check_tensors("input", self._backend.inputs)
        outputs = self._check_tensors("output", self._backend.outputs)
        features = inputs[0].shape
        if features[1] != FEATURE_DIM and not isinstance(features[1], str):
            self._refuse(inputs[0].name, f"takes {features[1]} bins", str(FEATURE_DIM))
        self._number("feat_dim", FEATURE_DIM, FEATURE_DIM, default=FEATURE_DIM)
        vocab_size = self._number("vocab_size", 1, MAX_VOCABULARY) + 1
        declared = outputs[0].shape[2]
        if declared != vocab_size and not isinstance(declared, str):
            self._refuse("vocab_size", f"is {vocab_size - 1}", f"{declared - 1} as in logprobs")
        if self._number("blank_id", 0, MAX_VOCABULARY, default=vocab_size - 1) != vocab_size - 1:
            self._refuse("blank_id", "is not the last id", str(vocab_size - 1))
        normalise = self._backend.metadata.get("normalize_type", "")
        if normalise not in ("", "NA", "None"):
            self._refuse("normalize_type", f"is {normalise!r}", "none: a stream has no mean")
        windows, default = self._windows(features[2], chunk_frames, default_chunk_ms)
        return ModelSpec(
            frontend=self._frontend(frontend),
            sample_rate=self._number("sample_rate", 16000, 16000, default=16000),
            feature_dim=FEATURE_DIM,
            vocab_size=vocab_size,
            subsampling=self._number("subsampling_factor", 1, MAX_SUBSAMPLING),
            lookahead_ms=self._number("lookahead_ms", 0, 60_000, default=0),
            windows=windows,
            default_window=default,
            caches=(
                self._cache_shape("cache_last_channel", inputs[2]),
                self._cache_shape("cache_last_time", inputs[3]),
            ),
            batch=self._batch(inputs),
        )

    def _refuse(self, field: str, problem: str, expected: str) -> None:
        raise BundleIncompatible(
            problem, file=self._backend.source, field=field, expected=expected, remedy=_REMEDY
        )

    def _check_tensors(self, role: str, tensors: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
        count = len(tensors)
        if count < 5 or (role == "input" and count > 5):
            self._refuse(f"{role}s", f"there are {count}", "5" if role == "input" else "5 or more")
        names = [tensor.name for tensor in tensors]
        if len(set(names)) != count or "" in names:
            self._refuse(f"{role}s", "have equal or empty names", "distinct names")
        # Not strict: outputs after the fifth are nobody's business.
        for tensor, (dtype, rank) in zip(tensors, _EXPECTED, strict=False):
            shape = list(tensor.shape)
            if tensor.dtype != dtype or len(shape) != rank:
                self._refuse(tensor.name, f"is {tensor.dtype} {shape}", f"{dtype} of rank {rank}")
            if any(isinstance(dim, int) and dim < 1 for dim in shape):
                self._refuse(tensor.name, f"is {shape}", "positive dimensions")
        return tensors

    def _number(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        text = self._backend.metadata.get(key)
        if text is None and default is not None:
            return default
        expected = str(low) if low == high else f"a whole number from {low} to {high}"
        if text is None:
            raise BundleError(
                "is missing",
                file=self._backend.source,
                field=f"metadata {key}",
                expected=expected,
                remedy=_REMEDY,
            )
        value = int(text) if re.fullmatch("[0-9]{1,12}", text) else -1
        if not low <= value <= high:
            self._refuse(f"metadata {key}", f"is {text[:40]!r}", expected)
        return value

    def _windows(
        self, frames: int | str, chunk_frames: tuple[int, ...], default_chunk_ms: int | None
    ) -> tuple[tuple[Window, ...], Window]:
        """Every window size the graph may be run with, and the one to use by default."""
        subsampling = self._number("subsampling_factor", 1, MAX_SUBSAMPLING)
        size = self._number("window_size", 1, MAX_CHUNK_FRAMES)
        own = Window(size, self._number("chunk_shift", 1, size))
        if isinstance(frames, int) and frames != size:
            self._refuse("metadata window_size", f"is {size}", f"{frames} as in audio_signal")
        if own.overlap or isinstance(frames, int):  # such a graph was made for its one window
            if set(chunk_frames) - {own.shift}:
                self._refuse("chunk_frames", f"are {list(chunk_frames)}", f"{own.shift} only")
            return (own,), own
        windows = tuple(Window(n, n) for n in sorted(set(chunk_frames) or {own.shift}))
        for window in windows:
            if window.size % subsampling:
                self._refuse("chunk_frames", f"hold {window.size}", f"multiples of {subsampling}")
        by_ms = {window.chunk_ms: window for window in windows}
        default = by_ms.get(default_chunk_ms or own.chunk_ms, windows[-1])
        return windows, default

    def _frontend(self, chosen: str | None) -> str:
        declared = self._backend.metadata.get("frontend")
        name = chosen or declared or "nemo_exact"
        if declared and declared != name:
            self._refuse("metadata frontend", f"is {declared[:40]!r}", name)
        if name not in FRONTENDS:
            self._refuse("metadata frontend", f"is {name[:40]!r}", " or ".join(FRONTENDS))
        return name

    def _cache_shape(self, key: str, tensor: TensorSpec) -> Shape:
        dims = tensor.shape[1:]
        named = tuple(
            self._number(f"{key}_dim{i}", 1, MAX_CACHE_VALUES) for i in range(1, len(dims) + 1)
        )
        if any(isinstance(dim, int) and dim != size for dim, size in zip(dims, named, strict=True)):
            self._refuse(f"metadata {key}_dim1..3", f"are {list(named)}", f"{list(dims)}")
        if prod(named) > MAX_CACHE_VALUES:
            self._refuse(tensor.name, f"holds {prod(named)} values", f"at most {MAX_CACHE_VALUES}")
        return named

    def _batch(self, inputs: Sequence[TensorSpec]) -> int | None:
        fixed = {dim for tensor in inputs if isinstance(dim := tensor.shape[0], int)}
        if len(fixed) > 1:
            self._refuse("inputs", f"have batch sizes {sorted(fixed)}", "one")
        return fixed.pop() if fixed else None
