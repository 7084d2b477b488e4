"""Golden streams for engines of one GPU: noise for want of speech, every chunk size, and timing."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import Backend
from edge_runtime.contract.bundle import GOLDENS_NAME
from edge_runtime.errors import BundleError
from edge_runtime.goldens import Agreement, Goldens, compare, record
from edge_runtime.modelspec import ModelSpec

__all__ = ["Agreement", "Goldens", "compare", "noise", "record", "streams", "time_steps"]

NOISE_ARGMAX = 0.9  # least agreement on noise, where no token is sure


def noise(frames: int, chunk: int, seed: int = 0) -> NDArray[np.float32]:
    """Windows [n, 80, chunk] of log-mel-like noise, loud and quiet by turns: for want of speech."""
    rng = np.random.default_rng(seed)
    count = frames // chunk
    stream = rng.normal(-8, 3, (80, count * chunk)).astype(np.float32)
    stream += 3 * np.sin(np.arange(count * chunk, dtype=np.float32) / 40)
    return np.ascontiguousarray(stream.reshape(80, count, chunk).transpose(1, 0, 2))


def streams(
    goldens: Goldens | None, reference: Backend, spec: ModelSpec, chunks: Sequence[int]
) -> dict[int, Goldens]:
    """For every chunk size, one stream and what the float graph says to it; noise without goldens.

    Raises BundleError for goldens of another model.
    """
    windows = {window.shift: window for window in spec.windows}
    rows = [shape[1:] for shape in spec.input_shapes(1, spec.default_window)[2:]]
    if goldens is None:
        window = spec.default_window
        goldens = record(reference, noise(1600, window.size), rows, window.shift)
    if [state.shape for state in goldens.states] != rows:
        raise BundleError(
            "are of another model", file=GOLDENS_NAME, remedy="take those of this bundle"
        )
    return {
        chunk: goldens
        if chunk == goldens.chunk_frames
        else goldens.in_chunks_of(windows[chunk].size, reference)
        for chunk in chunks
    }


def time_steps(
    backend: Backend, goldens: Goldens, batch: int = 1, *, steps: int = 200, warm_up: int = 50
) -> dict[str, float]:
    """Milliseconds per step, p50, p95 and p99, from features written to log-probabilities there."""
    binding = backend.bind(goldens.shapes(batch))
    took = []
    for i in range(warm_up + steps):
        window = goldens.features[i % goldens.steps]
        start = perf_counter()
        binding.features[:] = window
        binding.run()
        took.append((perf_counter() - start) * 1000)
    p50, p95, p99 = np.percentile(took[warm_up:], (50, 95, 99))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
