"""Fair timing: what is compared runs alternately, so that what disturbs one disturbs the other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def alternate(systems: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """A B B A A B …: each system `repeats` times, in an order that turns round."""
    found: dict[str, list[T]] = {name: [] for name in systems}
    for i in range(repeats):
        for name in list(systems)[:: -1 if i % 2 else 1]:
            found[name].append(systems[name]())
    return found


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of neighbours in time, which share whatever disturbed them."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
