"""How far rollouts are, by their logs: read once, then only what was added."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from autotrain_cloud.api import reads
from autotrain_cloud.plain import from_json
from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.log import Entry
from autotrain_cloud.rollout.plan import Plan
from autotrain_cloud.rollout.progress import Progress
from autotrain_cloud.rollout.states import OVER
from edge_runtime.errors import StorageError

KEPT = 4  # rollouts; a large fleet's takes some ten megabytes
KEPT_OVER = 32  # of those that are over what is shown; some two megabytes


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is shown of a rollout."""

    progress: dict[str, Any]
    devices: Mapping[str, Progress]


def _progress(rollout: Rollout) -> dict[str, Any]:
    return {
        "stage": rollout.stage,
        "stages": list(rollout.plan.limits),
        "approved_by": list(rollout.approved_by),
        "devices": len(rollout.devices.zones),
        "by_status": dict(rollout.devices.summary()),
        "reason": rollout.reason,
        "to_republish": rollout.to_republish,
    }


class Replays:
    """Rollouts as their logs make them, and nothing that could change them. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Rollout] = {}
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
            names = sorted(
                name for name, one in devices.items()
                if name > after and (status is None or one.status == status)
            )  # fmt: skip
            return [
                {
                    "device": name, "counter": devices[name].counter,
                    "status": devices[name].status, "since_ms": devices[name].since_ms,
                }
                for name in names[:limit]
            ]  # fmt: skip

    def _shown(self, db: Connection, row: Row[Any]) -> _Shown:
        over = self._over.pop(row.id, None)
        if over is None:
            rollout = self._current(db, row)
            shown = _Shown(_progress(rollout), rollout.devices.progress)
            if rollout.state not in OVER:
                return shown
            del self._known[row.id]
            over = shown
        while len(self._over) >= KEPT_OVER:
            del self._over[next(iter(self._over))]
        self._over[row.id] = over  # nothing is added to its log any more
        return over

    def _current(self, db: Connection, row: Row[Any]) -> Rollout:
        rollout = self._known.pop(row.id, None) or Rollout(from_json(Plan, row.plan))
        new = reads.rollout_entries(db, row.id, after=len(rollout.entries) - 1)
        try:
            rollout.follow(Entry.from_json(one.entry) for one in new)
        except ValueError as error:
            raise StorageError(str(error)) from error
        while len(self._known) >= KEPT:
            del self._known[next(iter(self._known))]
        self._known[row.id] = rollout  # the newest last
        return rollout
