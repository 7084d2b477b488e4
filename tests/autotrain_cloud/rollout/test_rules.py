"""Whatever people, devices and the clock do, in any order, the rules hold."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from autotrain_cloud.rollout.controller import Refused, Rollout
from autotrain_cloud.rollout.log import (
    CONTROLLER,
    Approved,
    Entry,
    Halted,
    Paused,
    Republished,
    Resumed,
    Started,
    Targeted,
)
from autotrain_cloud.rollout.progress import COMMITTED, Progress
from autotrain_cloud.rollout.states import OVER, State
from edge_runtime.contract.messages import UpdateReport
from tests.autotrain_cloud.rollout.fleet import (
    BACK,
    DAY,
    HOUR,
    MINUTE,
    RELEASE,
    a_plan,
    a_report,
    names,
)

FLEET = names(60)
PEOPLE = ("alice", "bob", "carol")
devices = st.sampled_from(sorted(FLEET))


def everything(rollout: Rollout) -> dict[str, Any]:
    """All of the state but the layout of its heaps."""
    found = {**vars(rollout), **{f"devices.{k}": v for k, v in vars(rollout.devices).items()}}
    del found["devices"]
    queues = found.pop("devices._queues")
    found["counts"] = {key: count for key, count in found.pop("devices.counts").items() if count}
    return {**found, "queues": {zone: sorted(queue) for zone, queue in queues.items()}}


class Anything(RuleBasedStateMachine):
    rollout: Rollout
    now_ms: int

    @initialize(approvals=st.integers(0, 2), holdback=st.sampled_from([0.0, 0.2]))
    def begin(self, approvals: int, holdback: float) -> None:
        plan = a_plan(
            approvals=approvals, holdback=holdback, shares=(0.1, 0.5, 1.0), soak_ms=HOUR,
            devices_per_minute=7.0, timeout_ms=HOUR, least_looks=0, patience_ms=DAY,
        )  # fmt: skip
        self.rollout, self.now_ms = Rollout(plan), DAY
        self.limit = 0.0

    def attempt(self, name: str, *arguments: Any, **options: Any) -> None:
        """What is refused leaves everything as it was."""
        before = everything(self.rollout), len(self.rollout.entries)
        try:
            getattr(self.rollout, name)(*arguments, **options)
        except Refused:
            assert (everything(self.rollout), len(self.rollout.entries)) == before

    @rule(chosen=st.sets(devices, max_size=30))
    def join(self, chosen: set[str]) -> None:
        self.rollout.join({name: FLEET[name] for name in sorted(chosen)}, self.now_ms)

    @rule(minutes=st.sampled_from([0, 1, 5, 61, 600, 1500]))
    def time_passes(self, minutes: int) -> None:
        for _ in range(3):
            self.now_ms += minutes * MINUTE
            self.rollout.tick(self.now_ms)
            self.limit = max(self.limit, self.rollout.limit)

    @rule(who=st.sampled_from(PEOPLE))
    def submit_and_approve(self, who: str) -> None:
        self.attempt("submit", who, self.now_ms)
        self.attempt("approve", who, self.now_ms)

    @rule(what=st.sampled_from(["pause", "halt", "go_back"]), who=st.sampled_from(PEOPLE))
    def a_person_stops_it(self, what: str, who: str) -> None:
        self.attempt(what, who, "a reason", self.now_ms)

    @rule(who=st.sampled_from([*PEOPLE, CONTROLLER, ""]))
    def a_person_resumes_it(self, who: str) -> None:
        self.attempt("resume", who, "a reason", self.now_ms)

    @rule(counter=st.sampled_from([7, 8, 9, 10]))
    def republish(self, counter: int) -> None:
        release = type(BACK)(version="0.4.0", counter=counter)
        self.attempt("was_republished", release, self.now_ms)

    @rule(chosen=st.sets(devices, max_size=20))
    def devices_are_seen(self, chosen: set[str]) -> None:
        self.rollout.seen(sorted(chosen), self.now_ms)

    @rule(
        chosen=st.sets(devices, max_size=20),
        state=st.sampled_from(["downloading", "committed", "failed", "rolled-back"]),
        counter=st.sampled_from([7, 8, 8, 8, 9]),
        sequence=st.integers(0, 5),
    )
    def devices_report(self, chosen: set[str], state: str, counter: int, sequence: int) -> None:
        report: UpdateReport = a_report(state, counter=counter, sequence=sequence)
        for device in sorted(chosen):
            self.rollout.report(device, report, self.now_ms)
            again = self.rollout.report(device, report, self.now_ms)
            assert not again, "a report that comes twice counts once"

    @rule()
    def all_commit(self) -> None:
        for device, progress in list(self.rollout.devices.progress.items()):
            report = a_report(counter=progress.counter, sequence=9)
            self.rollout.report(device, report, self.now_ms)

    @rule(shift=st.sampled_from([0.0, 0.0, -0.09]))
    def look(self, shift: float) -> None:
        updated, control = self.rollout.panel()
        assert not set(updated) & set(control)
        changes = {name: {"confidence": shift} for name in updated}
        changes |= {name: {"confidence": 0.0} for name in control}
        since_ms = self.now_ms
        self.now_ms += HOUR
        self.attempt("look", changes, since_ms=since_ms, now_ms=self.now_ms)

    @precondition(lambda self: self.rollout.entries)
    @rule(data=st.data())
    def the_process_dies(self, data: st.DataObject) -> None:
        """Of what it had not saved, nothing has happened; entries may be saved twice."""
        kept = data.draw(
            st.integers(max(0, len(self.rollout.entries) - 3), len(self.rollout.entries))
        )
        saved = [json.loads(json.dumps(e.to_json())) for e in self.rollout.entries[:kept]]
        entries = [Entry.from_json(plain) for plain in saved]
        self.rollout = Rollout.replay(self.rollout.plan, [*entries, *entries[-3:]])

    # --- the rules --------------------------------------------------------------------------------

    @invariant()
    def the_same_entries_make_the_same_state(self) -> None:
        again = Rollout.replay(self.rollout.plan, self.rollout.entries)
        assert everything(again) == everything(self.rollout)

    @invariant()
    def no_stage_gives_the_release_to_more_devices_than_it_allows(self) -> None:
        plan, stage, given = self.rollout.plan, 0, set()
        for entry in self.rollout.entries:
            stage = getattr(entry.event, "stage", stage)
            if isinstance(entry.event, Targeted) and entry.event.counter == RELEASE.counter:
                assert len(entry.event.devices) <= plan.devices_per_minute
                given |= set(entry.event.devices)
                assert all(plan.bucket(device) < plan.limits[stage] for device in given)

    @invariant()
    def nothing_goes_on_without_a_person_after_a_halt(self) -> None:
        stopped = False
        for entry in self.rollout.entries:
            if isinstance(entry.event, Halted | Paused):
                stopped = True
            elif isinstance(entry.event, Resumed):
                assert entry.who in PEOPLE
                stopped = False
            elif isinstance(entry.event, Targeted) and stopped:
                assert self.rollout.republished is not None
                assert entry.event.counter == self.rollout.republished.counter

    @invariant()
    def no_device_gets_a_second_target_except_back(self) -> None:
        targets: dict[str, list[int]] = {}
        for entry in self.rollout.entries:
            if isinstance(entry.event, Targeted):
                for device in entry.event.devices:
                    targets.setdefault(device, []).append(entry.event.counter)
        back = self.rollout.republished
        allowed = [[RELEASE.counter]]
        if back is not None:
            allowed.append([RELEASE.counter, back.counter])
            assert back.counter > RELEASE.counter
        assert all(counters in allowed for counters in targets.values())
        for device in FLEET:
            target = self.rollout.target(device)
            assert target is None or target.counter == targets[device][-1]

    @invariant()
    def it_starts_when_enough_different_people_have_agreed(self) -> None:
        agreed = [e.who for e in self.rollout.entries if isinstance(e.event, Approved)]
        assert len(agreed) == len(set(agreed)) and "alice" not in agreed
        if any(isinstance(entry.event, Started) for entry in self.rollout.entries):
            assert len(agreed) >= self.rollout.plan.approvals

    @invariant()
    def devices_are_counted_right(self) -> None:
        progress = self.rollout.devices.progress
        for counter in (RELEASE.counter, BACK.counter):
            committed = [
                p for p in progress.values() if (p.counter, p.status) == (counter, COMMITTED)
            ]
            assert self.rollout.devices.count(counter, COMMITTED) == len(committed)
        assert set(self.rollout.devices.touched) == set(progress)
        assert all(isinstance(each, Progress) for each in progress.values())

    @invariant()
    def it_went_back_only_if_the_previous_model_was_published_again(self) -> None:
        published = any(isinstance(e.event, Republished) for e in self.rollout.entries)
        if self.rollout.state is State.REVERTED:
            assert published or not self.rollout.devices.touched
        assert published == (self.rollout.republished is not None)

    @invariant()
    def every_entry_says_why(self) -> None:
        assert all(entry.reason and entry.who for entry in self.rollout.entries)
        assert [e.number for e in self.rollout.entries] == list(range(len(self.rollout.entries)))
        assert self.rollout.state not in OVER or self.rollout.reason


Anything.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnything = Anything.TestCase
