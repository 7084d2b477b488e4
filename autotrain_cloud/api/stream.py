"""Live events: one look at the database in every interval, however many listen.

New events come into a ring; each listener reads from it at its own pace, and what has left the ring
meanwhile from the store, in pages. So nothing is queued for anybody, and nothing is left out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from autotrain_cloud.service import journal
from autotrain_cloud.store import Store
from edge_runtime.errors import StorageError

log = logging.getLogger(__name__)

RING = 1000  # events that are in memory
PAGE = 200
GRACE_MS = 2000  # that a transaction may take between its event's number and its end


def settled(rows: Sequence[Any], after: int, now_ms: int) -> Sequence[Any]:
    """Events up to the first gap that may yet be filled.

    PostgreSQL gives out numbers before transactions end: 7 can be there before 6 is. Who has read 7
    never asks for 6 again. A gap that stays was a transaction that failed.
    """
    expected = after + 1
    for place, row in enumerate(rows):
        if row.number != expected and 0 <= now_ms - row.at_ms < GRACE_MS:
            return rows[:place]
        expected = row.number + 1
    return rows


def after(db: Connection, number: int, *, limit: int = PAGE) -> Sequence[Any]:
    """The next events, the oldest first."""
    rows = journal.since(db, number, limit=limit)
    return settled(rows, number, time.time_ns() // 1_000_000)


def read_after(store: Store, number: int) -> Sequence[Any]:
    """The same. Raises StorageError."""
    with store.read() as db:
        return after(db, number)


class Hub:
    """The events of one store, for listeners of one event loop."""

    def __init__(self, store: Store, *, poll_s: float) -> None:
        self._store, self._poll_s = store, poll_s
        self._ring: deque[Any] = deque(maxlen=RING)
        self._newest: int | None = None  # number of the newest event that was read
        self._came = asyncio.Event()  # replaced whenever it is set
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self.listeners = 0

    def stop(self) -> None:
        """Ends all streams, in the event loop: a server that stops waits for them."""
        self._stopping = True
        self._wake()
        self._rest()

    async def listen(self, number: int, *, heartbeat_s: float, most_s: float) -> AsyncIterator[str]:
        """Text of the stream: the events after the one with this number."""
        clock = time.monotonic
        self.listeners += 1
        ends = clock() + most_s
        try:
            self._poll()
            yield f"retry: 2000\n: events after {number}\n\n"
            while not self._stopping and clock() < ends:
                came = self._came
                rows = await self._after(number)
                for row in rows:
                    number = row.number
                    yield message(row)
                if rows:
                    continue
                try:
                    await asyncio.wait_for(came.wait(), min(heartbeat_s, max(0.0, ends - clock())))
                except asyncio.TimeoutError:
                    yield ": here\n\n"
        finally:
            self.listeners -= 1
            if not self.listeners:
                self._rest()

    def stop_soon(self) -> None:
        """The same from another thread or a signal handler."""
        self._stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.stop)

    async def newest(self) -> int:
        """Number of the newest event. Raises StorageError."""

        def ask() -> int:
            with self._store.read() as db:
                return journal.newest(db)

        return await run_in_threadpool(ask)

    def _rest(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _poll(self) -> None:
        if self._task is None or self._task.done():
            self._ring.clear()
            self._newest = None
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while not self._stopping:
            try:
                await self._look()
            except StorageError as error:
                log.warning("events: %s", error)
            await asyncio.sleep(self._poll_s)

    async def _look(self) -> None:
        if self._newest is None:
            self._newest = await self.newest()
            self._wake()
        while rows := await run_in_threadpool(read_after, self._store, self._newest):
            self._ring.extend(rows)
            self._newest = rows[-1].number
            self._wake()

    async def _after(self, number: int) -> list[Any]:
        """What comes next, from memory if that has it all."""
        if self._newest is not None and number >= self._newest:
            return []
        if self._ring and self._ring[0].number <= number + 1:
            return [row for row in self._ring if row.number > number][:PAGE]
        try:
            rows = await run_in_threadpool(read_after, self._store, number)
        except StorageError as error:
            log.warning("events: %s", error)
            return []
        return list(rows)

    def _wake(self) -> None:
        self._came.set()
        self._came = asyncio.Event()


def message(row: Any) -> str:
    """An event as server-sent events have it; JSON has no line breaks of its own."""
    data = {
        "number": row.number, "at_ms": row.at_ms, "kind": row.kind, "subject": row.subject,
        "text": row.text, "facts": row.facts,
    }  # fmt: skip
    return f"id: {row.number}\nevent: message\ndata: {json.dumps(data)}\n\n"
