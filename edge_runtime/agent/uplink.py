"""Bringing what lies in the outbox to the cloud: a state machine without sockets, files or clocks.

    for action in uplink.handle(event, now_ms=now):
        ...                                        # connect, publish, delete, wait

The shell turns what happens into events and actions into calls. Rules:

* Only a receipt, sent by the cloud after its commit, deletes a segment. An acknowledgement of the
  broker means that one packet may follow, and nothing else.
* What is in flight is known here alone. A connection or process that ends forgets it, and it is
  offered again; the cloud knows it by its id.
* No more packets are handed to the MQTT client than the broker takes at once, none is larger than
  the broker takes, and what is larger is cut into parts.
* A missing receipt halves the number of segments in flight, a receipt raises it, so a slow cloud
  slows its devices down. A cloud that says it accepts nothing gets nothing.
* A connection is tried again after a random time from nothing to a bound that doubles (full
  jitter), so a fleet that lost its broker does not come back as one.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.agent.outbox import Item
from edge_runtime.contract.codec import MAX_PACKET_BYTES, encode
from edge_runtime.contract.messages import Birth, Death, IngestState, Message, Nack, Receipt
from edge_runtime.contract.parts import split
from edge_runtime.contract.topics import check_device, topic_of
from edge_runtime.errors import ContractError

MAX_WINDOW = 20  # packets with the MQTT client, and segments without a receipt
RECEIPT_MS = 60_000  # without a receipt for so long, a segment is sent again
FIRST_RETRY_MS, LAST_RETRY_MS = 1_000, 300_000  # bounds of the time to the next connection
PAUSE_MS = 60_000  # after the broker or the cloud said "not now"
GRACE_MS = 5_000  # that a new connection waits to hear whether the cloud accepts anything
PACKET_OVERHEAD = 512  # bytes of an MQTT PUBLISH around its payload: topic and properties

# Reason codes of MQTT 5, table 2-6.
NO_SUBSCRIBERS = 0x10
PACKET_TOO_LARGE = 0x95


# What happens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The broker took the connection, on these terms."""

    birth: Birth
    receive_maximum: int = 65_535  # packets it takes without acknowledging
    maximum_packet_size: int | None = None  # bytes; None: it names no limit


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or did not come about."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has a packet, or refuses it: a reason code of 0x80 and more."""

    token: int  # of the Publish
    code: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the cloud."""

    message: Message


@dataclass(frozen=True, slots=True)
class Offered:
    """The answer to Ask: the next segments of the outbox, possibly none."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, or something new lies in the outbox."""


Event = Connected | Disconnected | Acknowledged | Received | Offered | Tick


# What to do.


@dataclass(frozen=True, slots=True)
class Connect:
    """Begin to connect, with this last will. Answer: Connected or Disconnected."""

    will_topic: str
    will: bytes


@dataclass(frozen=True, slots=True)
class Subscribe:
    """To these topics, QoS 1."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """A packet, QoS 1. Answer: Acknowledged, or Disconnected."""

    token: int
    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """For the next segments of the outbox. Answer: Offered."""

    limit: int
    exclude: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delivered:
    """Delete these: the cloud has them."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetAside:
    """A dead letter: the cloud will never take it."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Something a person should know."""

    line: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Send a Tick at this time at the latest; replaces the Wait before."""

    until_ms: int


Action = Connect | Subscribe | Publish | Ask | Delivered | SetAside | Warn | Wait


class Uplink:
    """See the module. `session` rises with every start of the agent; `rng` draws the jitter."""

    def __init__(self, device: str, session: int, rng: random.Random) -> None:
        self._device = check_device(device)
        self._session = session
        self._rng = rng
        self._state = "down"  # or "connecting", "up"
        self._failures = 0
        self._next_connect_ms = 0
        self._grace_ms = 0  # until then, no word from the cloud means wait
        self._token = 0
        self._window = float(MAX_WINDOW)  # segments
        self._ingest: IngestState | None = None
        self._next_segment_ms = 0  # rate limit, pauses
        self._held: dict[str, int] = {}  # refused for now -> not before
        self._forget()

    def _forget(self) -> None:
        """What one connection knows."""
        self._packet_bytes = MAX_PACKET_BYTES
        self._receive_maximum = MAX_WINDOW
        self._flights: dict[str, int] = {}  # segment -> time its receipt is overdue
        self._unsent: deque[tuple[str, bytes]] = deque()  # segment, packet
        self._handed: dict[int, str] = {}  # token -> segment
        self._asked_for = 0  # segments; until they come, or time passes, no more are asked for

    def handle(self, event: Event, *, now_ms: int) -> list[Action]:
        """What to do about it, in this order."""
        actions: list[Action] = []
        match event:
            case Connected():
                actions += self._connected(event, now_ms)
            case Disconnected():
                self._disconnected(now_ms)
            case Acknowledged(token, code):
                actions += self._acknowledged(token, code, now_ms)
            case Received(message):
                actions += self._received(message, now_ms)
            case Offered(items):
                actions += self._offered(items, now_ms)
            case Tick():
                self._asked_for = 0
        self._overdue(now_ms)
        actions += self._next(now_ms)
        actions.append(Wait(self._wake(now_ms)))
        return actions

    def _connected(self, event: Connected, now_ms: int) -> Iterable[Action]:
        self._forget()
        self._state = "up"
        self._failures = 0
        self._grace_ms = now_ms + GRACE_MS
        self._receive_maximum = max(1, min(MAX_WINDOW, event.receive_maximum))
        if event.maximum_packet_size is not None:
            self._packet_bytes = min(MAX_PACKET_BYTES, event.maximum_packet_size - PACKET_OVERHEAD)
        down = (topic_of(channel, self._device) for channel in ("receipt", "consent", "erase"))
        yield Subscribe((*down, topic_of("command", self._device), topic_of("ingest")))
        presence = topic_of("presence", self._device)
        yield Publish(self._new_token(), presence, encode(event.birth), retain=True)

    def _disconnected(self, now_ms: int) -> None:
        self._forget()
        self._state = "down"
        bound = min(LAST_RETRY_MS, FIRST_RETRY_MS << min(self._failures, 20))
        self._failures += 1
        self._next_connect_ms = now_ms + round(self._rng.uniform(0, bound))

    def _acknowledged(self, token: int, code: int, now_ms: int) -> Iterable[Action]:
        id = self._handed.pop(token, None)
        if id is None or code == 0:
            return
        if code == PACKET_TOO_LARGE and self._packet_bytes > 2048:
            self._packet_bytes //= 2
        else:
            self._next_segment_ms = max(self._next_segment_ms, now_ms + PAUSE_MS)
        if (
            code != NO_SUBSCRIBERS
        ):  # refused: it will not arrive, so its receipt need not be awaited
            self._land(id)
            yield Warn(f"the broker refused a packet: reason code 0x{code:02x}")

    def _received(self, message: Message, now_ms: int) -> Iterable[Action]:
        match message:
            case Receipt(ids=ids):
                for id in ids:
                    if self._land(id):
                        self._window = min(MAX_WINDOW, self._window + 1 / self._window)
                    self._held.pop(id, None)
                yield Delivered(ids)
            case Nack(id=id, permanent=permanent, reason=reason, detail=detail):
                self._land(id)
                if permanent:
                    self._held.pop(id, None)
                    yield SetAside(id, f"{reason}: {detail}" if detail else reason)
                else:
                    self._held[id] = now_ms + PAUSE_MS
                    self._window = max(1.0, self._window / 2)
            case IngestState():
                if self._ingest is None or message.version >= self._ingest.version:
                    self._ingest = message
            case _:
                pass  # consent, erase and commands are others' to handle

    def _offered(self, items: tuple[Item, ...], now_ms: int) -> Iterable[Action]:
        if len(items) >= self._asked_for:  # else there are no more: wait for a Tick
            self._asked_for = 0
        if self._state != "up":
            return
        for item in items:
            if item.id in self._flights:
                continue
            try:
                packets = self._packets(item)
            except ContractError as error:
                yield SetAside(item.id, str(error))
                continue
            self._flights[item.id] = now_ms + RECEIPT_MS
            self._unsent.extend((item.id, packet) for packet in packets)
            if self._ingest is not None and self._ingest.segments_per_minute:
                gap = round(60_000 / self._ingest.segments_per_minute)
                self._next_segment_ms = max(self._next_segment_ms, now_ms) + gap

    def _packets(self, item: Item) -> list[bytes]:
        if len(item.payload) <= self._packet_bytes:
            return [item.payload]
        parts = split(item.id, item.payload, packet_bytes=self._packet_bytes)
        return [encode(part) for part in parts]

    def _overdue(self, now_ms: int) -> None:
        late = [id for id, due in self._flights.items() if due <= now_ms]
        for id in late:
            self._land(id)
        if late:
            self._window = max(1.0, self._window / 2)
        self._held = {id: until for id, until in self._held.items() if until > now_ms}

    def _land(self, id: str) -> bool:
        """No longer in flight; its packets that are still here are not sent."""
        if self._flights.pop(id, None) is None:
            return False
        self._unsent = deque(packet for packet in self._unsent if packet[0] != id)
        return True

    def _next(self, now_ms: int) -> Iterable[Action]:
        if self._state == "down" and now_ms >= self._next_connect_ms:
            self._state = "connecting"
            will = encode(Death(session=self._session))
            yield Connect(topic_of("presence", self._device), will)
        if self._state != "up" or not self._accepting(now_ms):
            return
        while self._unsent and len(self._handed) < self._receive_maximum:
            id, packet = self._unsent.popleft()
            token = self._new_token()
            self._handed[token] = id
            self._flights[id] = now_ms + RECEIPT_MS  # counts from its last packet
            yield Publish(token, topic_of("segment", self._device), packet)
        room = int(self._window) - len(self._flights)
        if room > 0 and not self._asked_for and now_ms >= self._next_segment_ms:
            limited = self._ingest is not None and self._ingest.segments_per_minute
            self._asked_for = 1 if limited else room
            yield Ask(self._asked_for, frozenset((*self._flights, *self._held)))

    def _accepting(self, now_ms: int) -> bool:
        if self._ingest is None:
            return now_ms >= self._grace_ms
        return self._ingest.accepting

    def _wake(self, now_ms: int) -> int:
        """When time alone will change something; at most a minute ahead."""
        times = [*self._flights.values(), *self._held.values()]
        times += [self._next_segment_ms, self._grace_ms]
        if self._state == "down":
            times.append(self._next_connect_ms)
        return min((each for each in times if each > now_ms), default=now_ms + RECEIPT_MS)

    def _new_token(self) -> int:
        self._token += 1
        return self._token
