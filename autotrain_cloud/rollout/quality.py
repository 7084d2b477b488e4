"""Whether updated devices hear worse than those that are not updated yet.

Both are measured over the same hours, each device against itself before the rollout: neither the
weather nor differences between devices then look like the release. Devices come in random order
(`Plan.bucket`), so without an effect both groups change alike, on average.

Means of small groups of updated devices are compared with means of as many groups of others; the
differences are bounded, and betting on them (`autotrain_cloud.monitor.evidence`) gives evidence
that may be looked at as often as one likes. One unit is staked in all: part of it anew in each
stage, so that what shows only later is not outweighed by a good beginning.

What makes a model bad and shows without transcripts: it is less sure; it is surer than the gate saw
it to be, for then its confidences mean nothing; its devices want to upload more or fewer; it is
slower; it crashes. Where a teacher has transcribed the random sample, disagreement tells more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotrain_cloud.monitor.blocks import block_of
from autotrain_cloud.monitor.evidence import SHARES, log_factors, log_mean
from edge_runtime.contract.messages import Telemetry
from edge_runtime.contract.records import Histogram

SURE = 0.9  # confidence; a bound of the histogram nearest to it is taken
PANEL = 1000  # devices of either group that are enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A change of something, cut off at ± `clip`, and how much of it is tolerated."""

    name: str
    title: str
    clip: float
    fall: float | None = None  # tolerated; none: falling is no fault
    rise: float | None = None


METRICS = (
    Metric(name="confidence", title="mean confidence", clip=0.1, fall=0.01, rise=0.03),
    Metric(name="sure", title=f"share above {SURE}", clip=0.2, fall=0.04, rise=0.04),
    Metric(name="wanted", title="share wanted for upload", clip=0.2, fall=0.04, rise=0.02),
    Metric(name="speed", title="log of the real-time factor", clip=0.5, rise=0.1),
    Metric(name="latency", title="log of the time to a final", clip=0.5, rise=0.15),
    Metric(name="crashed", title="share of devices with crashes", clip=1.0, rise=0.01),
    Metric(name="disagreement", title="disagreement with the teacher", clip=0.3, rise=0.01),
)
SIDES = tuple(
    f"{metric.name}{sign}"
    for metric in METRICS
    for sign, tolerance in (("-", metric.fall), ("+", metric.rise))
    if tolerance is not None
)


def measured(reports: Sequence[Telemetry]) -> dict[str, float] | None:
    """A device's values over some reports, by metric; `None` without usable utterances."""
    usable = [(report, block) for report in reports if (block := block_of(report)) is not None]
    count = sum(block.utterances for _, block in usable)
    if not count:
        return None
    values = {
        "confidence": sum(block.confidence for _, block in usable) / count,
        "wanted": sum(block.wanted for _, block in usable) / count,
        "sure": sum(_above(report.confidence, SURE) for report, _ in usable) / count,
        "crashed": float(any(report.crashes for report, _ in usable)),
    }
    speech = sum(report.speech_s for report, _ in usable)
    if speech:
        busy = sum(report.real_time_factor * report.speech_s for report, _ in usable)
        values["speed"] = math.log(max(busy / speech, 1e-6))
    finals = sum(sum(report.final_s.counts) for report, _ in usable)
    if finals:
        total = sum(report.final_s.total for report, _ in usable)
        values["latency"] = math.log(max(total / finals, 1e-3))
    return values


def change(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Of what was measured both times."""
    return {name: value - before[name] for name, value in now.items() if name in before}


def _above(histogram: Histogram, value: float) -> int:
    nearest = min(range(len(histogram.bounds)), key=lambda i: abs(histogram.bounds[i] - value))
    return sum(histogram.counts[nearest + 1 :])


def compared(
    updated: Sequence[Mapping[str, float]],
    control: Sequence[Mapping[str, float]],
    expected: Mapping[str, float],
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """-> log factors by side, shifts by metric. The order of devices must not depend on values."""
    factors, shifts = {}, {}
    for metric in METRICS:
        ours, theirs = (
            [
                max(-metric.clip, min(metric.clip, each[metric.name]))
                for each in group
                if math.isfinite(each.get(metric.name, math.nan))
            ]
            for group in (updated, control)
        )
        groups = min(len(ours), len(theirs))
        if not groups:
            continue
        differences = [
            a - b for a, b in zip(_means(ours, groups), _means(theirs, groups), strict=True)
        ]
        shifts[metric.name] = sum(differences) / groups
        usual = expected.get(metric.name, 0.0)
        for sign, tolerance in ((-1, metric.fall), (1, metric.rise)):
            if tolerance is None:
                continue
            # Towards `sign` by more than tolerated; what is gained is lost towards the other side.
            least = -sign * usual - tolerance
            gaps = [least + sign * difference for difference in differences]
            reach = max(2 * metric.clip - least, 1e-6)
            side = f"{metric.name}{'-' if sign < 0 else '+'}"
            factors[side] = log_factors(gaps, [reach] * groups, [1.0] * groups)
    return factors, shifts


def _means(values: Sequence[float], groups: int) -> list[float]:
    """Of groups whose sizes differ by one at most."""
    return [
        sum(part) / len(part)
        for part in (
            values[i * len(values) // groups : (i + 1) * len(values) // groups]
            for i in range(groups)
        )
    ]


@dataclass(frozen=True, slots=True)
class Wealth:
    """What the bets of each side have become."""

    logs: Mapping[str, tuple[float, ...]]  # of the units, logarithms

    @classmethod
    def nothing(cls) -> Wealth:
        return cls({side: (-math.inf,) * len(SHARES) for side in SIDES})

    def staked(self, stake: float) -> Wealth:
        """With more at stake."""
        log = math.log(stake)
        return Wealth(
            {
                side: tuple(log if old == -math.inf else _log_add(old, log) for old in olds)
                for side, olds in self.logs.items()
            }
        )

    def after(self, factors: Mapping[str, Sequence[float]]) -> Wealth:
        """A look."""
        nothing = (0.0,) * len(SHARES)
        return Wealth(
            {
                side: tuple(
                    old + factor
                    for old, factor in zip(olds, factors.get(side, nothing), strict=True)
                )
                for side, olds in self.logs.items()
            }
        )

    @property
    def log_evidence(self) -> float:
        """That one of the sides is worse than tolerated: the average of all."""
        return log_mean([log_mean(logs) for logs in self.logs.values()])

    @property
    def strongest(self) -> str:
        """The side that the evidence comes from."""
        return max(self.logs, key=lambda side: log_mean(self.logs[side]))


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
