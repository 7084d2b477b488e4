"""The shell of the ingest: MQTT on one side, the process with the store on the other.

One thread and no locks: packets are looked at and collected while the store works on the batches
before, so these grow with the load; a packet is acknowledged after its batch is committed, and what
the store wants published is published then. What the broker may send unacknowledged (Receive
Maximum) bounds what is collected.

While the store is not available nothing is acknowledged, all devices are told to wait by a retained
message, and the same batch is tried again with growing pauses. Every connection begins with nothing
under way: what the last one had is in the store or comes again.
"""

from __future__ import annotations

import logging
import os
import random
import select
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotrain_cloud import mqtt5
from autotrain_cloud.ingest import sketch
from autotrain_cloud.ingest_worker import (
    Begin,
    Commit,
    Done,
    Failed,
    Placed,
    Unavailable,
    Worker,
    collect_rarely,
)
from autotrain_cloud.mqtt_link import Link
from autotrain_cloud.settings import CloudSettings
from autotrain_cloud.slabs import SIZE, Slabs
from autotrain_cloud.store.outbox import Outgoing
from edge_runtime.contract.codec import encode
from edge_runtime.contract.glimpse import prepare
from edge_runtime.contract.messages import IngestState
from edge_runtime.contract.topics import CHANNELS, topic_of
from edge_runtime.errors import ConfigError, StorageError

log = logging.getLogger(__name__)

SESSION_S = 3600  # that the broker keeps packets for a worker that is gone
KEEPALIVE_S = 30
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 30.0  # between tries, of store and broker
TICK_S = 0.5  # between looks at what others want published
WINDOW = 64  # messages of ours without the broker's acknowledgement


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request to the worker."""

    request: Begin | Commit
    ids: Sequence[int]  # of the messages in it
    connection: int  # that they came by


class Shell:
    """Runs until `stop` is called, by a signal handler or another thread."""

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        self._group = settings.ingest.group
        self._slabs = Slabs.make()
        self._worker = Worker(settings, self._slabs)
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False
        self._link: Link | None = None
        self._connection = 0  # counts; packets belong to the one they came by
        self._is_up = False
        self._arrived: deque[tuple[int, Placed]] = deque()  # message id, packet
        self._begin: Begin | None = None  # to be asked before anything else
        self._asked: deque[_Asked] = deque()  # with the worker, in the order of its replies
        self._failed: list[_Asked] = []  # to be asked again
        self._again_s = 0.0  # then
        self._failures = 0
        self._finished: list[int] = []
        self._outgoing: deque[Outgoing] = deque()
        self._handed: dict[int, int] = {}  # packet id -> row, or 0
        self._packet_id = 0
        self._window = WINDOW
        self._state_version = 0
        self._published_state: tuple[bool, str] | None = None
        self._next_tick_s = 0.0
        self._next_connect_s = 0.0
        self._connect_failures = 0
        self._rng = random.Random()

    def stop(self) -> None:
        """What has begun is finished first."""
        self._stopping = True
        os.write(self._wake_write, b".")

    def run(self) -> None:
        """Raises ConfigError for what a person has to change, StorageError if the process with the
        store ends by itself.
        """
        prepare()
        collect_rarely()
        try:
            while not (self._stopping and not self._asked):
                self._step()
            self._send()
        finally:
            self._hang_up()
            self._worker.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    # One turn.

    def _step(self) -> None:
        now_s = time.monotonic()
        if self._link is None and now_s >= self._next_connect_s and not self._stopping:
            self._connect(now_s)
        self._ask(now_s)
        self._send()
        link, has_room = self._link, self._has_room()
        more = link is not None and has_room and link.has_more
        reads: list[Any] = [self._wake_read]
        if self._asked:
            reads.append(self._worker)
        if link is not None and has_room:
            reads.append(link)
        writes = [link] if link is not None and link.wants_to_write else []
        readable, writable, _ = select.select(
            reads, writes, [], 0.0 if more else self._patience(now_s)
        )
        if self._wake_read in readable:
            os.read(self._wake_read, 100)
        if self._worker in readable:
            self._replied()
        if link is None:
            return
        try:
            now_s = time.monotonic()
            if more or link in readable:
                for first, start, end in link.read(now_s):
                    self._take(first, start, end)
            if writable:
                link.flush(now_s)
            link.keep_alive(now_s, reading=has_room)
        except (OSError, IndexError, UnicodeDecodeError) as error:
            log.warning("the connection to the broker is gone: %s", error)
            self._lost()

    def _has_room(self) -> bool:
        is_full = len(self._arrived) >= self._settings.ingest.receive_maximum
        return not is_full and self._slabs.room() is not None

    def _patience(self, now_s: float) -> float:
        """Seconds until time alone changes something."""
        times = [now_s + TICK_S]
        if self._is_up and not self._asked and not self._failed:
            times.append(self._next_tick_s)
        if self._failed:
            times.append(self._again_s)
        if self._link is None:
            times.append(self._next_connect_s)
        return max(0.0, min(times) - now_s)

    # The store.

    def _ask(self, now_s: float) -> None:
        if self._failed:
            if now_s >= self._again_s and not self._asked:
                again, self._failed = self._failed, []
                for asked in again:
                    self._tell(asked)
            return
        if not self._is_up or self._stopping:
            return
        if self._begin is not None:
            if not self._asked:
                begin, self._begin = self._begin, None
                self._tell(_Asked(begin, [], self._connection))
            return
        claim = now_s >= self._next_tick_s
        size = min(len(self._arrived), self._settings.ingest.batch)
        # Every commit waits for the disk, so what can be in one should not be in two.
        enough = self._settings.ingest.batch
        is_more = self._link is not None and self._link.has_more and self._has_room()
        if not self._asked:
            enough //= 4
        elif not is_more:
            enough //= 2
        if len(self._asked) > 1 or (size < enough and (self._asked or is_more)):
            return
        if not size and not claim:
            return
        if claim:
            self._next_tick_s = now_s + TICK_S
        taken = [self._arrived.popleft() for _ in range(size)]
        finished, self._finished = self._finished, []
        request = Commit([packet for _, packet in taken], finished, _now_ms(), claim)
        self._tell(_Asked(request, [id for id, _ in taken], self._connection))

    def _release(self, request: Begin | Commit) -> None:
        for start, *_ in request.packets if isinstance(request, Commit) else ():
            self._slabs.release(start)

    def _tell(self, asked: _Asked) -> None:
        try:
            self._worker.ask(asked.request)
        except EOFError:
            raise StorageError(_WORKER_GONE) from None
        self._asked.append(asked)

    def _replied(self) -> None:
        try:
            reply = self._worker.reply()
        except EOFError:
            raise StorageError(_WORKER_GONE) from None
        asked = self._asked.popleft()
        match reply:
            case Done(outgoing, group):
                self._failures = 0
                self._release(asked.request)
                if group and not self._group:
                    self._group = group
                    self._subscribe()
                if asked.connection == self._connection and self._link is not None:
                    self._link.write(b"".join(mqtt5.puback(id) for id in asked.ids if id))
                    self._outgoing.extend(outgoing)
                if not self._failed:
                    self._say(True, "")
            case Unavailable(reason):
                bound = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 20))
                self._failures += 1
                pause = self._rng.uniform(bound / 2, bound)
                self._again_s = time.monotonic() + pause
                log.warning("%s; again in %.1f s", reason, pause)
                self._failed.append(asked)  # when this ends, it comes again: it has no receipt
                self._say(False, reason)
            case Failed(reason):
                raise ConfigError(reason)

    # The broker.

    def _connect(self, now_s: float) -> None:
        ingest, broker = self._settings.ingest, self._settings.broker
        self._connection += 1
        hello = mqtt5.connect(
            client_id=ingest.worker, keepalive_s=KEEPALIVE_S, session_s=SESSION_S,
            receive_maximum=ingest.receive_maximum, maximum_packet_size=SIZE,
        )  # fmt: skip
        try:
            self._link = Link.open(broker, hello, self._slabs, KEEPALIVE_S, now_s)
        except OSError as error:
            log.warning("%s:%d: %s", broker.host, broker.port, error)
            self._lost()

    def _take(self, first: int, start: int, end: int) -> None:
        """A packet from the broker."""
        kind = first >> 4
        body = self._slabs.memory[start:end]
        if kind == mqtt5.PUBLISH:
            id, topic, at = mqtt5.received(body, first)
            self._arrived.append((id, (start + at, end, topic, sketch(topic, body[at:]))))
            self._slabs.hold(start + at)
        elif kind == mqtt5.PUBACK:
            self._acknowledged(int.from_bytes(body[:2], "big"), mqtt5.reason(body))
        elif kind == mqtt5.CONNACK:
            self._connected(bool(body[0] & 1), body[1], mqtt5.properties(body, 2)[0])
        elif kind == mqtt5.SUBACK:
            _, at = mqtt5.properties(body, 2)
            for code in body[at:]:
                if code >= mqtt5.FAILURE:
                    log.error("the broker refuses a subscription: %#x: check its rules", code)
            log.info("subscribed")
        elif kind == mqtt5.DISCONNECT:
            raise ConnectionError(f"the broker says {body[0] if body else 0:#x}")
        elif kind != mqtt5.PINGRESP:
            raise ConnectionError(f"the broker sends a packet of kind {kind}")

    def _connected(self, session_present: bool, code: int, terms: dict[int, int]) -> None:
        if code >= mqtt5.FAILURE:
            raise ConnectionError(f"the broker refuses it: {code:#x}")
        self._connect_failures = 0
        self._window = min(WINDOW, terms.get(mqtt5.RECEIVE_MAXIMUM, 65_535))
        self._published_state = None
        self._is_up = True
        if self._group:  # else the store says it
            self._subscribe()
        log.info("connected; the broker %s us", "knew" if session_present else "forgot")
        self._begin = Begin(_now_ms(), not session_present)

    def _subscribe(self) -> None:
        if self._link is not None and self._is_up:
            self._link.write(mqtt5.subscribe(self._new_packet_id(), filters(self._group)))

    def _new_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % 65_535 + 1
            if self._packet_id not in self._handed:
                return self._packet_id

    def _lost(self) -> None:
        self._hang_up()
        bound = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._connect_failures, 20))
        self._connect_failures += 1
        self._next_connect_s = time.monotonic() + self._rng.uniform(0, bound)

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        self._is_up = False
        for _, (start, *_) in self._arrived:
            self._slabs.release(start)
        self._arrived.clear()
        self._outgoing.clear()
        self._handed.clear()
        if link is not None:
            link.close()

    def _acknowledged(self, id: int, code: int) -> None:
        number = self._handed.pop(id, 0)
        if code >= mqtt5.FAILURE:
            log.error("the broker refuses what is to be published: %#x: check its rules", code)
        elif number:
            self._finished.append(number)

    def _send(self) -> None:
        link = self._link
        if link is None or not self._is_up:
            return
        while self._outgoing and len(self._handed) < self._window:
            out = self._outgoing.popleft()
            id = self._new_packet_id()
            link.write(mqtt5.publish(id, out.topic, out.payload, retain=out.retain))
            self._handed[id] = out.number
        try:
            link.flush(time.monotonic())
        except OSError as error:
            log.warning("the connection to the broker is gone: %s", error)
            self._lost()

    def _say(self, accepting: bool, reason: str) -> None:
        """Tells all devices, if it is something new."""
        if self._link is None or not self._is_up:
            return
        if self._published_state == (accepting, reason):
            return
        self._state_version = max(self._state_version + 1, _now_ms())
        state = IngestState(
            accepting=accepting,
            version=self._state_version,
            segments_per_minute=self._settings.ingest.segments_per_minute,
            reason=reason.encode("ascii", "replace").decode()[:400],
        )
        topic, payload = topic_of("ingest"), encode(state)
        self._outgoing = deque(each for each in self._outgoing if each.number)  # older states
        self._outgoing.appendleft(Outgoing(number=0, topic=topic, payload=payload, retain=True))
        self._published_state = (accepting, reason)


def filters(group: str) -> list[str]:
    """What a worker subscribes to. Retained messages do not come by shared subscriptions, so every
    worker hears of every device's presence."""
    said = [each for each in CHANNELS.values() if each.writer == "device"]
    return [each.filter if each.retained else each.shared(group) for each in said]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_WORKER_GONE = "the process with the store has ended; its last words are above"
