"""`goldens.npz`: what the float graph said to one continuous stream, and whether an engine agrees.

=============== ============ =====================================================================
array           shape        what
=============== ============ =====================================================================
chunk_frames    scalar       feature frames per step
features        [n, 80, T]   one stream, n windows in order
lengths         [n]          valid frames of each
state0, 1, 2    [...]        the states that the stream begins with, zero, without the batch axis
logprobs        [n, T', V]   float32, of the float graph in onnxruntime
=============== ============ =====================================================================
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import Backend, Shape
from edge_runtime.contract.bundle import GOLDENS_NAME
from edge_runtime.errors import BundleError

_ARRAYS = {"features": 3, "lengths": 1, "state0": 3, "state1": 3, "state2": 0, "logprobs": 3}
_REMEDY = "calibrate the bundle again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goldens:
    """One stream and what the float graph made of it."""

    chunk_frames: int
    features: NDArray[np.float32]  # [n, 80, T]
    lengths: NDArray[np.int64]  # [n]
    states: tuple[NDArray[Any], ...]  # of one row, zero
    logprobs: NDArray[np.float32]  # [n, T', V]

    @property
    def steps(self) -> int:
        return len(self.features)

    @classmethod
    def load(cls, source: Path | bytes) -> Goldens:
        """Reads and checks. Raises BundleError naming file and array."""
        file = str(source) if isinstance(source, Path) else GOLDENS_NAME
        try:
            content = source.read_bytes() if isinstance(source, Path) else source
            with np.load(io.BytesIO(content)) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"cannot be read: {error}", file=file, remedy=_REMEDY) from error
        for name, rank in _ARRAYS.items():
            if name not in arrays or arrays[name].ndim != rank:
                found = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
                raise BundleError(
                    found, file=file, field=name, expected=f"{rank} axes", remedy=_REMEDY
                )
        goldens = cls(
            chunk_frames=int(arrays["chunk_frames"]) if "chunk_frames" in arrays else 0,
            features=arrays["features"].astype(np.float32),
            lengths=arrays["lengths"].astype(np.int64),
            states=tuple(arrays[f"state{i}"] for i in range(3)),
            logprobs=arrays["logprobs"].astype(np.float32),
        )
        counts = {len(arrays[name]) for name in ("features", "lengths", "logprobs")}
        window = goldens.features.shape[2]
        if counts != {goldens.steps} or not 0 < goldens.chunk_frames <= window or not goldens.steps:
            raise BundleError(
                f"has {sorted(counts)} steps of {goldens.chunk_frames} frames",
                file=file,
                expected="as many of every array, and a chunk no longer than its window",
                remedy=_REMEDY,
            )
        if any(state.any() for state in goldens.states):
            raise BundleError(
                "begins within a stream", file=file, expected="zero states", remedy=_REMEDY
            )
        return goldens

    def shapes(self, batch: int) -> tuple[Shape, ...]:
        """Of a binding's inputs."""
        rows = (self.features.shape[1:], (), *(state.shape for state in self.states))
        return tuple((batch, *row) for row in rows)

    def in_chunks_of(self, frames: int, reference: Backend) -> Goldens:
        """The same sound in other windows, with what `reference` says to it.

        For graphs whose windows do not overlap; the end that fills no window is left out.
        """
        stream = np.concatenate(
            [w[:, :n] for w, n in zip(self.features, self.lengths, strict=True)], 1
        )
        count = stream.shape[1] // frames
        if not count:
            raise BundleError(
                f"has {stream.shape[1]} frames", file=GOLDENS_NAME, expected=f"{frames} or more"
            )
        windows = stream[:, : count * frames].reshape(80, count, frames).transpose(1, 0, 2)
        rows = [state.shape for state in self.states]
        return record(reference, np.ascontiguousarray(windows), rows, frames)


def record(
    backend: Backend, features: NDArray[np.float32], state_rows: Sequence[Shape], chunk: int
) -> Goldens:
    """Streams windows [n, 80, T] through a fresh stream of `backend` and keeps what it says."""
    shapes = ((1, *features.shape[1:]), (1,), *((1, *row) for row in state_rows))
    binding = backend.bind(shapes)
    states, logprobs = binding.read_state(0), []
    for window in features:
        binding.features[0] = window
        binding.lengths[0] = features.shape[2]
        logprobs.append(binding.run()[0].copy())
    return Goldens(
        chunk_frames=chunk,
        features=features,
        lengths=np.full(len(features), features.shape[2], np.int64),
        states=tuple(np.asarray(state) for state in states),
        logprobs=np.stack(logprobs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How an engine's words compare with the float graph's."""

    chunk_frames: int
    batch: int
    frames: int  # output frames compared, over all rows
    argmax: float  # share of frames with the same best token
    snr_db: float  # power of the reference over power of the difference


def compare(backend: Backend, goldens: Goldens, batch: int = 1) -> Agreement:
    """Streams the goldens through every row of a batch. The engine keeps the state.

    Raises BundleError or BackendError as the backend does, BundleError for other shapes.
    """
    binding = backend.bind(goldens.shapes(batch))
    same, frames, power, noise_power = 0, 0, 0.0, 0.0
    factor = goldens.features.shape[2] / goldens.logprobs.shape[1]
    for window, length, wanted in zip(
        goldens.features, goldens.lengths, goldens.logprobs, strict=True
    ):
        binding.features[:] = window
        binding.lengths[:] = length
        given = binding.run()
        if given.shape[1:] != wanted.shape:
            raise BundleError(
                f"are {list(given.shape[1:])}",
                file=backend.source,
                field="logprobs",
                expected=f"{list(wanted.shape)} as the goldens",
                remedy="build from the bundle that the goldens belong to",
            )
        valid = int(np.ceil(length / factor))
        for row in given[:, :valid]:
            difference = row.astype(np.float64) - wanted[:valid]
            same += int((row.argmax(1) == wanted[:valid].argmax(1)).sum())
            frames += valid
            power += float((wanted[:valid].astype(np.float64) ** 2).sum())
            noise_power += float((difference**2).sum())
    snr = 10 * np.log10(power / noise_power) if noise_power else np.inf
    return Agreement(
        chunk_frames=goldens.chunk_frames,
        batch=batch,
        frames=frames,
        argmax=same / frames,
        snr_db=float(min(snr, 200.0)) if np.isfinite(noise_power) else -200.0,  # JSON has no inf
    )
