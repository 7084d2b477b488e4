"""How far rollouts are, by their logs: read once, then only what was added."""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import Connection, Row

from autotrain_cloud.api import reads
from autotrain_cloud.plain import from_json
from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.log import Entry
from autotrain_cloud.rollout.plan import Plan
from autotrain_cloud.rollout.states import OVER
from edge_runtime.errors import StorageError

T = TypeVar("T")
KEPT = 4  # rollouts under way; a large fleet's takes some ten megabytes
KEPT_OVER = 32  # of those that are over what is shown; some two megabytes


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is shown of a rollout."""

    progress: dict[str, Any]
    # Device, counter, status, since_ms, by name. As tuples of plain values, because those the
    # garbage collector leaves alone: it would look at every device of every rollout for ever.
    devices: list[tuple[str, int, str, int]]

    @classmethod
    def of(cls, rollout: Rollout) -> _Shown:
        progress = {
            "stage": rollout.stage,
            "stages": list(rollout.plan.limits),
            "approved_by": list(rollout.approved_by),
            "devices": len(rollout.devices.zones),
            "by_status": dict(rollout.devices.summary()),
            "reason": rollout.reason,
            "to_republish": rollout.to_republish,
        }
        devices = rollout.devices.progress.items()
        rows = [(name, one.counter, one.status, one.since_ms) for name, one in devices]
        return cls(progress, sorted(rows))


class Replays:
    """Rollouts as their logs make them, and nothing that could change them. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str, tuple[Rollout, _Shown]] = {}
        self._over: dict[str, _Shown] = {}

    def progress(self, db: Connection, row: Row[Any]) -> dict[str, Any]:
        with self._lock:
            return self._shown(db, row).progress

    def devices(
        self, db: Connection, row: Row[Any], *, status: str | None, after: str, limit: int
    ) -> list[dict[str, Any]]:
        """By name, those that were given a release."""
        with self._lock:
            devices = self._shown(db, row).devices
        start = bisect_right(devices, after, key=itemgetter(0))
        found = (one for one in islice(devices, start, None) if status in (None, one[2]))
        names = ("device", "counter", "status", "since_ms")
        return [dict(zip(names, one, strict=True)) for one in islice(found, limit)]

    def _shown(self, db: Connection, row: Row[Any]) -> _Shown:
        shown = self._over.pop(row.id, None)
        if shown is None:
            rollout, shown = self._current(db, row)
            if rollout.state not in OVER:
                _keep(self._under_way, row.id, (rollout, shown), KEPT)
                return shown
        _keep(self._over, row.id, shown, KEPT_OVER)  # nothing is added to its log any more
        return shown

    def _current(self, db: Connection, row: Row[Any]) -> tuple[Rollout, _Shown]:
        known = self._under_way.pop(row.id, None)
        rollout = known[0] if known else Rollout(from_json(Plan, row.plan))
        new = reads.rollout_log_after(db, row.id, len(rollout.entries) - 1)
        if known and not new:
            return known
        try:
            rollout.follow(map(Entry.from_json, new))
        except ValueError as error:
            raise StorageError(str(error)) from error
        return rollout, _Shown.of(rollout)


def _keep(known: dict[str, T], id: str, value: T, most: int) -> None:
    """The newest last; the oldest go."""
    while len(known) >= most:
        del known[next(iter(known))]
    known[id] = value
