"""How far each device is, and who is next."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

WAITING, UPDATING = "waiting", "updating"
COMMITTED, FAILED, TIMED_OUT = "committed", "failed", "timed-out"
BAD = (FAILED, TIMED_OUT)
DONE = (COMMITTED, *BAD)


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a device that has a target."""

    counter: int  # of the target
    status: str  # WAITING: no sign of life yet, UPDATING, or one of DONE
    since_ms: int  # of that status
    report: tuple[int, int] = (-1, -1)  # session and sequence number of the newest that counted


class Devices:
    """The devices of a rollout. Holds no rules, only what is the case."""

    def __init__(self) -> None:
        self.zones: dict[str, str] = {}
        self.buckets: dict[str, float] = {}
        self.progress: dict[str, Progress] = {}
        self.counts: Counter[tuple[int, str]] = Counter()  # devices by counter and status
        self.touched: list[str] = []  # in the order in which they were given the release
        self._queues: dict[str, list[tuple[float, str]]] = {}  # by zone, heaps of those without
        self._running: dict[str, int] = {}  # UPDATING, oldest first

    def join(self, device: str, zone: str, bucket: float) -> None:
        if device in self.zones:
            return
        self.zones[device] = zone
        self.buckets[device] = bucket
        heapq.heappush(self._queues.setdefault(zone, []), (bucket, device))

    def next(self, limit: float, zones: Sequence[str], most: int) -> list[str]:
        """Up to `most` devices below `limit` of these zones that have no target; lowest first."""
        found: list[tuple[float, str]] = []
        for zone in zones:
            queue = self._queues[zone]
            taken: list[tuple[float, str]] = []
            while queue and queue[0][0] < limit and len(taken) < most:
                taken.append(heapq.heappop(queue))
            for item in taken:  # they leave when they are targeted
                heapq.heappush(queue, item)
            found += taken
        return [device for _, device in sorted(found)[:most]]

    def last(self, most: int) -> list[str]:
        """Devices without a target, those first whose turn comes last."""
        queued = (item for queue in self._queues.values() for item in queue)
        return [device for _, device in heapq.nlargest(most, queued)]

    def left(self, limit: float) -> bool:
        """Whether there is a device below `limit` without a target."""
        return any(queue and queue[0][0] < limit for queue in self._queues.values())

    def queues(self) -> Iterator[str]:
        """Zones in which devices have no target."""
        return (zone for zone, queue in self._queues.items() if queue)

    def target(self, device: str, counter: int, at_ms: int) -> None:
        if device not in self.progress:
            self.touched.append(device)
            queue = self._queues[self.zones[device]]
            if queue[0][1] == device:
                heapq.heappop(queue)
            else:
                queue.remove((self.buckets[device], device))
                heapq.heapify(queue)
        self._set(device, Progress(counter, WAITING, at_ms))

    def contact(self, device: str, at_ms: int) -> None:
        self._set(device, replace(self.progress[device], status=UPDATING, since_ms=at_ms))

    def finish(self, device: str, outcome: str, at_ms: int, report: tuple[int, int]) -> None:
        old = self.progress[device]
        since_ms = old.since_ms if old.status == outcome else at_ms
        self._set(device, Progress(old.counter, outcome, since_ms, max(report, old.report)))

    def overdue(self, before_ms: int) -> list[str]:
        """UPDATING since before that."""
        found = []
        for device, since_ms in self._running.items():
            if since_ms > before_ms:
                break
            found.append(device)
        return found

    def count(self, counter: int, *statuses: str) -> int:
        return sum(self.counts[counter, status] for status in statuses)

    def _set(self, device: str, new: Progress) -> None:
        old = self.progress.get(device)
        if old is not None:
            self.counts[old.counter, old.status] -= 1
            self._running.pop(device, None)
        self.progress[device] = new
        self.counts[new.counter, new.status] += 1
        if new.status == UPDATING:
            self._running[device] = new.since_ms

    def summary(self) -> Mapping[str, int]:
        """Devices by status, of whatever target."""
        found: Counter[str] = Counter()
        for (_, status), count in self.counts.items():
            found[status] += count
        return {status: count for status, count in found.items() if count}
