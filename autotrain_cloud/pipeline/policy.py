"""When an alarm may start a retraining: pure, and in the words a person would want to read.

A device that hears badly is repaired, not retrained for; a slice or the whole fleet may be.  Then
there must be enough new speech, some peace since the last run, and budget left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_runtime.errors import ConfigError

DAY_S = 86400.0
WEEK_S = 7 * DAY_S

Scope = Literal["fleet", "slice", "device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a retraining may cost, and how often there may be one."""

    min_new_minutes: float = 5.0  # of labelled speech since the last data set
    cool_down_hours: float = 24.0  # after a run has ended, whatever its end
    max_runs_per_week: int = 5
    budget_cpu_hours_per_week: float = 40.0
    rounds: int = 1  # 2: the student teaches its successor, for twice the training
    approval: bool = False  # a person says yes before anything is published

    def __post_init__(self) -> None:
        for name in ("min_new_minutes", "cool_down_hours", "budget_cpu_hours_per_week"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"policy.{name}: 0 or more")
        if self.max_runs_per_week < 1:
            raise ConfigError("policy.max_runs_per_week: 1 or more")
        if self.rounds not in (1, 2):
            raise ConfigError("policy.rounds: 1 or 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What the monitor saw."""

    scope: Scope
    subject: str  # the slice or device; "fleet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """An earlier run, in s since 1970 and s of CPU."""

    id: str
    started: float
    ended: float | None  # None: it has not
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`start`; `later`, to be asked again at `at`; or `never` for this alarm."""

    verdict: Literal["start", "later", "never"]
    reason: str
    at: float | None = None  # s since 1970; None: when something else has changed


def decide(
    policy: Policy, alarm: Alarm, *, new_minutes: float, past: Sequence[Past], now: float
) -> Decision:
    """Whether an alarm starts a run now."""
    if alarm.scope == "device":
        return Decision(
            verdict="never",
            reason=f"{alarm.subject} is a single device: its health is looked at, not the model",
        )
    if busy := next((run for run in past if run.ended is None), None):
        return Decision(verdict="later", reason=f"run {busy.id} is not over")
    if new_minutes < policy.min_new_minutes:
        return Decision(
            verdict="later",
            reason=f"{new_minutes:g} minutes of new speech, {policy.min_new_minutes:g} are needed",
        )
    last = max((run.ended for run in past if run.ended is not None), default=None)
    cool = policy.cool_down_hours * 3600
    if last is not None and now < last + cool:
        return Decision(
            verdict="later",
            reason=f"the last run ended {_hours(now - last)} ago, cool-down is {_hours(cool)}",
            at=last + cool,
        )
    week = sorted((run for run in past if run.started > now - WEEK_S), key=lambda run: run.started)
    if len(week) >= policy.max_runs_per_week:
        return Decision(
            verdict="later",
            reason=f"{len(week)} runs within a week, {policy.max_runs_per_week} are allowed",
            at=week[-policy.max_runs_per_week].started + WEEK_S,
        )
    used = sum(run.cpu_seconds for run in week) / 3600
    if used >= policy.budget_cpu_hours_per_week:
        return Decision(
            verdict="later",
            reason=f"{used:.1f} hours of CPU within a week, "
            f"{policy.budget_cpu_hours_per_week:g} are allowed",
            at=week[0].started + WEEK_S,
        )
    return Decision(verdict="start", reason=f"{alarm.scope} alarm: {alarm.subject}")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours"
