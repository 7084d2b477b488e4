"""Whether a model on probation is kept: live health against rules, and against the model before it.

Pure: `judge` looks at counts and says `wait`, `keep` or `fail`, and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from edge_runtime.ota.settings import Probation

LEAST_AUDIO_S = 20.0  # before a real-time factor means anything
LEAST_UTTERANCES = 10  # before a mean confidence does
SURE = 3.0  # standard errors that a drop must be beyond what is allowed, to end probation early


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Of the model that runs, since it began to run in this process."""

    utterances: int = 0
    confidence: float = 0.0  # their mean calibrated confidence
    confidence_sd: float = 0.0  # their standard deviation
    audio_s: float = 0.0
    busy_s: float = 0.0  # processing time of that audio
    crashes: int = 0  # of the recogniser
    memory_bytes: int = 0  # of the process

    def __post_init__(self) -> None:
        values = (self.confidence, self.confidence_sd, self.audio_s, self.busy_s)
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"health is counted, not {values}")

    @property
    def real_time_factor(self) -> float | None:
        """Processing time over audio time; None before there is enough audio."""
        return self.busy_s / self.audio_s if self.audio_s >= LEAST_AUDIO_S else None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the model on probation."""

    outcome: Literal["wait", "keep", "fail"]
    reason: str


def judge(rules: Probation, health: Health, before: Health | None, minutes: float) -> Verdict:
    """`before`: the old model's health; None if it said too little.  `minutes` on probation, in
    this run of the process.
    """
    if health.crashes > rules.most_crashes:
        return Verdict("fail", f"the recogniser failed {health.crashes} times on probation")
    if rules.most_memory_bytes and health.memory_bytes > rules.most_memory_bytes:
        return Verdict(
            "fail",
            f"the process takes {health.memory_bytes / 1e6:.0f} MB "
            f"(at most {rules.most_memory_bytes / 1e6:.0f})",
        )
    speed = health.real_time_factor
    if speed is not None and speed > rules.most_real_time_factor:
        return Verdict(
            "fail",
            f"{speed:.2f} s for a second of audio (at most {rules.most_real_time_factor:g})",
        )
    heard = health.utterances >= rules.utterances
    done = minutes >= rules.minutes and (heard or minutes >= 60 * rules.longest_hours)
    drop = _drop(health, before)
    if drop is not None and before is not None:
        fall, error = drop
        if fall - (0 if done else SURE * error) > rules.confidence_drop:
            return Verdict(
                "fail",
                f"mean confidence {health.confidence:.2f} over {health.utterances} utterances, "
                f"{before.confidence:.2f} with the model before "
                f"(at most {rules.confidence_drop:g} less)",
            )
    if done:
        return Verdict("keep", f"{health.utterances} utterances in {minutes:.0f} min, all well")
    return Verdict(
        "wait",
        f"{health.utterances} of {rules.utterances} utterances, "
        f"{minutes:.0f} of {rules.minutes:g} min",
    )


def _drop(health: Health, before: Health | None) -> tuple[float, float] | None:
    """By how much the mean confidence fell, and the standard error of that (Welch 1947)."""
    if before is None or min(health.utterances, before.utterances) < LEAST_UTTERANCES:
        return None
    error = math.hypot(
        health.confidence_sd / math.sqrt(health.utterances),
        before.confidence_sd / math.sqrt(before.utterances),
    )
    return before.confidence - health.confidence, error
