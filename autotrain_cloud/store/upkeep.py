"""What has to be done now and then: delete what is too old, and what nobody knows."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import Connection, delete, func, select

from autotrain_cloud.settings import RetentionSettings
from autotrain_cloud.store import Store, segments, spool
from autotrain_cloud.store.engine import checkpoint
from autotrain_cloud.store.schema import dead_letters, parts, telemetry
from edge_runtime.errors import StorageError

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
QUIET_S = 1.0  # without work for so long, there is time
HOUR_S = 3600.0


def forget_old(store: Store, retention: RetentionSettings, *, now_ms: int) -> int:
    """Deletes what has outlived its retention; -> how many rows. Raises StorageError."""
    count = segments.expire(store, now_ms=now_ms)
    with store.begin() as db:
        for column, days in (
            (parts.c.received_ms, 1),
            (telemetry.c.received_ms, retention.telemetry_days),
            (dead_letters.c.last_ms, retention.dead_letter_days),
        ):
            count += db.execute(
                delete(column.table).where(column < now_ms - days * DAY_MS)
            ).rowcount
        count += _limit_dead_letters(db, retention.dead_letter_megabytes * 1_000_000)
    return count


def _limit_dead_letters(db: Connection, limit: int) -> int:
    """The oldest beyond so many bytes."""
    newer = func.sum(dead_letters.c.size).over(order_by=dead_letters.c.number.desc())
    sums = select(dead_letters.c.number, newer.label("bytes")).subquery()
    beyond = select(sums.c.number).where(sums.c.bytes > limit)
    count = db.execute(delete(dead_letters).where(dead_letters.c.number.in_(beyond))).rowcount
    if count:
        log.warning("dead letters: %d deleted, more than %d bytes", count, limit)
    return count


class Upkeep:
    """Does it in a thread, when there is little else to do. `busy` says that there is."""

    def __init__(self, store: Store, retention: RetentionSettings) -> None:
        self._store = store
        self._retention = retention
        self._stop = threading.Event()
        self._last_busy = 0.0
        self._has_worked = False
        self._next_forgetting = 0.0
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def busy(self) -> None:
        self._last_busy = time.monotonic()
        self._has_worked = True

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = QUIET_S
        while not self._stop.wait(pause):
            try:
                self._step()
                pause = QUIET_S
            except StorageError as error:
                log.warning("upkeep: %s", error)
                pause = 30.0
            except Exception:
                log.exception("upkeep")
                pause = 30.0

    def _step(self) -> None:
        if time.monotonic() - self._last_busy < QUIET_S:
            return
        if self._has_worked:
            self._has_worked = False
            checkpoint(self._store.engine)
        if time.monotonic() >= self._next_forgetting:
            now_ms = time.time_ns() // 1_000_000
            forget_old(self._store, self._retention, now_ms=now_ms)
            spool.sweep(self._store, since_ms=now_ms - DAY_MS)  # a crash's; older ones: `tidy`
            self._next_forgetting = time.monotonic() + HOUR_S
