"""Whether the challenger's confidences mean as much as the champion's.

Everything after the gate lives on them: which segments devices send, what the monitor sees, when a
rollout halts.  A model that is surer of itself than it is right blinds all three.

How well confidences tell right words from wrong ones depends on how hard the errors are: a better
model no longer makes those that are easy to find, and its AUROC, NCE and Brier score are worse for
it.  So that is not compared; of the NCE only its being below `LEAST_NCE` counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.gate.evaluate import Outcome
from edge_runtime import confidence_metrics

MEASURES = ("ece", "nce", "overconfidence")
LEAST_NCE = 0.15  # 0: no more than the share of right words says; 1: all of it
DRAWS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Worsening:
    """Of one measure: how much worse the challenger is; below 0 it is better."""

    champion: float
    challenger: float
    value: float
    low: float  # lower bound, one-sided, over speakers; NaN where there is none


@dataclass(frozen=True, slots=True)
class _Words:
    """All words of a model, sorted by speaker."""

    confidence: NDArray[np.float64]
    right: NDArray[np.float64]
    parts: list[NDArray[np.intp]]  # where the words of each speaker are

    @classmethod
    def of(cls, blocks: Sequence[str], outcomes: Sequence[Outcome], order: Sequence[str]) -> _Words:
        owner, confidence, right = [], [], []
        for block, outcome in zip(blocks, outcomes, strict=True):
            for _, sure, is_right in outcome.words:
                owner.append(block)
                confidence.append(sure)
                right.append(is_right)
        names = np.array(owner, object)
        parts = [np.flatnonzero(names == name) for name in order]
        return cls(np.array(confidence, np.float64), np.array(right, np.float64), parts)

    def measures(self, drawn: Sequence[int] | NDArray[np.intp]) -> dict[str, float]:
        at = np.concatenate([self.parts[i] for i in drawn])
        p, y = self.confidence[at], self.right[at]
        if not len(p):
            return dict.fromkeys(MEASURES, math.nan)
        return {
            "ece": confidence_metrics.ece(p, y),
            "nce": confidence_metrics.nce(p, y),
            "overconfidence": float(p.mean() - y.mean()),
        }


def worsenings(
    blocks: Sequence[str],
    champion: Sequence[Outcome],
    challenger: Sequence[Outcome],
    allowed: Mapping[str, float],
    *,
    level: float = 0.05,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Worsening]:
    """By measure; if one is worse by more than is `allowed`, all have bounds.

    These are from a bootstrap over speakers, drawn in pairs, which takes seconds.

    `overconfidence` is the mean confidence less the share of right words; only its being above 0
    counts, since doubt costs uploads where certainty costs errors.
    """
    order = sorted(set(blocks))
    both = [_Words.of(blocks, outcomes, order) for outcomes in (champion, challenger)]
    found = [_found(both, range(len(order)))]
    rng = np.random.default_rng(seed)
    point = {name: _worse(name, found[0][0][name], found[0][1][name]) for name in MEASURES}
    if any(point[name] > allowed[name] for name in MEASURES):
        found += [_found(both, rng.integers(len(order), size=len(order))) for _ in range(draws)]
    result = {}
    for name in MEASURES:
        before, after = found[0][0][name], found[0][1][name]
        changes = np.array([_worse(name, a[name], b[name]) for a, b in found])
        drawn = changes[1:][np.isfinite(changes[1:])]
        low = float(np.quantile(drawn, level)) if len(drawn) else math.nan
        result[name] = Worsening(
            champion=before, challenger=after, value=float(changes[0]), low=low
        )
    return result


def _found(
    both: Sequence[_Words], drawn: Sequence[int] | NDArray[np.intp]
) -> tuple[dict[str, float], dict[str, float]]:
    return both[0].measures(drawn), both[1].measures(drawn)


def _worse(name: str, before: float, after: float) -> float:
    if name == "overconfidence":
        return max(after, 0.0) - max(before, 0.0)
    if name == "nce":
        return max(LEAST_NCE - after, 0.0) - max(LEAST_NCE - before, 0.0)
    return after - before
