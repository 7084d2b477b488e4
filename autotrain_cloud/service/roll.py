"""Rollouts: who may update when. What devices do about it comes back as reports.

A release is published for all; a device whose updates are assigned takes it up when the retained
message `down/assignment` says so. The log of a rollout is all that is kept of it, and every entry
is committed together with the messages that follow from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from autotrain_cloud.plain import from_json, to_json
from autotrain_cloud.rollout import quality
from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.log import Entry, Joined, Targeted
from autotrain_cloud.rollout.plan import Plan, Release
from autotrain_cloud.rollout.states import OVER, State
from autotrain_cloud.service import journal
from autotrain_cloud.service.watch import report_of
from autotrain_cloud.store import Store, assignments
from autotrain_cloud.store.schema import devices, rollout_log, rollouts, telemetry, updates
from edge_runtime.contract.messages import UpdateReport
from edge_runtime.contract.records import Model
from edge_runtime.errors import ConfigError, StorageError

LOOK_MS = 3_600_000  # of telemetry in one comparison with the control group
SILENT: tuple[type, ...] = (Joined,)  # entries that are nothing to tell

Republish = Callable[[Path, Release], Release]  # a bundle, again, above a release -> under which


class Rolling:
    """The rollouts of one store. One process steps; any may act, and threads may share it."""

    def __init__(self, store: Store, republish: Republish, *, look_ms: int = LOOK_MS) -> None:
        """`republish` publishes a bundle again under a release counter above the one given; called
        once more after a crash, it must not do so twice.
        """
        self._store = store
        self._republish = republish
        self._look_ms = look_ms
        self._rollouts: dict[str, Rollout] = {}  # under way; what is missing is read again
        self._looked: dict[str, int] = {}  # rollout -> end of the hours last compared
        self._reported_ms: dict[str, int] = {}  # rollout -> reports were read until then
        self._lock = threading.RLock()
        self._load()

    def begin(self, plan: Plan, *, bundle: Path, previous: Path, now_ms: int) -> None:
        """A new rollout; one that is known already is left alone.

        Raises ConfigError while another one runs.
        """
        if busy := next((id for id in self.under_way() if id != plan.id), None):
            raise ConfigError(f"rollout {busy} is not over; halt it first")
        with self._store.begin() as db:
            if db.execute(select(rollouts).where(rollouts.c.id == plan.id)).one_or_none():
                return
            row = {
                "id": plan.id, "state": State.DRAFT.value, "plan": to_json(plan),
                "bundle": str(bundle), "previous": str(previous), "created_ms": now_ms,
                "changed_ms": now_ms,
            }  # fmt: skip
            db.execute(insert(rollouts), row)
            rollout = Rollout(plan)
            self._save(db, rollout, rollout.submit(plan.author, now_ms), now_ms)

    def act(self, id: str, do: Callable[[Rollout], list[Entry]], now_ms: int) -> None:
        """What a person wants: approve, pause, resume, halt, go back. Raises ConfigError."""
        with self._lock:
            self._load()
            if id not in self._rollouts:
                raise ConfigError(f"rollout {id}: there is none under way with that id")
            self._change(id, lambda db, rollout: do(rollout), now_ms)

    def step(self, now_ms: int) -> None:
        """What is due. Raises StorageError, and then goes on the next time."""
        for id in self.under_way():
            previous = self._previous_to_republish(id)
            released = self._republish(*previous) if previous else None
            self._change(id, partial(self._advanced, released=released, now_ms=now_ms), now_ms)
            with self._lock:
                if id in self._rollouts and self._rollouts[id].state in OVER:
                    del self._rollouts[id]

    def rollout(self, id: str) -> Rollout | None:
        """One that is under way."""
        return self._rollouts.get(id)

    def under_way(self) -> list[str]:
        """Those that are not over, whoever began them."""
        self._load()
        with self._lock:
            return list(self._rollouts)

    # -- inside ------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Rollouts that are not over and not in memory."""
        with self._lock, self._store.read() as db:
            for row in db.execute(select(rollouts)):
                if row.id not in self._rollouts and State(row.state) not in OVER:
                    self._rollouts[row.id] = _replayed(db, row)

    def _change(
        self, id: str, do: Callable[[Connection, Rollout], list[Entry]], now_ms: int
    ) -> None:
        """Does something to a rollout; what is not in the store then is not in memory either."""
        with self._lock:
            self._load()  # what another thread was refused is not in memory
            rollout = self._rollouts.get(id)
            if rollout is None:
                return
            try:
                with self._store.begin() as db:
                    mine = select(rollouts.c.id).where(rollouts.c.id == id)
                    db.execute(mine.with_for_update())  # others who act wait here
                    rollout.follow(_entries(db, id, since=len(rollout.entries)))
                    self._save(db, rollout, do(db, rollout), now_ms)
            except BaseException:
                del self._rollouts[id]
                raise

    def _advanced(
        self, db: Connection, rollout: Rollout, *, released: Release | None, now_ms: int
    ) -> list[Entry]:
        fleet = {row.name: row for row in db.execute(select(devices))}
        entries = rollout.join(
            {name: row.time_zone or "UTC" for name, row in fleet.items()}, now_ms
        )
        entries += self._heard(db, rollout, now_ms)
        progress = rollout.devices.progress
        alive = [
            name for name, one in progress.items()
            if name in fleet and fleet[name].last_seen_ms > one.since_ms
        ]  # fmt: skip
        entries += rollout.seen(alive, now_ms)
        entries += self._compared(db, rollout, now_ms)
        if released is not None and rollout.to_republish:
            entries += rollout.was_republished(released, now_ms)
        return entries + rollout.tick(now_ms)

    def _heard(self, db: Connection, rollout: Rollout, now_ms: int) -> list[Entry]:
        """Reports of devices about this release; old ones do nothing, so all are read at first."""
        id = rollout.plan.id
        begun = rollout.entries[0].at_ms if rollout.entries else now_ms
        after = self._reported_ms.get(id, begun) - 60_000
        new = select(updates).where(updates.c.received_ms > after)
        ordered = new.order_by(updates.c.received_ms, updates.c.session, updates.c.sequence)
        entries: list[Entry] = []
        for row in db.execute(ordered):
            entries += rollout.report(row.device, _report(row), now_ms)
            self._reported_ms[id] = max(self._reported_ms.get(id, 0), row.received_ms)
        return entries

    def _compared(self, db: Connection, rollout: Rollout, now_ms: int) -> list[Entry]:
        """A look at the hours that have just passed, and those before the rollout."""
        if rollout.state not in (State.RUNNING, State.PAUSED):
            return []
        began = rollout.entries[0].at_ms
        since = self._looked.setdefault(rollout.plan.id, now_ms)
        if now_ms - since < self._look_ms:
            return []
        self._looked[rollout.plan.id] = now_ms
        changes: dict[str, dict[str, float]] = {}
        for device in (name for group in rollout.panel() for name in group):
            now = _measured(db, device, since, now_ms)
            before = _measured(db, device, began - 24 * self._look_ms, began)
            if now is not None and before is not None:
                changes[device] = quality.change(now, before)
        return rollout.look(changes, since_ms=since, now_ms=now_ms)

    def _previous_to_republish(self, id: str) -> tuple[Path, Release] | None:
        rollout = self.rollout(id)
        if rollout is None or not rollout.to_republish:
            return None
        with self._store.read() as db:
            row = db.execute(select(rollouts).where(rollouts.c.id == id)).one()
        return Path(row.previous), rollout.plan.release

    def _save(
        self, db: Connection, rollout: Rollout, entries: Sequence[Entry], now_ms: int
    ) -> None:
        id = rollout.plan.id
        if not entries:
            return
        db.execute(
            insert(rollout_log),
            [{"rollout": id, "number": e.number, "entry": e.to_json()} for e in entries],
        )
        values = {"state": rollout.state.value, "changed_ms": now_ms}
        db.execute(update(rollouts).where(rollouts.c.id == id).values(**values))
        stopped = False
        for entry in entries:
            kind = type(entry.event).__name__.lower()
            stopped = stopped or kind in ("halted", "resumed")
            if isinstance(entry.event, SILENT):
                continue
            if isinstance(entry.event, Targeted):
                self._assign(db, rollout, entry.event.devices, now_ms)
            text = f"{kind}: {entry.reason}" if entry.reason else kind
            journal.note(
                db, "rollout", id, text, now_ms=now_ms,
                facts={"who": entry.who, **entry.to_json()["event"]},
            )  # fmt: skip
        if stopped:  # who has not begun must not begin, or may again
            self._assign(db, rollout, tuple(rollout.devices.progress), now_ms)

    def _assign(self, db: Connection, rollout: Rollout, names: Sequence[str], now_ms: int) -> None:
        targets = [(name, rollout.target(name) or rollout.plan.previous) for name in names]
        counters = [(name, target.counter) for name, target in targets]
        assignments.assign(db, counters, now_ms=now_ms)


def log_of(db: Connection, id: str) -> list[Entry]:
    """All that happened in a rollout. Raises ConfigError for one that nobody knows."""
    if db.execute(select(rollouts.c.id).where(rollouts.c.id == id)).one_or_none() is None:
        raise ConfigError(f"rollout {id}: there is none with that id")
    return _entries(db, id)


def _replayed(db: Connection, row: Row[Any]) -> Rollout:
    try:
        return Rollout.replay(from_json(Plan, row.plan), _entries(db, row.id))
    except ValueError as error:
        raise StorageError(str(error)) from error


def _entries(db: Connection, id: str, *, since: int = 0) -> list[Entry]:
    mine = select(rollout_log.c.entry).where(
        rollout_log.c.rollout == id, rollout_log.c.number >= since
    )
    return [Entry.from_json(plain) for plain in db.scalars(mine.order_by(rollout_log.c.number))]


def _measured(db: Connection, device: str, since_ms: int, until_ms: int) -> dict[str, float] | None:
    rows = select(telemetry).where(
        telemetry.c.device == device,
        telemetry.c.received_ms > since_ms,
        telemetry.c.received_ms <= until_ms,
    )
    return quality.measured([report_of(row) for row in db.execute(rows)])


def _report(row: Row[Any]) -> UpdateReport:
    running = row.running_counter is not None and Model(
        name=row.running_name, version=row.running_version, release_counter=row.running_counter,
        manifest_sha256=bytes(32), precision="unknown",
    )  # fmt: skip
    return UpdateReport(
        session=row.session, sequence=row.sequence, attempt=row.attempt, target=row.target,
        target_counter=row.target_counter, state=row.state, running=running or None,
        progress=row.progress, error=row.error, at_ms=row.at_ms,
    )  # fmt: skip
