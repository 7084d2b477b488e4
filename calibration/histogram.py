"""Magnitudes of a tensor over a whole calibration, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048
_LEAST_LIMIT = 1e-20  # below it float32 has no number for bins per unit


@dataclass(slots=True)
class Histogram:
    """Counts of |x| in `BINS` equal bins over [0, limit); the limit doubles when it must.

    Doubling joins neighbouring bins, so counts stay exact, and only the first value decides the
    resolution: at least `BINS` / 2 bins lie below the greatest magnitude seen.
    """

    limit: float = 0.0  # 0: nothing but zeros so far
    low: float = 0.0
    high: float = 0.0
    zeros: int = 0  # seen before there was a limit
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Any shape; must be finite."""
        self.low = min(self.low, float(values.min(initial=0.0)))
        self.high = max(self.high, float(values.max(initial=0.0)))
        if not self.greatest:
            self.zeros += values.size
            return
        if not self.limit:
            self.limit = max(self.greatest * (1 + 1e-6), _LEAST_LIMIT)
            self.counts[0] += self.zeros
            self.zeros = 0
        while self.limit <= self.greatest:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([pairs, np.zeros(BINS // 2, np.int64)])
            self.limit *= 2
        place = (np.abs(values).ravel() * (BINS / self.limit)).astype(np.int64)
        # A magnitude just below the limit may round up to it.
        self.counts += np.bincount(np.minimum(place, BINS - 1), minlength=BINS)

    @property
    def greatest(self) -> float:
        """The greatest magnitude."""
        return max(self.high, -self.low)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Magnitudes in the middle of the bins."""
        return np.asarray((np.arange(BINS) + 0.5) * (self.limit / BINS), np.float64)

    def beyond(self, magnitude: float) -> float:
        """Share of the values in the bins that lie wholly above `magnitude`."""
        total = self.counts.sum()
        if not total:
            return 0.0
        first = int(np.ceil(magnitude * (BINS / self.limit)))
        return float(self.counts[first:].sum() / total)
