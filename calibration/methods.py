"""From a histogram of magnitudes to a range: the magnitude that becomes 127.

A smaller range rounds finer and cuts more.  Which of these is best for a network is found out by
measuring the network (`calibration.compare`), not by taste.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import BINS, Histogram

LEVELS = 127  # magnitudes above zero that eight bits tell apart


def greatest(histogram: Histogram) -> float:
    """Nothing is cut."""
    return histogram.greatest


def percentile(share: float) -> Callable[[Histogram], float]:
    """The least magnitude with at most 1 - `share` of the values above it."""

    def find(histogram: Histogram) -> float:
        below = np.cumsum(histogram.counts)
        edge = int(np.searchsorted(below, share * below[-1])) + 1
        return min(histogram.greatest, edge * histogram.limit / BINS)

    return find


def squared_error(histogram: Histogram) -> float:
    """The range with the least mean squared error of rounding and cutting together."""
    centres, counts = histogram.centres, histogram.counts
    best, least = histogram.greatest, np.inf
    for share in np.geomspace(0.02, 1.0, 160):
        limit = float(share * histogram.greatest)
        cut = np.maximum(centres - limit, 0.0)
        rounded = counts[centres <= limit].sum() * (limit / LEVELS) ** 2 / 12
        error = rounded + (counts * cut**2).sum()
        if error < least:
            best, least = limit, error
    return best


def divergence(histogram: Histogram) -> float:
    """The range whose quantised distribution diverges least from the real one.

    Kullback-Leibler calibration (Migacz, GTC 2017), made for activations that follow a ReLU.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = 0.0  # a spike at zero would decide alone
    if not counts.any():
        return histogram.greatest
    last = int(np.flatnonzero(counts)[-1]) + 1
    best, least = last, np.inf
    for stop in range(min(LEVELS + 1, last), last + 1, 8):
        real = counts[:stop].copy()
        real[-1] += counts[stop:].sum()
        # Every level shares its count among those of its bins that have any.
        level = np.arange(stop) * (LEVELS + 1) // stop
        filled = counts[:stop] > 0
        sums = np.bincount(level, counts[:stop], LEVELS + 1)
        bins = np.bincount(level, filled, LEVELS + 1)
        coarse = np.where(filled, (sums / np.maximum(bins, 1))[level], 0.0)
        if not coarse.sum():
            continue
        p, q = real / real.sum(), coarse / coarse.sum()
        both = (p > 0) & (q > 0)
        missed = p[(p > 0) & (q == 0)].sum()
        diverged = float((p[both] * np.log(p[both] / q[both])).sum()) + missed * 20.0
        if diverged < least:
            best, least = stop, diverged
    return min(histogram.greatest, best * histogram.limit / BINS)


METHODS: Mapping[str, Callable[[Histogram], float]] = {
    "max": greatest,
    "p99.9": percentile(0.999),
    "p99.99": percentile(0.9999),
    "p99.999": percentile(0.99999),
    "mse": squared_error,
    "kl": divergence,
}


def quantised(
    weight: NDArray[np.float32], levels: int = LEVELS
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """f32 [inputs, outputs] -> int8 of the same shape within ±levels, and every output's step."""
    steps = (np.abs(weight).max(axis=0) / levels).astype(np.float32)
    steps[steps == 0] = 1.0
    return np.round(weight / steps).astype(np.int8), steps
