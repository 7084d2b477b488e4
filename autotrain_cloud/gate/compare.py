"""Two error rates over the same recordings, and how much of their difference may be chance.

Utterances of one speaker are not independent: a model that suits a voice is better at all of its
utterances.  So speakers (or devices) are the blocks that are resampled, in pairs (Liu & Peng,
arXiv:1912.09508).  With few of them the plain block bootstrap still promotes too often; here

* the standard error is that of the jackknife over blocks (CR3: Bell & McCaffrey 2002), which does
  not let a large block hide behind its own leverage;
* a bound is the more careful one of two: bootstrap-t over blocks (Efron 1981), which knows about
  skewness, and Student's t with the effective number of blocks less one (Carter, Schnepel &
  Steigerwald 2017), which knows about few and unequal ones.

`benchmarks/gate.py` measures what comes of it.  What is left above the level is skewness: where a
few speakers get much worse and many a little better, a sample that happens to have few of the
former has too low a mean and too low an error, and nothing in it says so (Hall 1992).

All differences are the challenger's errors less (1 + margin) times the champion's, per word of the
reference: below zero the challenger is better, or not worse by the margin.  A relative margin
inside the statistic needs no known error rate of the champion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.metrics import ErrorCounts

Array = NDArray[np.float64]

DRAWS = 4000
_AT_ONCE = 1 << 22  # weights held in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Errors of both models, summed over each speaker or device: vectors of one length, [K]."""

    names: tuple[str, ...]
    words: Array  # of the references
    champion: Array  # errors
    challenger: Array

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, ErrorCounts, ErrorCounts]]) -> Blocks:
        """From `(block, champion, challenger)` of each utterance."""
        sums: dict[str, list[int]] = {}
        for name, champion, challenger in pairs:
            one = sums.setdefault(name, [0, 0, 0])
            one[0] += champion.reference_length
            one[1] += champion.errors
            one[2] += challenger.errors
        table = np.array([sums[name] for name in sorted(sums)], np.float64).reshape(-1, 3)
        return cls(
            names=tuple(sorted(sums)),
            words=table[:, 0],
            champion=table[:, 1],
            challenger=table[:, 2],
        )

    @property
    def wer(self) -> tuple[float, float]:
        """Of the champion and of the challenger, pooled; NaN without words."""
        total = self.words.sum()
        if not total:
            return math.nan, math.nan
        return float(self.champion.sum() / total), float(self.challenger.sum() / total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the blocks say about `challenger - (1 + margin) * champion`."""

    champion: float  # WER
    challenger: float
    margin: float  # relative
    level: float  # one-sided, of `low` and `high`
    difference: float  # WER of the challenger less the champion's, without the margin
    low: float  # bounds on `difference`, each one-sided
    high: float
    p: float  # of seeing this if the challenger were worse by the margin; small: it is not
    worse_p: float  # of seeing this if the challenger were no worse at all; small: it is worse
    blocks: int
    effective_blocks: float
    words: int

    @property
    def passed(self) -> bool:
        return self.p < self.level

    @property
    def relative(self) -> float:
        """Difference as a share of the champion's WER; NaN where that is 0."""
        return self.difference / self.champion if self.champion else math.nan

    def to_json(self) -> dict[str, Any]:
        return {
            "wer": {"champion": self.champion, "challenger": self.challenger},
            "difference": self.difference,
            "relative": finite(self.relative),
            "interval": [finite(self.low), finite(self.high)],
            "level": self.level,
            "margin": self.margin,
            "p": self.p,
            "worse_p": self.worse_p,
            "blocks": self.blocks,
            "effective_blocks": self.effective_blocks,
            "words": self.words,
        }


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def compare(
    blocks: Blocks, *, margin: float = 0.0, level: float = 0.05, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """The comparison; the same for the same seed.

    Raises ValueError with fewer than two blocks, or without words.
    """
    words, champion, challenger = blocks.words, blocks.champion, blocks.challenger
    if len(words) < 2 or not words.sum():
        raise ValueError("needs words of at least two speakers")
    drawn = (draws, seed)
    shifted = _Statistic.of(challenger - (1 + margin) * champion, words, *drawn)
    plain = shifted if not margin else _Statistic.of(challenger - champion, words, *drawn)
    before, after = blocks.wer
    return Comparison(
        champion=before,
        challenger=after,
        margin=margin,
        level=level,
        difference=plain.value,
        low=plain.lower(level),
        high=plain.upper(level),
        # Where nobody makes an error nobody is worse.
        p=shifted.p_below() if champion.any() or challenger.any() or not margin else 0.0,
        worse_p=plain.p_above(),
        blocks=len(words),
        effective_blocks=effective_blocks(words),
        words=int(words.sum()),
    )


def effective_blocks(words: Array) -> float:
    """How many equal blocks carry as much information as these unequal ones."""
    return float(len(words) / (1 + words.var() / words.mean() ** 2))


def _weights(blocks: int, draws: int, seed: int) -> Iterable[Array]:
    """How often each block is drawn, [draws, K] in chunks; the same for every statistic."""
    if blocks * draws <= _AT_ONCE:
        return _kept_weights(blocks, draws, seed)
    return _drawn_weights(blocks, draws, seed)


def _drawn_weights(blocks: int, draws: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // blocks)
    for first in range(0, draws, step):
        count = min(step, draws - first)
        share = np.full(blocks, 1 / blocks)
        yield rng.multinomial(blocks, share, size=count).astype(np.float64)


@lru_cache(maxsize=2)
def _kept_weights(blocks: int, draws: int, seed: int) -> tuple[Array, ...]:
    return tuple(_drawn_weights(blocks, draws, seed))


@dataclass(frozen=True, slots=True)
class _Statistic:
    """A ratio of sums over blocks, its standard error, and both distributions of their quotient."""

    value: float
    error: float  # standard; 0 if all blocks agree exactly
    freedom: float
    drawn: Array = field(repr=False)  # (value* - value) / error* of every draw, ascending

    @classmethod
    def of(cls, change: Array, words: Array, draws: int, seed: int) -> _Statistic:
        count, total = len(words), words.sum()
        value = float(change.sum() / total)
        residual = change - value * words
        leverage = np.minimum(words / total, 1 - 1e-9)
        variance = (count - 1) / count * np.square(residual / (1 - leverage)).sum() / total**2
        drawn = []
        squares, products, sizes = change * change, change * words, words * words
        for drawn_weights in _weights(count, draws, seed):
            n = np.maximum(drawn_weights @ words, 1e-9)  # draws of nobody who said a word
            ratio = drawn_weights @ change / n
            spread = (
                drawn_weights @ squares
                - 2 * ratio * (drawn_weights @ products)
                + ratio**2 * (drawn_weights @ sizes)
            )
            error = np.sqrt(np.maximum(spread, 0) * count / (count - 1)) / n
            # One block drawn K times has no spread: such a draw counts against whoever asks.
            with np.errstate(divide="ignore", invalid="ignore"):
                drawn.append(np.where(error > 1e-15, (ratio - value) / error, np.nan))
        return cls(
            value,
            float(np.sqrt(variance)) if variance > 1e-24 else 0.0,
            max(1.0, effective_blocks(words) - 1),
            np.sort(np.concatenate(drawn)),
        )

    def p_below(self) -> float:
        """Of a value this low or lower if the truth were 0."""
        if not self.error:
            return 0.0 if self.value < 0 else 1.0
        t = self.value / self.error
        beyond = np.count_nonzero((self.drawn <= t) | np.isnan(self.drawn))
        return max(_student(t, self.freedom), (int(beyond) + 1) / (len(self.drawn) + 1))

    def p_above(self) -> float:
        """Of a value this high or higher if the truth were 0."""
        mirrored = _Statistic(-self.value, self.error, self.freedom, np.sort(-self.drawn))
        return mirrored.p_below()

    def upper(self, level: float) -> float:
        if not self.error:
            return self.value
        worst = np.where(np.isnan(self.drawn), -np.inf, self.drawn)
        quantile = np.quantile(worst, level, method="lower")
        return self.value + self.error * max(
            -float(quantile), student_quantile(1 - level, self.freedom)
        )

    def lower(self, level: float) -> float:
        mirrored = _Statistic(-self.value, self.error, self.freedom, np.sort(-self.drawn))
        return -mirrored.upper(level)


def _student(t: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, t))


def student_quantile(share: float, freedom: float) -> float:
    """Of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def holm(p: Mapping[str, float], level: float) -> dict[str, float]:
    """The level that each p-value must be below (Holm 1979): all of them hold together at `level`.

    A name that follows one that failed gets the level 0, as the procedure stops there.
    """
    levels: dict[str, float] = {}
    stopped = False
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        levels[name] = 0.0 if stopped else level / (len(p) - rank)
        stopped = stopped or p[name] >= levels[name]
    return levels
