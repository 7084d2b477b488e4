"""Taking under quotas: the most useful that is not like what was taken already.

Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): of what still fits, take the one
with the greatest  utility · (1 − λ · similarity to the nearest taken).  With λ = 1 and equal
utilities that is the greedy k-center.  Pure numpy and deterministic: ties go to the earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.selection.embedding import Vectors


@dataclass(frozen=True, slots=True)
class Taken:
    """One that was taken."""

    index: int
    distance: float  # to the nearest taken before it, 0..1
    quota: str  # what it was counted under


def square_root_quotas(sizes: Mapping[str, float], budget: float) -> dict[str, float]:
    """The budget shared in proportion to the square roots: large slices lead, small ones live."""
    roots = {name: float(np.sqrt(size)) for name, size in sizes.items()}
    total = sum(roots.values())
    return {name: budget * root / total for name, root in roots.items()} if total else {}


def take(
    utility: NDArray[np.float64],
    points: Vectors,
    seconds: Sequence[float],
    slices: Sequence[str],
    devices: Sequence[str],
    *,
    budget_s: float,
    max_device_s: float,
    diversity: float,
) -> list[Taken]:
    """In the order of taking.  What a slice cannot fill is shared out among the others."""
    length = np.asarray(seconds, np.float64)
    names, of_slice = np.unique(np.asarray(slices, dtype=str), return_inverse=True)
    kinds, of_device = np.unique(np.asarray(devices, dtype=str), return_inverse=True)
    there = np.bincount(of_slice, length, len(names))
    quotas = square_root_quotas(dict(zip(map(str, names), there, strict=True)), budget_s)
    limit = np.array([quotas[str(name)] for name in names])
    nearest = np.zeros(len(length))  # similarity to the nearest taken
    open_ = utility > 0
    used_slice, used_device = np.zeros(len(names)), np.zeros(len(kinds))
    used = 0.0
    taken: list[Taken] = []
    for stage in ("quota", "rest"):
        while True:
            fits = open_ & (used + length <= budget_s)
            fits &= used_device[of_device] + length <= max_device_s
            if stage == "quota":
                fits &= used_slice[of_slice] + length <= limit[of_slice]
            if not fits.any():
                break
            gain = np.where(fits, utility * (1 - diversity * nearest), -1.0)
            best = int(gain.argmax())
            distance = 1.0 - float(nearest[best])
            taken.append(Taken(best, distance, stage))
            open_[best] = False
            used += length[best]
            used_slice[of_slice[best]] += length[best]
            used_device[of_device[best]] += length[best]
            nearest = np.maximum(nearest, np.clip(points @ points[best], 0.0, 1.0))
    return taken
