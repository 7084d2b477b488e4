"""What is usual for a device with a model: learnt in a warm-up, then frozen.

A device is compared with itself, so that neither differences between devices nor which of them
happen to report look like a change. `centre` is its mean in the warm-up. An observation is the
distance from that, turned so that more is better, and cut off above at `top`: what is far above
the usual then cannot take much of a bet, so bets may be larger. Cutting off shifts the mean; hence
the mean of observations, not `centre`, is what later ones are held against.

It is an estimate. How far it may be wrong, `error`, is known, and the null hypothesis is about its
lower bound; over the devices of a slice the errors average out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOP = 0.1  # above the centre


@dataclass(frozen=True, slots=True)
class Statistic:
    """Something that is watched: a mean between 0 and 1."""

    name: str  # field of a block
    sign: int  # 1: falling is bad, -1: rising is
    title: str


STATISTICS = (
    Statistic("confidence", 1, "mean confidence"),
    Statistic("wanted", -1, "share that devices want to upload"),
)


@dataclass(frozen=True, slots=True)
class Usual:
    """Of one size of observations."""

    mean: float
    error: float  # variance of that mean
    count: int  # observations it was made of


@dataclass(frozen=True, slots=True)
class Centre:
    """Of one statistic."""

    value: float  # 0 to 1
    top: float  # what an observation is at most
    look: Usual  # all of a look as one observation
    block: Usual  # block by block

    def observation(self, statistic: Statistic, value: float) -> float:
        """-1 to `top`; more is better."""
        return min(statistic.sign * (value - self.value), self.top)


class Sums(Protocol):
    """What a baseline is made of."""

    @property
    def utterances(self) -> int: ...

    def mean(self, statistic: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Baseline:
    """Of a device with a model."""

    centres: Mapping[str, Centre]  # by statistic

    @classmethod
    def learnt(cls, blocks: Sequence[Sums], looks: Sequence[Sums], *, full: int) -> Baseline:
        """From the blocks of the warm-up, and the same by looks."""
        centres = {}
        for statistic in STATISTICS:
            counts = np.array([look.utterances for look in looks], float)
            values = np.array([look.mean(statistic.name) for look in looks])
            centre = float(np.average(values, weights=counts))
            # A share cannot lie further above the centre than its end: that bounds it too.
            room = 1 - centre if statistic.sign > 0 else centre
            bare = Centre(centre, min(TOP, room), Usual(0, 0, 0), Usual(0, 0, 0))
            centres[statistic.name] = Centre(
                centre,
                bare.top,
                _usual(bare, statistic, looks, full),
                _usual(bare, statistic, blocks, full),
            )
        return cls(centres)


def weight(utterances: int, full: int) -> float:
    """Of an observation: that of a full one is 1."""
    return min(1.0, utterances / full)


def _usual(centre: Centre, statistic: Statistic, blocks: Sequence[Sums], full: int) -> Usual:
    weights = np.array([weight(block.utterances, full) for block in blocks])
    values = np.array([centre.observation(statistic, b.mean(statistic.name)) for b in blocks])
    mean = float(np.average(values, weights=weights))
    return Usual(mean, _error(values - mean, weights), len(blocks))


def _error(residuals: Floats, weights: Floats) -> float:
    """Variance of a weighted mean, from the observations' own spread."""
    n = len(residuals)
    if n < 2:
        return 1.0
    spread = float(np.sum((weights * residuals) ** 2)) / float(np.sum(weights)) ** 2
    return spread * n / (n - 1)
