"""The fleet's word error rate, from segments that were uploaded with known probabilities.

What devices upload is not like what they hear: they send what they are unsure of. Every segment is
therefore weighted with the inverse of its probability of being sent (Horvitz & Thompson, 1952).

The teacher's transcript of every segment gives its *disagreement* with the device, which is not an
error rate: the teacher errs too. Where people have checked some segments, chosen at random with
known probabilities, the disagreement of all is corrected by what they found in those
(prediction-powered inference, arXiv:2301.09633), to the degree that it helps (PPI++,
arXiv:2311.01453): the estimate is then of the true rate, whatever the teacher's faults, and at
least about as precise as the checked segments alone.

Utterances of a device resemble one another. The interval comes from drawing whole devices anew
(arXiv:1912.09508) and looking at the estimate in units of its own standard error (bootstrap-t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_DEVICES = 5  # fewer say nothing about how devices differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A segment whose hypothesis has been compared with transcripts; counts are of words."""

    device: str
    inclusion_probability: float  # that it was sent
    teacher_errors: int  # substitutions, deletions, insertions against the teacher's transcript
    teacher_words: int  # of that transcript
    human_errors: int | None = None  # the same against a person's
    human_words: int | None = None
    human_probability: float = 1.0  # that a segment like it, once sent, was given to a person

    def __post_init__(self) -> None:
        for name in ("inclusion_probability", "human_probability"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: above 0, at most 1, not {getattr(self, name)}")
        if (self.human_errors is None) != (self.human_words is None):
            raise ValueError("human_errors, human_words: both or none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A rate, and where it lies with the given confidence."""

    basis: Literal["human", "agreement"]  # word error rate, or only disagreement with the teacher
    rate: float
    low: float | None  # none: too few devices for an honest interval
    high: float | None
    confidence: float
    devices: int
    segments: int
    checked: int  # by people
    effective_segments: float  # as many equally weighted ones would be as precise (Kish)
    trust: float  # how much the teacher's disagreement was used, 0 to 1
    text: str  # all this in words


def estimate_wer(
    records: Sequence[Scored], *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> Estimate | None:
    """-> the estimate, or `None` where there is no word to go by.

    Raises ValueError for a confidence outside of 0..1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: 0 to 1, not {confidence}")
    names = sorted({record.device for record in records})
    sums = _sums(records, names)
    checked = sum(record.human_words is not None for record in records)
    checked_devices = len({r.device for r in records if r.human_words is not None})
    enough = checked_devices >= LEAST_DEVICES or (checked > 0 and len(names) < LEAST_DEVICES)
    basis: Literal["human", "agreement"] = "human" if enough else "agreement"
    rates, errors, trusts = _solve(sums, np.ones((1, len(names))), basis)
    rate = float(rates[0])
    if not math.isfinite(rate):
        return None
    low = high = None
    if len(names) >= LEAST_DEVICES:
        low, high = _interval(sums, basis, rate, float(errors[0]), confidence, draws, seed)
    weights = np.array([1 / record.inclusion_probability for record in records])
    effective = float(weights.sum() ** 2 / np.sum(weights**2))
    return Estimate(
        basis=basis, rate=max(0.0, rate), low=low, high=high, confidence=confidence,
        devices=len(names), segments=len(records), checked=checked,
        effective_segments=effective, trust=float(trusts[0]),
        text=_text(basis, rate, low, high, confidence, len(names), len(records), checked),
    )  # fmt: skip


# Columns of the sums: weighted errors and words, by the teacher in all segments, by people in the
# checked ones, and by the teacher in these.
_ALL, _HUMAN, _CHECKED = slice(0, 2), slice(2, 4), slice(4, 6)
_WEIGHT_ALL, _WEIGHT_CHECKED = 6, 7


def _sums(records: Sequence[Scored], names: Sequence[str]) -> Floats:
    """f64 [devices, 8]"""
    rows = {name: row for row, name in enumerate(names)}
    sums = np.zeros((len(names), 8))
    for record in records:
        row = sums[rows[record.device]]
        weight = 1 / record.inclusion_probability
        teacher = np.array([record.teacher_errors, record.teacher_words], float)
        row[_ALL] += weight * teacher
        row[_WEIGHT_ALL] += weight
        if record.human_words is not None:
            weight /= record.human_probability
            row[_HUMAN] += weight * np.array([record.human_errors, record.human_words], float)
            row[_CHECKED] += weight * teacher
            row[_WEIGHT_CHECKED] += weight
    return sums


def _solve(sums: Floats, counts: Floats, basis: str) -> tuple[Floats, Floats, Floats]:
    """-> rates, their standard errors, and trust; f64 [n] each.

    sums: f64 [devices, 8]; counts: f64 [n, devices], how often each device was drawn. Rates are NaN
    or infinite where there are no words. Errors are linearised and between devices.
    """
    totals = counts @ sums

    def means(columns: slice, weight: int, rate: Floats) -> Floats:
        """By how much each device's mean of errors - rate * words differs; f64 [n, devices]."""
        errors, words = sums[:, columns].T
        scores = errors[None, :] - rate[:, None] * words[None, :]
        mean = np.sum(counts * scores, axis=1) / totals[:, weight]
        found: Floats = (scores - mean[:, None] * sums[None, :, weight]) / totals[:, weight, None]
        return found

    devices = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        every = totals[:, _ALL] / totals[:, _WEIGHT_ALL, None]
        if basis == "agreement":
            ratio, trust = every, np.ones(len(counts))
            rates = ratio[:, 0] / ratio[:, 1]
            scores = means(_ALL, _WEIGHT_ALL, rates)
        else:
            # The error is, to first order, a sum over devices of human + trust * teacher: the best
            # trust is a regression of the one on the other.
            rates = totals[:, 2] / totals[:, 3]
            human = means(_HUMAN, _WEIGHT_CHECKED, rates)
            teacher = means(_ALL, _WEIGHT_ALL, rates) - means(_CHECKED, _WEIGHT_CHECKED, rates)
            slope = -np.sum(counts * human * teacher, axis=1) / np.sum(counts * teacher**2, axis=1)
            trust = np.clip(np.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0), 0, 1)
            # Both weights add up to the utterances there were, but only on average, so each mean is
            # divided by its own.
            rest = totals[:, _HUMAN] - trust[:, None] * totals[:, _CHECKED]
            ratio = trust[:, None] * every + rest / totals[:, _WEIGHT_CHECKED, None]
            rates = ratio[:, 0] / ratio[:, 1]
            teacher = means(_ALL, _WEIGHT_ALL, rates) - means(_CHECKED, _WEIGHT_CHECKED, rates)
            scores = means(_HUMAN, _WEIGHT_CHECKED, rates) + trust[:, None] * teacher
        variance = np.sum(counts * scores**2, axis=1) * devices / (devices - 1)
        errors = np.sqrt(variance) / ratio[:, 1]
    return rates, errors, trust


def _interval(
    sums: Floats, basis: str, rate: float, error: float, confidence: float, draws: int, seed: int
) -> tuple[float, float]:
    """Bootstrap-t: it follows the skew that percentiles miss where few devices weigh much."""
    count = len(sums)
    rng = np.random.default_rng(seed)
    found = []
    size = max(1, 1_000_000 // count)  # bounds the memory
    for start in range(0, draws, size):
        many = min(size, draws - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=many).astype(float)
        rates, errors, _ = _solve(sums, drawn, basis)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append((rates - rate) / errors)
    ratios = np.concatenate(found)
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):  # every device has the same rate
        return rate, rate
    tail = (1 - confidence) / 2
    below, above = np.quantile(ratios, [tail, 1 - tail])
    return max(0.0, rate - float(above) * error), max(0.0, rate - float(below) * error)


def _text(
    basis: str,
    rate: float,
    low: float | None,
    high: float | None,
    confidence: float,
    devices: int,
    segments: int,
    checked: int,
) -> str:
    what = "Word error rate" if basis == "human" else "Disagreement with the teacher"
    where = f"{segments} segments of {devices} devices, {checked} checked by people"
    if low is None or high is None:
        return f"{what} {rate:.1%} ({where}; too few devices for an interval)."
    return f"{what} {rate:.1%}, {confidence:.0%} interval {low:.1%} to {high:.1%} ({where})."
