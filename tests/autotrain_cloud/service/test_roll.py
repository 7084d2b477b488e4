"""A rollout over the store: devices are told in their turn, and back again, through any crash."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from autotrain_cloud.ingest import Packet
from autotrain_cloud.rollout.plan import Plan, Release
from autotrain_cloud.rollout.states import State
from autotrain_cloud.service import journal, roll
from autotrain_cloud.service.roll import Rolling
from autotrain_cloud.store import Store
from autotrain_cloud.store.outbox import Outgoing
from edge_runtime.contract.codec import decode
from edge_runtime.contract.messages import Assignment, UpdateReport
from edge_runtime.contract.records import Model
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.fleet import MODEL, birth, new_ingest, packet

DEVICES = tuple(f"device-{number}" for number in range(20))
PLAN = Plan(
    id="r-1", release=Release(version="2.0", counter=2), previous=Release(version="1.0", counter=1),
    author="policy", approvals=0,
    shares=(0.1, 1.0), soak_ms=0, holdback=0.0, least_looks=0,
    devices_per_minute=1e6, least_executed=1, failure_bound=0.05,
)  # fmt: skip


class Fleet:
    """Twenty devices that do as they are told; `works` says whether the new model does."""

    def __init__(self, store: Store, *, works: bool) -> None:
        self.store, self.works = store, works
        self.ingest = new_ingest(store)
        self.now = 1_000_000
        self.runs = dict.fromkeys(DEVICES, 1)
        self.heard: dict[str, int] = {}
        self.sequence = 0
        self.republished: list[tuple[Path, Release]] = []
        self.commit([packet(birth(), name) for name in DEVICES])

    def commit(self, packets: Sequence[Packet]) -> None:
        self.take(self.ingest.commit(packets, now_ms=self.now))

    def take(self, outgoing: Sequence[Outgoing]) -> None:
        for each in outgoing:
            message = decode(each.payload)
            if isinstance(message, Assignment):
                self.heard[each.topic.split("/")[2]] = message.release_counter

    def republish(self, bundle: Path, above: Release) -> Release:
        self.republished.append((bundle, above))
        return Release(version="1.0", counter=above.counter + 1)

    def rolling(self) -> Rolling:
        return Rolling(self.store, self.republish)

    def minute(self, rolling: Rolling) -> None:
        """The cloud does what is due; devices hear of it and report."""
        self.now += 60_000
        rolling.step(self.now)
        self.take(self.ingest.begin(now_ms=self.now, broker_forgot=False))
        packets = []
        for name, counter in sorted(self.heard.items()):
            if counter > self.runs[name]:
                good = self.works or counter == 3
                self.sequence += 1
                self.runs[name] = counter if good else self.runs[name]
                report = UpdateReport(
                    session=1, sequence=self.sequence, attempt=f"{self.sequence:032x}",
                    target="x", target_counter=counter,
                    state="committed" if good else "failed",
                    running=Model(
                        name="en-demo", version="x", release_counter=self.runs[name],
                        manifest_sha256=bytes(32), precision="int8",
                    ),
                    at_ms=self.now,
                )  # fmt: skip
                packets.append(packet(report, name))
                if not good:
                    del self.heard[name]  # tried once
        self.commit([packet(birth(model=MODEL, session=2), name) for name in DEVICES] + packets)


def states(store: Store) -> list[str]:
    with store.read() as db:
        return [event.text.split(":")[0] for event in journal.since(db, 0)]


def test_a_good_release_reaches_all_the_first_few_before_the_others(store: Store) -> None:
    fleet = Fleet(store, works=True)
    rolling = fleet.rolling()
    rolling.begin(PLAN, bundle=Path("new"), previous=Path("old"), now_ms=fleet.now)
    fleet.minute(rolling)
    first = sum(counter == 2 for counter in fleet.runs.values())
    assert 1 <= first < 10
    for _ in range(12):
        fleet.minute(fleet.rolling())  # another process every time
    assert set(fleet.runs.values()) == {2}
    assert states(store)[-1] == "completed"
    assert not fleet.republished


def test_a_bad_release_is_halted_after_a_few_and_the_one_before_comes_back(store: Store) -> None:
    fleet = Fleet(store, works=False)
    rolling = fleet.rolling()
    rolling.begin(PLAN, bundle=Path("new"), previous=Path("old"), now_ms=fleet.now)
    for _ in range(12):
        fleet.minute(rolling)
    told = states(store)
    assert "halted" in told and told[-1] == "reverted"
    assert fleet.republished == [(Path("old"), PLAN.release)]
    assert all(counter in (1, 3) for counter in fleet.runs.values())
    # Those it had not come to yet were never told of it.
    assert sum(counter != 1 for counter in fleet.heard.values()) < 10


def test_there_is_one_rollout_at_a_time_and_people_can_halt_it(store: Store) -> None:
    fleet = Fleet(store, works=True)
    rolling = fleet.rolling()
    rolling.begin(PLAN, bundle=Path("new"), previous=Path("old"), now_ms=fleet.now)
    rolling.begin(PLAN, bundle=Path("new"), previous=Path("old"), now_ms=fleet.now)
    other = dataclasses.replace(PLAN, id="r-2")
    with pytest.raises(ConfigError, match="rollout r-1 is not over"):
        rolling.begin(other, bundle=Path("n"), previous=Path("o"), now_ms=fleet.now)
    fleet.minute(rolling)
    rolling.act("r-1", lambda found: found.halt("ada", "smells", fleet.now), fleet.now)
    found = rolling.rollout("r-1")
    assert found is not None and found.state is State.HALTED
    before = dict(fleet.runs)
    for _ in range(3):
        fleet.minute(rolling)
    assert fleet.runs == before
    with store.read() as db:
        assert [e.who for e in roll.log_of(db, "r-1")].count("ada") == 1
        with pytest.raises(ConfigError, match="r-9: there is none"):
            roll.log_of(db, "r-9")
