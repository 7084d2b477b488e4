"""When an alarm may start a run."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_cloud.pipeline.policy import WEEK_S, Alarm, Past, Policy, decide
from edge_runtime.errors import ConfigError

NOW = 1_800_000_000.0
SLICE = Alarm(scope="slice", subject="en/kitchen")
POLICY = Policy(
    min_new_minutes=5, cool_down_hours=24, max_runs_per_week=2, budget_cpu_hours_per_week=10
)


def past(hours_ago: float, *, cpu_hours: float = 1.0, over: bool = True) -> Past:
    started = NOW - hours_ago * 3600
    return Past(
        id=f"{hours_ago:g}", started=started, ended=started + 600 if over else None,
        cpu_seconds=cpu_hours * 3600,
    )  # fmt: skip


def test_a_slice_with_enough_new_speech_starts_a_run() -> None:
    decision = decide(POLICY, SLICE, new_minutes=5, past=[past(100)], now=NOW)
    assert (decision.verdict, decision.reason) == ("start", "slice alarm: en/kitchen")


def test_one_device_never_starts_a_run() -> None:
    alarm = Alarm(scope="device", subject="d7")
    decision = decide(POLICY, alarm, new_minutes=500, past=[], now=NOW)
    assert decision.verdict == "never" and "d7 is a single device" in decision.reason


@pytest.mark.parametrize(
    ("before", "minutes", "reason", "at"),
    [
        ([], 4.9, "4.9 minutes of new speech, 5 are needed", None),
        ([past(50, over=False)], 9, "run 50 is not over", None),
        ([past(20)], 9, "the last run ended 19.8 hours ago, cool-down is 24.0 hours",
         NOW - 20 * 3600 + 600 + 24 * 3600),
        ([past(100), past(50)], 9, "2 runs within a week, 2 are allowed",
         NOW - 100 * 3600 + WEEK_S),
        ([past(100, cpu_hours=11)], 9, "11.0 hours of CPU within a week, 10 are allowed",
         NOW - 100 * 3600 + WEEK_S),
    ],
)  # fmt: skip
def test_everything_else_waits_and_says_for_what(
    before: list[Past], minutes: float, reason: str, at: float | None
) -> None:
    decision = decide(POLICY, SLICE, new_minutes=minutes, past=before, now=NOW)
    assert (decision.verdict, decision.reason, decision.at) == ("later", reason, at)


@given(
    st.lists(st.tuples(st.floats(0.2, 400), st.floats(0, 20)), max_size=6),
    st.floats(0, 60),
)
def test_whoever_is_told_a_time_may_start_then_or_has_another_reason(
    earlier: list[tuple[float, float]], minutes: float
) -> None:
    before = [past(hours, cpu_hours=cpu) for hours, cpu in earlier]
    now = NOW
    for _ in range(20):
        decision = decide(POLICY, SLICE, new_minutes=minutes, past=before, now=now)
        if decision.at is None:
            break
        assert decision.at >= now
        now = decision.at + 1e-3
    assert decision.verdict == ("start" if minutes >= POLICY.min_new_minutes else "later")


@pytest.mark.parametrize("wrong", [{"max_runs_per_week": 0}, {"cool_down_hours": -1.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        dataclasses.replace(POLICY, **wrong)
