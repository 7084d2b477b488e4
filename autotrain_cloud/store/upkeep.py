"""What has to be done now and then: move audio to its place, delete what is too old."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import Connection, delete, func, select

from autotrain_cloud.settings import RetentionSettings
from autotrain_cloud.store import Store, segments, spool
from autotrain_cloud.store.engine import checkpoint
from autotrain_cloud.store.schema import blobs, dead_letters, parts, telemetry
from edge_runtime.errors import StorageError

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
QUIET_S = 1.0  # without work for so long, audio is moved
PATIENCE_MS = 300_000  # audio that has waited for so long is moved in any case
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
        self._next_forgetting = 0.0
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def busy(self) -> None:
        self._last_busy = time.monotonic()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = QUIET_S
        while not self._stop.wait(pause):
            try:
                pause = 0.0 if self._step() else QUIET_S
            except StorageError as error:
                log.warning("upkeep: %s", error)
                pause = 30.0
            except Exception:
                log.exception("upkeep")
                pause = 30.0

    def _step(self) -> bool:
        """-> whether there is more to do at once."""
        quiet = time.monotonic() - self._last_busy >= QUIET_S
        if (quiet or self._is_late()) and spool.settle(self._store, 32):
            checkpoint(self._store.engine)
            return True
        if quiet and time.monotonic() >= self._next_forgetting:
            forget_old(self._store, self._retention, now_ms=time.time_ns() // 1_000_000)
            spool.bury(self._store)
            self._next_forgetting = time.monotonic() + HOUR_S
        return False

    def _is_late(self) -> bool:
        oldest = select(func.min(blobs.c.created_ms)).where(blobs.c.data.is_not(None))
        with self._store.read() as db:
            created = db.scalar(oldest)
        return created is not None and created < time.time_ns() // 1_000_000 - PATIENCE_MS
