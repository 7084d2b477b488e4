"""The table: nothing that can happen, in any order, breaks its rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ota import update
from edge_runtime.ota.update import (
    GOLDEN,
    SLOTS,
    TABLE,
    Broken,
    Candidate,
    Downloaded,
    Event,
    Failed,
    Gone,
    Healthy,
    Offered,
    Passed,
    Record,
    Refused,
    Staged,
    Started,
    State,
    Stopped,
    Undone,
    after,
)

events: st.SearchStrategy[Event] = st.one_of(
    st.integers(1, 12).map(lambda n: Offered(Candidate(n, str(n), "0" * 64))),
    st.sampled_from([Downloaded(), Gone(), Staged(), Passed(), Healthy(), Started(), Stopped()]),
    st.sampled_from([Failed("a reason"), Undone("another")]),
    st.sampled_from([*SLOTS, GOLDEN]).map(lambda slot: Broken(slot, "rot")),
)


@given(st.lists(events, max_size=60))
def test_the_rules_hold_whatever_happens(history: list[Event]) -> None:
    record = Record.delivered(3)
    for event in history:
        before = record
        try:
            record = after(record, event)
        except Refused:
            continue
        assert record.floor >= before.floor
        assert record.running in record.holds and record.fallback in record.holds
        assert (record.candidate is None) == (record.state is State.IDLE)
        if record.state in (State.STAGING, State.TESTING):
            assert record.free not in (record.running, record.fallback)
            assert record.free not in record.holds
        if isinstance(event, Offered):
            assert event.candidate.release > before.release
            assert event.candidate.release not in {failure.release for failure in before.failed}
        if record.floor > before.floor:  # only what ran and was healthy raises it
            assert isinstance(event, Healthy) and record.release == record.floor
        if record.running != before.running:
            switched = before.state is State.TESTING and isinstance(event, Passed)
            assert switched or isinstance(event, Failed | Broken | Started | Undone)
        if GOLDEN not in [e.slot for e in history if isinstance(e, Broken)]:
            assert GOLDEN in record.holds


def test_every_state_can_be_left_by_what_may_happen_in_it_and_by_nothing_else() -> None:
    for state in State:
        for kind in (Offered, Downloaded, Gone, Staged, Passed, Healthy, Failed, Undone):
            record = Record(
                holds={GOLDEN: 3, "A": 4}, running="A", floor=3, state=state,
                candidate=None if state is State.IDLE else Candidate(4, "4", ""),
            )  # fmt: skip
            event = {
                Offered: Offered(Candidate(5, "5", "")), Failed: Failed("x"), Undone: Undone("x"),
            }.get(kind)  # fmt: skip
            event = event or kind()  # type: ignore[call-arg]
            if (state, kind) in TABLE:
                assert after(record, event).state is TABLE[state, kind]
            else:
                with pytest.raises(Refused, match=f"{kind.__name__} while {state.value}"):
                    after(record, event)


def test_the_picture_in_the_docs_is_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "updates.md"
    assert update.diagram() in page.read_text(encoding="utf-8")
