"""The useful review queue of the fleet and of each slice: made from a bounded choice of candidates,
kept for a while, and followed by pages in the state in which they began.

Candidates are the most doubtful labels that wait, and as many of them at random: sorted by doubt
alone, a broken microphone could be all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from autotrain_cloud.api import reads
from autotrain_cloud.api.cursors import BadCursor
from autotrain_cloud.api.kept import Kept
from autotrain_cloud.review import SAMPLE, Asked, Item, ordered_queue

LENGTH = 500  # of a queue
CANDIDATES = 1000  # of either kind
RANDOM_SHARE = 0.1  # of a queue, from all labels
LEAST_S = 30.0  # between two queues
MOST_SLICES = 8  # whose queues are at hand
MOST_QUEUES = 64  # of before, in which pages may go on


@dataclass(frozen=True, slots=True)
class Queue:
    """One that was made; it does not change."""

    number: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """An item of a queue that is still asked."""

    key: tuple[int, int]  # number of the queue, place in it
    facts: Mapping[str, Any]


class Queues:
    """Threads share it."""

    def __init__(self, read: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._number = time.time_ns() // 1000  # another server's cursors are not taken for ours
        self._newest: dict[str | None, Kept[Queue]] = {}
        self._made: dict[int, Queue] = {}

    def warm(self) -> None:
        """The queue of the fleet; and what makes it takes a second or two to import."""
        self._current(None)

    def page(
        self, db: Connection, slice: str | None, *, after: tuple[int, int] | None, limit: int
    ) -> list[Place]:
        """Up to `limit` items of the queue, or of that which `after` is a place in, that nobody has
        answered. Raises BadCursor for a queue that is forgotten.
        """
        if after is None:
            queue, start = self._current(slice), 0
        else:
            found = self._made.get(after[0])
            if found is None or not 0 <= after[1] < len(found.items):
                raise BadCursor("cursor: of a queue that has ended (leave it out to begin)")
            queue, start = found, after[1] + 1
        places: list[Place] = []
        while start < len(queue.items) and len(places) < limit:
            items = queue.items[start : start + limit]
            rows = reads.still_asked(db, [item.segment_id for item in items])
            for place, item in enumerate(items, start):
                row = rows.get(item.segment_id)
                if row is None or (item.why != SAMPLE and row.decision != "review"):
                    continue
                more = {"priority": item.priority, "why": item.why}
                places.append(Place((queue.number, place), {**row._mapping, **more}))
            start += len(items)
        return places[:limit]

    def _current(self, slice: str | None) -> Queue:
        with self._lock:
            kept = self._newest.pop(slice, None)
            if kept is None:
                kept = Kept(lambda: self._make(slice), least_s=LEAST_S, name="review queue")
            self._newest[slice] = kept  # the last asked for last
            while len(self._newest) > MOST_SLICES:
                del self._newest[next(iter(self._newest))]
        return kept.get()

    def _make(self, slice: str | None) -> Queue:
        from threadpoolctl import threadpool_limits

        with self._read() as db:
            sample = reads.drawn(db, slice=slice, limit=round(LENGTH * RANDOM_SHARE))
            doubtful = reads.most_doubtful(db, slice=slice, limit=CANDIDATES)
            others = reads.drawn(db, slice=slice, decision="review", limit=CANDIDATES)
        waiting = {row.segment: _asked(row) for row in (*doubtful, *others)}
        with threadpool_limits(1):  # several would wait for one another, busily
            items = ordered_queue([row.segment for row in sample], list(waiting.values()), LENGTH)
        with self._lock:
            self._number += 1
            queue = Queue(self._number, tuple(items))
            self._made[queue.number] = queue
            while len(self._made) > MOST_QUEUES:
                del self._made[next(iter(self._made))]
        return queue


def _asked(row: Any) -> Asked:
    return Asked(
        segment_id=row.segment, text=row.label_text, doubt=row.doubt, reasons=_reasons(row),
        slice=row.slice or "", device=row.device,
    )  # fmt: skip


def why(row: Any) -> str:
    """Of an item that is in no queue."""
    return f"{_reasons(row)}; doubt {row.doubt:.2f}"


def _reasons(row: Any) -> str:
    said: Sequence[Any] = row.provenance.get("reasons") or [row.provenance.get("triage", "")]
    return ", ".join(map(str, filter(None, said))) or "to be reviewed"
