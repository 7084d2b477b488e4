"""Telemetry out of the store, into the monitor; what the monitor finds, back into the store.

States are kept as JSON: one row for the fleet, one for each device. Reading begins a while before
the newest report that was read, because rows are not always committed in the order of their times;
what was read before is passed over.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select, update

from autotrain_cloud.monitor.alarms import Alarm
from autotrain_cloud.monitor.blocks import DeviceState, observe
from autotrain_cloud.monitor.looking import Outcome, due, look
from autotrain_cloud.monitor.settings import MonitorSettings
from autotrain_cloud.monitor.streams import FleetState
from autotrain_cloud.plain import from_json, to_json
from autotrain_cloud.service import journal
from autotrain_cloud.store import Store
from autotrain_cloud.store.schema import alarms, device_slices, monitor, telemetry
from autotrain_cloud.store.sql import insert_new, upsert
from edge_runtime.contract.messages import Telemetry
from edge_runtime.contract.records import Histogram, Model

log = logging.getLogger(__name__)

OVERLAP_MS = 60_000  # a transaction does not take longer
PAGE = 2000  # reports read at once

_HISTOGRAMS = ("confidence", "word_confidence", "deletion_score", "first_word_s", "final_s")


class Watch:
    """The monitor of one store. One process at a time."""

    def __init__(self, store: Store, settings: MonitorSettings) -> None:
        """Raises StorageError for states that cannot be read."""
        self._store = store
        self._settings = settings
        self._devices: dict[str, DeviceState] = {}
        self._fleet = FleetState()
        self._read_ms = 0
        with store.read() as db:
            for row in db.execute(select(monitor)):
                if row.key == "fleet":
                    self._fleet = from_json(FleetState, row.state)
                elif row.key == "read":
                    self._read_ms = row.state["received_ms"]
                elif row.key.startswith("device/"):
                    name = row.key.removeprefix("device/")
                    self._devices[name] = from_json(DeviceState, row.state)

    def step(self, now_ms: int) -> Outcome | None:
        """Takes in what has arrived, and looks if it is time; -> what that found.

        Raises StorageError, and then has changed nothing.
        """
        devices, read_ms = dict(self._devices), self._read_ms
        with self._store.read() as db:
            for row in _arrived(db, self._read_ms - OVERLAP_MS):
                known = devices.get(row.device)
                if known is not None and (row.session, row.sequence) in known.seen:
                    continue  # in a step before: the store has no report twice
                devices[row.device] = observe(
                    known, report_of(row), received_ms=row.received_ms, settings=self._settings
                )
                read_ms = max(read_ms, row.received_ms)
            slices = slices_of(db) if due(self._fleet, now_ms, self._settings) else {}
        fleet, outcome = self._fleet, None
        if not fleet.since_ms:
            fleet = dataclasses.replace(fleet, since_ms=now_ms)
        elif due(fleet, now_ms, self._settings):
            outcome = look(fleet, devices, slices.get, settings=self._settings, now_ms=now_ms)
            fleet, devices = outcome.fleet, outcome.devices
        changed = {
            f"device/{name}": to_json(state)
            for name, state in devices.items()
            if state is not self._devices.get(name)
        }
        if fleet is not self._fleet:
            changed["fleet"] = to_json(fleet)
        if not changed:
            return None
        changed["read"] = {"received_ms": read_ms}
        with self._store.begin() as db:
            if outcome is not None:
                _keep(db, outcome, now_ms)
            statement = upsert(db, monitor)
            db.execute(
                statement.on_conflict_do_update(
                    index_elements=["key"], set_={"state": statement.excluded.state}
                ),
                [{"key": key, "state": state} for key, state in changed.items()],
            )
        self._devices, self._fleet, self._read_ms = devices, fleet, read_ms
        return outcome

    @property
    def fleet(self) -> FleetState:
        """As it was after the last step."""
        return self._fleet

    @property
    def devices(self) -> Mapping[str, DeviceState]:
        """Likewise, by name."""
        return self._devices


def set_slice(db: Connection, device: str, name: str) -> None:
    """What a device belongs to: language, room, microphone, whatever its owner tells apart."""
    statement = upsert(db, device_slices)
    db.execute(
        statement.on_conflict_do_update(
            index_elements=["device"], set_={"slice": statement.excluded.slice}
        ),
        {"device": device, "slice": name},
    )


def slices_of(db: Connection) -> dict[str, str]:
    """Slice of every device that has one."""
    return {row.device: row.slice for row in db.execute(select(device_slices))}


def open_alarms(db: Connection) -> list[Alarm]:
    """The oldest first."""
    rows = select(alarms).where(alarms.c.closed_ms.is_(None))
    ordered = db.execute(rows.order_by(alarms.c.opened_ms, alarms.c.id))
    return [from_json(Alarm, row.facts) for row in ordered]


def report_of(row: Row[Any]) -> Telemetry:
    """The message that a row of the table `telemetry` was made of."""
    return Telemetry(
        session=row.session, sequence=row.sequence, start_ms=row.start_ms, end_ms=row.end_ms,
        model=Model(
            name=row.model_name, version=row.model_version, release_counter=row.model_counter,
            manifest_sha256=bytes.fromhex(row.model_manifest), precision=row.model_precision,
        ),
        utterances=row.utterances, speech_s=row.speech_s,
        **{name: _histogram(getattr(row, name)) for name in _HISTOGRAMS},
        real_time_factor=row.real_time_factor, selected=row.selected, vetoed=row.vetoed,
        unsampled=row.unsampled, queued=row.queued, queued_bytes=row.queued_bytes, dead=row.dead,
        crashes=row.crashes, gauges=row.gauges, extra=row.extra,
    )  # fmt: skip


def _histogram(plain: Mapping[str, Any]) -> Histogram:
    bounds, counts = plain["bounds"], plain["counts"]
    total = float(plain["total"])
    return Histogram(bounds=tuple(map(float, bounds)), counts=tuple(counts), total=total)


def _arrived(db: Connection, after_ms: int) -> Iterator[Row[Any]]:
    new = select(telemetry).where(telemetry.c.received_ms > after_ms)
    ordered = new.order_by(
        telemetry.c.received_ms, telemetry.c.device, telemetry.c.session, telemetry.c.sequence
    )
    yield from db.execute(ordered.execution_options(yield_per=PAGE))


def _keep(db: Connection, outcome: Outcome, now_ms: int) -> None:
    for alarm in outcome.opened:
        row = {
            "id": alarm.id, "level": alarm.level, "name": alarm.name, "model": alarm.model,
            "statistic": alarm.statistic, "change_ms": alarm.change_ms,
            "opened_ms": alarm.opened_ms, "closed_ms": None, "closed_reason": "",
            "text": alarm.text, "facts": to_json(alarm), "run": "",
        }  # fmt: skip
        db.execute(insert_new(db, alarms), row)
        subject = alarm.name or "fleet"
        kind = "alarm" if alarm.may_retrain else "ticket"
        journal.note(db, kind, subject, alarm.text, now_ms=now_ms, facts={"alarm": alarm.id})
    for closed in outcome.closed:
        mine = alarms.c.id == closed.alarm.id
        values = {"closed_ms": closed.at_ms, "closed_reason": closed.reason}
        db.execute(update(alarms).where(mine).values(**values))
        journal.note(
            db, "alarm over", closed.alarm.name or "fleet", closed.reason, now_ms=now_ms,
            facts={"alarm": closed.alarm.id},
        )  # fmt: skip
