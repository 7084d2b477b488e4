"""Whether a staged model may run: it says what the float model said, in time, in this memory.

A bundle's `goldens.npz` holds a stream and the float model's answers to it.  A bundle without one
has at least to run: on silence and on noise, giving numbers.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.bundle import FRAME_MS
from edge_runtime.engine import Engine
from edge_runtime.errors import BundleError
from edge_runtime.goldens import Goldens, compare
from edge_runtime.ota.settings import SelfTest
from edge_runtime.recognizer import Recognizer

WARM_UP, STEPS = 3, 20  # of those that are timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the test found."""

    agreement: float | None  # share of frames with the float model's best token; None: no goldens
    real_time_factor: float  # median step
    memory_bytes: int  # of the process

    def __str__(self) -> str:
        agreed = "no goldens" if self.agreement is None else f"{self.agreement:.1%} agree"
        return f"{agreed}, real-time factor {self.real_time_factor:.3f}"


def self_test(recognizer: Recognizer, rules: SelfTest) -> Result:
    """Raises BundleError, saying what failed and by how much, or BackendError."""
    bundle, engine = recognizer.bundle, recognizer.engine
    file = bundle.goldens_file()
    goldens = Goldens.load(file) if file else None
    agreement = None
    if goldens is not None and goldens.chunk_frames in {w.shift for w in engine.spec.windows}:
        agreement = compare(engine.backend, goldens).argmax
        if agreement < rules.least_agreement:
            raise BundleError(
                f"{agreement:.1%} of the best tokens are the float model's",
                file=str(file),
                expected=f"{rules.least_agreement:.1%} or more",
            )
    speed = _real_time_factor(engine, recognizer.chunk_ms)
    if speed > rules.most_real_time_factor:
        raise BundleError(
            f"a second of audio takes {speed:.2f} s",
            file=str(bundle.path),
            expected=f"{rules.most_real_time_factor:g} s at most",
        )
    memory = resident_bytes()
    if rules.most_memory_bytes and memory > rules.most_memory_bytes:
        raise BundleError(
            f"the process takes {memory / 1e6:.0f} MB",
            file=str(bundle.path),
            expected=f"{rules.most_memory_bytes / 1e6:.0f} MB at most",
        )
    return Result(agreement=agreement, real_time_factor=speed, memory_bytes=memory)


def resident_bytes() -> int:
    """Memory of this process; 0 where /proc does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _real_time_factor(engine: Engine, chunk_ms: int) -> float:
    """On silence, then on noise; a session raises BackendError for NaN."""
    window = engine.window(chunk_ms)
    session = engine.session(chunk_frames=window.shift)
    took = []
    for step in range(WARM_UP + STEPS):
        session.push(_features(step, window.size if not step else window.shift, engine))
        start = perf_counter()
        session.step()
        took.append(perf_counter() - start)
    return statistics.median(took[WARM_UP:]) / (window.shift * FRAME_MS / 1000)


def _features(step: int, frames: int, engine: Engine) -> NDArray[np.float32]:
    """Log-mel-like: silence first, noise after it."""
    shape = (frames, engine.spec.feature_dim)
    if step <= WARM_UP:
        return np.full(shape, -16.0, np.float32)
    return np.random.default_rng(step).normal(-8, 3, shape).astype(np.float32)
