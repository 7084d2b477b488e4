"""What a rollout does in the situations that it is for."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone
from pathlib import Path

import pytest

from autotrain_cloud.rollout import states
from autotrain_cloud.rollout.controller import Refused, Rollout
from autotrain_cloud.rollout.log import Advanced, Completed, Finished, Halted, Targeted
from autotrain_cloud.rollout.plan import Window
from autotrain_cloud.rollout.progress import COMMITTED, FAILED, TIMED_OUT, WAITING
from autotrain_cloud.rollout.states import State
from tests.autotrain_cloud.rollout.fleet import (
    BACK,
    DAY,
    HOUR,
    MINUTE,
    RELEASE,
    a_plan,
    a_report,
    names,
    started,
)


def _updated(rollout: Rollout, now_ms: int, *, failing: int = 0, online: int | None = None) -> None:
    """All that wait report at once; the first `failing` of them failure."""
    waiting = [d for d in rollout.devices.touched if rollout.devices.progress[d].status == WAITING]
    for i, device in enumerate(waiting[:online]):
        state = "failed" if i < failing else "committed"
        counter = rollout.devices.progress[device].counter
        rollout.report(device, a_report(state, counter=counter), now_ms)


def _looked(rollout: Rollout, shift: float, since_ms: int) -> None:
    updated, control = rollout.panel()
    changes = {name: {"confidence": shift} for name in updated}
    changes |= {name: {"confidence": 0.0} for name in control}
    rollout.look(changes, since_ms=since_ms, now_ms=since_ms + HOUR)


def _run(rollout: Rollout, *, days: int, shift: float = 0.0) -> None:
    for hour in range(1, days * 24):
        now_ms = hour * HOUR
        rollout.tick(now_ms)
        _updated(rollout, now_ms + MINUTE)
        _looked(rollout, shift, now_ms + 2 * MINUTE - HOUR if hour == 1 else now_ms - 50 * MINUTE)
        if rollout.state in states.OVER:
            return


def test_a_good_release_reaches_everybody_stage_by_stage_those_held_back_last() -> None:
    rollout = started(a_plan(), names(400))
    _run(rollout, days=9)
    assert rollout.state is State.COMPLETE
    assert rollout.devices.count(RELEASE.counter, COMMITTED) == 400
    stages = [e.at_ms for e in rollout.entries if isinstance(e.event, Advanced)]
    assert len(stages) == 4
    assert all(after - before >= DAY for before, after in itertools.pairwise(stages))
    assert isinstance(rollout.entries[-1].event, Completed | Finished)
    last = [e.event.devices for e in rollout.entries if isinstance(e.event, Targeted)][-1]
    assert all(rollout.plan.bucket(device) >= 0.95 for device in last)


def test_failures_halt_it_and_what_was_touched_goes_back_under_a_new_counter() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0)), names(400))
    rollout.tick(MINUTE)
    touched = len(rollout.devices.touched)
    assert 20 < touched < 60
    _updated(rollout, 2 * MINUTE, failing=4)
    assert rollout.state is State.REVERTING and rollout.to_republish
    (halt,) = (e for e in rollout.entries if isinstance(e.event, Halted))
    assert "updates failed" in halt.reason and halt.who == "controller"
    with pytest.raises(Refused, match="not above 8"):
        rollout.was_republished(RELEASE, 3 * MINUTE)
    rollout.was_republished(BACK, 3 * MINUTE)
    rollout.tick(4 * MINUTE)
    assert all(rollout.target(device) == BACK for device in rollout.devices.touched)
    _updated(rollout, 5 * MINUTE)
    rollout.tick(6 * MINUTE)
    assert rollout.state is State.REVERTED
    assert rollout.devices.count(BACK.counter, COMMITTED) == touched == len(rollout.devices.touched)


def test_two_failures_of_two_say_nothing_where_more_updates_are_asked_for() -> None:
    for least, state in ((3, State.RUNNING), (2, State.REVERTING)):
        rollout = started(a_plan(shares=(0.1, 1.0), least_executed=least), names(400))
        rollout.tick(MINUTE)
        _updated(rollout, 2 * MINUTE, failing=2, online=2)
        assert rollout.state is state


@pytest.mark.parametrize("shift", [-0.06, 0.09])
def test_a_release_whose_confidences_change_halts_whichever_way(shift: float) -> None:
    rollout = started(a_plan(shares=(0.1, 1.0)), names(400))
    _run(rollout, days=2, shift=shift)
    assert rollout.state is State.REVERTING
    assert rollout.stage == 0
    halt = next(e for e in rollout.entries if isinstance(e.event, Halted))
    assert f"mean confidence of updated devices changed by {shift:+.3f}" in halt.reason


def test_a_change_that_the_gate_has_seen_is_none() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0), expected={"confidence": 0.09}), names(400))
    _run(rollout, days=6, shift=0.09)
    assert rollout.state is State.COMPLETE


def test_silence_after_a_sign_of_life_is_failure_and_silence_alone_is_not() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0), least_executed=1000), names(200))
    rollout.tick(MINUTE)
    first, second, *_ = rollout.devices.touched
    rollout.seen([first], 2 * MINUTE)
    rollout.tick(2 * MINUTE + 3 * HOUR)
    progress = rollout.devices.progress
    assert progress[first].status == TIMED_OUT
    assert progress[second].status == WAITING
    rollout.report(first, a_report(), 4 * HOUR)
    assert progress[first].status == COMMITTED  # late is better than never


def test_silent_devices_halt_it() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0)), names(400))
    rollout.tick(MINUTE)
    rollout.seen(rollout.devices.touched, 2 * MINUTE)
    rollout.tick(3 * HOUR)
    assert rollout.state is State.REVERTING
    halt = next(e for e in rollout.entries if isinstance(e.event, Halted))
    assert "by silence" in halt.reason


def test_offline_devices_hold_a_stage_up_for_a_while_but_not_forever() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0), least_looks=0), names(200))
    rollout.tick(MINUTE)
    _updated(rollout, 2 * MINUTE, online=10)
    rollout.tick(5 * DAY)
    assert rollout.stage == 0
    rollout.tick(8 * DAY)
    rollout.tick(9 * DAY + HOUR)
    assert rollout.stage == 1


def test_without_a_comparison_no_stage_is_left() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0)), names(200))
    for day in range(1, 30):
        rollout.tick(day * DAY)
        _updated(rollout, day * DAY + MINUTE)
    assert rollout.stage == 0


def test_devices_begin_in_the_window_of_their_own_clock() -> None:
    window = Window("01:00", "05:00")
    fleet = {
        f"d{i}": zone for i, zone in enumerate(["Asia/Tokyo", "Europe/Berlin", "no/zone"] * 20)
    }
    start = int(datetime(2026, 11, 2, 16, 30, tzinfo=timezone.utc).timestamp() * 1000)
    rollout = started(a_plan(shares=(1.0,), holdback=0.0, window=window), fleet, start)

    def zones() -> set[str]:
        return {fleet[device] for device in rollout.devices.touched}

    rollout.tick(start + MINUTE)  # 01:31 in Tokyo, 17:31 in Berlin
    assert zones() == {"Asia/Tokyo"}
    rollout.tick(start + 8 * HOUR)  # 01:30 in Berlin
    assert zones() == {"Asia/Tokyo", "Europe/Berlin"}
    rollout.tick(start + 9 * HOUR)  # 01:30 in UTC, which is what an unknown zone is
    assert zones() == set(fleet.values())


def test_no_more_devices_a_minute_than_planned() -> None:
    rollout = started(a_plan(shares=(1.0,), holdback=0.0, devices_per_minute=6.0), names(100))
    for second in range(0, 300, 5):
        rollout.tick(second * 1000)
    assert len(rollout.devices.touched) == 29  # one every ten seconds
    rollout = started(a_plan(shares=(1.0,), holdback=0.0, devices_per_minute=0.5), names(100))
    for second in range(0, 601, 5):
        rollout.tick(second * 1000)
    assert len(rollout.devices.touched) == 5  # one every two minutes


def test_success_is_what_runs_not_what_is_said() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0)), names(100))
    rollout.tick(MINUTE)
    first, second, *_ = rollout.devices.touched
    rollout.report(first, a_report(running=7), 2 * MINUTE)
    rollout.report(second, a_report(running=8), 2 * MINUTE)
    assert rollout.devices.progress[first].status == FAILED
    assert rollout.devices.progress[second].status == COMMITTED
    assert "runs release 7" in rollout.entries[-2].reason


def test_old_reports_and_those_of_other_targets_change_nothing() -> None:
    rollout = started(a_plan(shares=(0.1, 1.0)), names(100))
    rollout.tick(MINUTE)
    device = rollout.devices.touched[0]
    assert rollout.report(device, a_report(counter=7), 2 * MINUTE) == []
    assert rollout.report("stranger", a_report(), 2 * MINUTE) == []
    rollout.report(device, a_report(session=2, sequence=1), 2 * MINUTE)
    assert rollout.report(device, a_report("failed", session=1, sequence=9), 3 * MINUTE) == []
    assert rollout.report(device, a_report("rolled-back", session=2, sequence=2), 4 * MINUTE)
    assert rollout.devices.progress[device].status == FAILED  # success can be taken back
    rollout.report(device, a_report("failed", session=2, sequence=9), 5 * MINUTE)
    assert rollout.report(device, a_report(session=2, sequence=7), 6 * MINUTE) == []


def test_after_a_halt_devices_that_have_not_begun_are_told_nothing() -> None:
    rollout = started(a_plan(shares=(0.5, 1.0)), names(100))
    rollout.tick(MINUTE)
    begun, not_begun, *_ = rollout.devices.touched
    rollout.seen([begun], 2 * MINUTE)
    rollout.halt("bob", "it smells", 3 * MINUTE)
    assert rollout.target(begun) == RELEASE
    assert rollout.target(not_begun) is None
    rollout.tick(DAY)
    assert rollout.state is State.HALTED  # a person halted it: a person says what follows
    rollout.resume("carol", "it was the fridge", DAY)
    assert rollout.target(not_begun) == RELEASE


def test_a_person_who_resumes_forgives_what_was_known() -> None:
    rollout = started(a_plan(shares=(0.5, 1.0), revert=False), names(100))
    rollout.tick(MINUTE)
    _updated(rollout, 2 * MINUTE, failing=5, online=5)
    assert rollout.state is State.HALTED
    rollout.resume("bob", "the disks were full, now they are not", HOUR)
    rollout.tick(HOUR + MINUTE)
    assert rollout.state is State.RUNNING
    _updated(rollout, 2 * HOUR, failing=5)
    assert rollout.state is State.HALTED


def test_a_fleet_of_three_is_rolled_out_too() -> None:
    rollout = started(a_plan(holdback=0.0, least_looks=0, soak_ms=HOUR), names(3))
    _run(rollout, days=1)
    assert rollout.state is State.COMPLETE
    assert rollout.devices.count(RELEASE.counter, COMMITTED) == 3


def test_the_author_cannot_approve_and_nobody_counts_twice() -> None:
    rollout = Rollout(a_plan(approvals=2))
    rollout.submit("alice", 0)
    with pytest.raises(Refused, match="alice wrote"):
        rollout.approve("alice", 0)
    rollout.approve("bob", 0)
    assert rollout.approve("bob", 0) == []
    assert rollout.state is State.AWAITING_APPROVAL
    rollout.approve("carol", 0)
    assert rollout.state is State.RUNNING


def test_a_missing_entry_is_an_error_and_one_that_comes_twice_is_not() -> None:
    rollout = started(a_plan(), names(10))
    entries = rollout.entries
    assert Rollout.replay(rollout.plan, [*entries, *entries]).state is State.RUNNING
    with pytest.raises(ValueError, match="entry 1 is missing"):
        Rollout.replay(rollout.plan, [entries[0], *entries[2:]])


def test_the_page_shows_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "rollout.md"
    assert states.diagram() in page.read_text(encoding="utf-8")


def test_every_state_can_be_reached_and_left_or_is_an_end() -> None:
    reached = {State.DRAFT, *states.TABLE.values()}
    left = {state for state, _ in states.TABLE}
    assert reached == set(State) and left == set(State) - set(states.OVER)
