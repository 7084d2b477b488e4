"""Reports become observations once each, whatever order, clocks and restarts do."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from autotrain_cloud.monitor.blocks import REMEMBERED, Block, DeviceState, observe
from autotrain_cloud.monitor.settings import DAY_MS, MonitorSettings
from autotrain_cloud.plain import from_json, to_json
from edge_runtime.contract.messages import Telemetry
from tests.autotrain_cloud.monitor.reports import a_report

SETTINGS = MonitorSettings()
NOW = 1_800_000_000_000


def _after(*reports: Telemetry, state: DeviceState | None = None) -> DeviceState:
    for report in reports:
        state = observe(state, report, received_ms=NOW, settings=SETTINGS)
    assert state is not None
    return state


def _total(state: DeviceState) -> tuple[int, float]:
    return sum(b.utterances for b in state.blocks), sum(b.confidence for b in state.blocks)


def test_small_reports_are_put_together_and_large_ones_stand_alone() -> None:
    state = _after(
        a_report(3, 0.5, sequence=1, wanted=2), a_report(4, 0.75, sequence=2),
        a_report(0, 0.0, sequence=3), a_report(5, 0.5, sequence=4, vetoed=3, wanted=4),
        a_report(40, 0.5, sequence=5),
    )  # fmt: skip
    assert state.blocks == (Block(12, 7.0, 7.0), Block(40, 20.0, 0.0))


@given(st.permutations([*range(1, 9), *range(1, 9)]))
def test_the_order_of_reports_and_their_repetition_change_nothing(order: list[int]) -> None:
    state = _after(*(a_report(2 * n, 0.5, sequence=n) for n in order))
    assert _total(state) == (72, 36.0)
    assert state.ignored == {"duplicate": 8}
    assert state.lost == 0


def test_lost_reports_are_counted_and_found_again() -> None:
    state = _after(a_report(8, 0.5, sequence=1), a_report(8, 0.5, sequence=5))
    assert state.lost == 3
    state = _after(a_report(8, 0.5, sequence=3), state=state)
    assert state.lost == 2
    assert _after(a_report(8, 0.5, session=2, sequence=1), state=state).lost == 2


def test_an_old_session_counts_if_it_is_of_the_same_model() -> None:
    state = _after(a_report(8, 0.5, session=5), a_report(8, 0.5, session=7))
    state = _after(a_report(8, 0.5, session=6, sequence=3), state=state)
    assert _total(state)[0] == 24
    state = _after(a_report(8, 0.5, session=8, version="0.5.0"), state=state)
    state = _after(a_report(8, 0.5, session=7, sequence=9, version="0.5.0"), state=state)
    assert _total(state)[0] == 8  # before 0.5.0 ran: it was tried once already, or it lies


def test_what_is_too_old_to_be_told_from_a_repetition_is_left_out() -> None:
    state = _after(*(a_report(8, 0.5, sequence=n) for n in range(1, REMEMBERED + 10)))
    again = _after(a_report(8, 0.5, sequence=2), state=state)
    assert again.ignored == {"old": 1} and _total(again) == _total(state)


def test_another_model_begins_anew_and_late_reports_of_the_old_one_do_not_count() -> None:
    state = _after(a_report(8, 0.5, sequence=1), a_report(8, 0.9, sequence=3, version="0.5.0"))
    assert state.model == "en-demo 0.5.0 int8-x86"
    assert _total(state) == (8, approx(7.2))
    state = _after(a_report(8, 0.5, sequence=2), state=state)
    assert _total(state) == (8, approx(7.2)) and state.ignored == {"other model": 1}
    # The first model again, as after a rollback; what came in between is not its.
    state = _after(a_report(8, 0.5, sequence=4), state=state)
    assert _total(state) == (8, 4.0)


def test_a_report_that_contradicts_itself_is_left_out() -> None:
    report = a_report(8, 0.5)
    object.__setattr__(report, "utterances", 9)
    assert _after(report).ignored == {"malformed": 1}
    assert _after(a_report(8, [1.5] * 8)).ignored == {"malformed": 1}


def test_a_wrong_clock_is_noted_and_its_report_counts_where_it_arrives() -> None:
    state = _after(
        a_report(8, 0.5, sequence=1, start_ms=NOW + DAY_MS, end_ms=NOW + DAY_MS),
        a_report(8, 0.5, sequence=2, start_ms=NOW, end_ms=NOW - 5),
        a_report(8, 0.5, sequence=3, start_ms=0, end_ms=NOW),
        a_report(8, 0.5, sequence=4, start_ms=NOW - 60_000, end_ms=NOW),
    )
    assert state.clock == 3 and state.seen_ms == NOW
    assert _total(state)[0] == 32


def test_a_device_comes_back_from_the_store_as_it_was() -> None:
    state = _after(a_report(8, 0.5, sequence=1), a_report(8, 0.5, sequence=1))
    assert from_json(DeviceState, json.loads(json.dumps(to_json(state)))) == state
