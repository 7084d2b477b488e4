"""What difference a set can show, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotrain_cloud.gate.compare import (
    Array,
    Blocks,
    effective_blocks,
    finite,
    student_quantile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """How a challenger differs from its champion, before there is one.

    `churn`: share of the champion's errors that a retrained model of equal quality makes good,
    making as many new ones.  `effect`: standard deviation over speakers of the relative change.
    """

    churn: float = 0.4
    effect: float = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What a set can show."""

    detectable: float  # relative difference found at `power`; infinite if none would be
    power: float
    level: float
    wer: float  # of the champion
    blocks: int
    effective_blocks: float
    words: int

    def to_json(self) -> dict[str, Any]:
        return {
            "detectable": finite(self.detectable),
            "power": self.power,
            "level": self.level,
            "wer": self.wer,
            "blocks": self.blocks,
            "effective_blocks": self.effective_blocks,
            "words": self.words,
        }


def detectable(
    words: Sequence[float] | Array,
    errors: Sequence[float] | Array,
    *,
    level: float = 0.05,
    power: float = 0.8,
    assumptions: Assumptions = Assumptions(),
    before: Blocks | None = None,
) -> Power:
    """The relative difference that a set detects, from the champion's own errors per speaker.

    The variance of a speaker's difference is that of the errors that come and go, as many words as
    `churn` says, and of the speaker's own effect.  With `before`, an earlier pair of models on this
    set, both are measured instead of assumed.

    For superiority it is the improvement that will be seen; for non-inferiority the margin that two
    equal models can prove: the same number.
    """
    n, e = np.asarray(words, np.float64), np.asarray(errors, np.float64)
    n, e = n[n > 0], e[n > 0]
    if len(n) < 2 or not e.sum():
        rate = float(e.sum() / n.sum()) if n.sum() else math.nan
        return Power(
            detectable=math.inf, power=power, level=level, wer=rate, blocks=len(n),
            effective_blocks=effective_blocks(n) if len(n) else 0.0, words=int(n.sum()),
        )  # fmt: skip
    total = n.sum()
    if before is not None:
        change = before.challenger - before.champion
        residual = change - change.sum() / before.words.sum() * before.words
        count = len(change)
        per_block = np.square(residual).sum() * count / (count - 1) / before.words.sum() ** 2
        variance = per_block * (before.words.sum() / total)  # a set twice as large: half of it
    else:
        variance = np.sum(2 * assumptions.churn * e + (assumptions.effect * e) ** 2) / total**2
    freedom = max(1.0, effective_blocks(n) - 1)
    needed = student_quantile(1 - level, freedom) + student_quantile(power, freedom)
    rate = float(e.sum() / total)
    return Power(
        detectable=float(needed * np.sqrt(variance) / rate),
        power=power,
        level=level,
        wer=rate,
        blocks=len(n),
        effective_blocks=effective_blocks(n),
        words=int(total),
    )
