"""Devices without microphones: the agent's own uplink, contract and codec, on an asyncio loop.

A device connects with its last will, says that it is there, makes segments at random times, and
deletes each on its receipt and not before. Its outbox is a dictionary; everything else it says and
does is what `edge_runtime.agent.uplink` decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from benchmarks import mqtt5
from edge_runtime.agent import uplink
from edge_runtime.agent.outbox import Item
from edge_runtime.agent.uplink import Uplink
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import Birth, Segment
from edge_runtime.contract.records import Model, SpokenWord, new_id
from edge_runtime.errors import ContractError

KEEPALIVE_S = 120
CONNECT_S = 30.0  # for a connection and the broker's answer together
CONSENT = "consent-1"
MODEL = Model(
    name="en-demo", version="1.0", release_counter=1, manifest_sha256=bytes(32), precision="int8"
)


@dataclass
class Tally:
    """What all devices together did."""

    connected: int = 0
    connects: int = 0
    made: int = 0
    delivered: int = 0
    published: int = 0  # packets of segments, repetitions among them
    receipts: int = 0  # ids in receipts, repetitions among them
    ids: set[str] = field(default_factory=set)  # of all segments made
    dead: dict[str, str] = field(default_factory=dict)  # refused for good: id -> why
    warnings: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)  # of connections, by reason
    latency_s: array[float] = field(default_factory=lambda: array("d"))  # made to receipt
    measuring: bool = False  # whether segments made now count for the latency


class Segments:
    """Makes segments of about so many bytes, each with audio of its own."""

    def __init__(self, size: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._audio = self._rng.randbytes(max(1, size - 600))
        words = "the lamp in the hall is still on and nobody seems to be at home".split()
        self._like = Segment(
            id="0" * 32, session=1, sequence=0, captured_ms=0, clock_is_set=True, duration_s=6.0,
            sample_rate=16_000, codec="opus", audio=b"x", audio_sha256=bytes(32), model=MODEL,
            text=" ".join(words), confidence=0.4, deletion_score=0.1, language="en",
            words=tuple(
                SpokenWord(word=word, start_s=0.4 * n, end_s=0.4 * n + 0.3, confidence=0.5)
                for n, word in enumerate(words)
            ),
            reasons=("unsure",), inclusion_probability=1.0, random_probability=0.02,
            consent=CONSENT,
        )  # fmt: skip

    def make(self, session: int, sequence: int, now_ms: int) -> Item:
        id = new_id(now_ms, self._rng.randbytes(10))
        audio = bytes.fromhex(id) + self._audio
        segment = replace(
            self._like, id=id, session=session, sequence=sequence, captured_ms=now_ms,
            audio=audio, audio_sha256=hashlib.sha256(audio).digest(),
        )  # fmt: skip
        return Item(
            id=id, consent=CONSENT, value=0.6, inclusion_probability=1.0,
            expires_ms=now_ms + 86_400_000, payload=encode(segment),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How devices reach the broker."""

    host: str
    port: int
    tls: Callable[[str], ssl.SSLContext] | None = None  # a device's own; None: by name, no TLS


class Device:
    """One device; `start` it once."""

    def __init__(
        self, name: str, line: Line, segments: Segments, tally: Tally, *, period_s: float, seed: int
    ) -> None:
        self.name = name
        self.outbox: dict[str, tuple[Item, float, bool]] = {}  # id -> segment, when, measured
        self._line, self._segments, self._tally = line, segments, tally
        self._period_s = period_s
        self._rng = random.Random(seed)
        self._uplink = Uplink(name, 1, self._rng)
        self._events: deque[uplink.Event] = deque()
        self._link: mqtt5.Link | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._is_up = False
        self._tokens: dict[int, int] = {}  # packet id -> token
        self._packet_id = 0
        self._sequence = 0
        self._wake: asyncio.TimerHandle | None = None
        self._next: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell(uplink.Tick())
        self._plan()

    def make_no_more(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def stop(self) -> None:
        """For good; the connection ends without a will."""
        self._stopped = True
        self.make_no_more()
        for timer in (self._wake, self._dialling):
            if timer is not None:
                timer.cancel()
        if self._link is not None:
            self._link.write(mqtt5.GOODBYE)
            self._link.end("stopped")

    # What the link tells.

    def connected(self, code: int, properties: dict[int, int]) -> None:
        if code:
            assert self._link is not None
            self._link.end(f"refused: {code:#x}")
            return
        self._is_up = True
        self._tally.connected += 1
        self._tally.connects += 1
        birth = Birth(
            session=1, connected_ms=_now_ms(), clock_is_set=True, agent="fleet-sim", model=MODEL,
            consent=CONSENT,
        )  # fmt: skip
        self._tell(
            uplink.Connected(
                birth=birth,
                receive_maximum=properties.get(mqtt5.RECEIVE_MAXIMUM, 65_535),
                maximum_packet_size=properties.get(mqtt5.MAXIMUM_PACKET_SIZE),
            )
        )

    def acknowledged(self, packet_id: int, code: int) -> None:
        token = self._tokens.pop(packet_id, None)
        if token is not None:
            self._tell(uplink.Acknowledged(token, code))

    def received(self, topic: str, payload: bytes) -> None:
        try:
            self._tell(uplink.Received(decode(payload)))
        except ContractError as error:
            self._tally.warnings[f"{topic}: {error}"] += 1

    def lost(self, reason: str) -> None:
        self._link = None
        self._tokens.clear()
        if self._is_up:
            self._is_up = False
            self._tally.connected -= 1
        if not self._stopped:
            self._tally.ends[reason] += 1
            self._tell(uplink.Disconnected())

    # What the uplink wants.

    def _tell(self, event: uplink.Event) -> None:
        self._events.append(event)
        if len(self._events) > 1:
            return  # being told something already; this comes after it
        while self._events:
            for action in self._uplink.handle(self._events[0], now_ms=_now_ms()):
                self._do(action)
            self._events.popleft()

    def _do(self, action: uplink.Action) -> None:
        match action:
            case uplink.Connect(topic, will):
                self._dialling = self._loop.create_task(self._dial(topic, will))
            case uplink.Subscribe(topics):
                self._write(mqtt5.subscribe(self._new_packet_id(), topics))
            case uplink.Publish(token, topic, payload, retain):
                packet_id = self._new_packet_id()
                self._tokens[packet_id] = token
                self._tally.published += topic.endswith("/segment")
                self._write(mqtt5.publish(packet_id, topic, payload, retain=retain))
            case uplink.Ask(limit, exclude):
                waiting = (item for item, *_ in self.outbox.values() if item.id not in exclude)
                items = tuple(item for item, _ in zip(waiting, range(limit), strict=False))
                self._events.append(uplink.Offered(items))
            case uplink.Delivered(ids):
                self._tally.receipts += len(ids)
                for id in ids:
                    self._delivered(id)
            case uplink.SetAside(id, reason):
                self.outbox.pop(id, None)
                self._tally.dead[id] = reason
            case uplink.Warn(line):
                self._tally.warnings[line] += 1
            case uplink.Wait(until_ms):
                if self._wake is not None:
                    self._wake.cancel()
                rest = max(0.0, (until_ms - _now_ms()) / 1000)
                self._wake = self._loop.call_later(rest, self._tell, uplink.Tick())

    def _delivered(self, id: str) -> None:
        found = self.outbox.pop(id, None)
        if found is not None:
            _, made, measured = found
            self._tally.delivered += 1
            if measured:
                self._tally.latency_s.append(self._loop.time() - made)

    async def _dial(self, will_topic: str, will: bytes) -> None:
        line, secure = self._line, self._line.tls is not None
        hello = mqtt5.connect(
            client_id=self.name, will=(will_topic, will), keepalive_s=KEEPALIVE_S,
            username="" if secure else self.name,
        )  # fmt: skip
        self._link = link = mqtt5.Link(self, hello, KEEPALIVE_S)
        connecting = self._loop.create_connection(
            lambda: link, line.host, line.port, ssl=line.tls(self.name) if line.tls else None
        )
        try:
            await asyncio.wait_for(connecting, CONNECT_S)
        except (OSError, asyncio.TimeoutError) as error:
            link.end(f"no connection: {type(error).__name__}")
        else:
            self._loop.call_later(CONNECT_S, self._expect_answer, link)

    def _expect_answer(self, link: mqtt5.Link) -> None:
        if self._link is link and not self._is_up:
            link.end("no answer")

    def _plan(self) -> None:
        self._next = self._loop.call_later(self._rng.expovariate(1 / self._period_s), self._make)

    def _make(self) -> None:
        self._sequence += 1
        item = self._segments.make(1, self._sequence, _now_ms())
        self.outbox[item.id] = (item, self._loop.time(), self._tally.measuring)
        self._tally.made += 1
        self._tally.ids.add(item.id)
        self._tell(uplink.Tick())
        self._plan()

    def _write(self, data: bytes) -> None:
        if self._link is not None:
            self._link.write(data)

    def _new_packet_id(self) -> int:
        self._packet_id = self._packet_id % 65_535 + 1
        return self._packet_id


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
