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
  slows its devices down. After a connection that broke it starts at two and doubles with every
  round of receipts (slow start, RFC 5681). A cloud that says it accepts nothing gets nothing.
* Late is not lost: a segment whose receipt is missing makes room for others, but is itself sent
  again only after a random time, whose bound doubles with late receipts (as in RFC 6298) and is
  halved by those in time. Repeats sent sooner would fill the very queue in which they wait.
* What no receipt answers, telemetry for one, is kept in memory until the broker has it and somebody
  there listens. Losses are reported like segments: again and again until their receipt.
* A connection is tried again after a random time from nothing to a bound that doubles (full
  jitter), so a fleet that lost its broker does not come back as one.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from edge_runtime.agent.exchange import (
    Acknowledged,
    Action,
    Ask,
    AskLosses,
    Connect,
    Connected,
    Delivered,
    Disconnected,
    Event,
    HandOn,
    Hangup,
    Losses,
    Offered,
    Publish,
    Received,
    Reported,
    Say,
    SetAside,
    Stop,
    Subscribe,
    Tick,
    Wait,
    Warn,
)
from edge_runtime.agent.outbox import Item
from edge_runtime.contract.codec import MAX_PACKET_BYTES, encode
from edge_runtime.contract.messages import (
    Assignment,
    Birth,
    Command,
    Consent,
    Death,
    Erase,
    IngestState,
    Lost,
    Message,
    Nack,
    Receipt,
    Telemetry,
)
from edge_runtime.contract.parts import split
from edge_runtime.contract.topics import channel_of, check_device, topic_of
from edge_runtime.errors import ContractError

MAX_WINDOW = 20  # packets with the MQTT client, and segments without a receipt
FIRST_WINDOW = 2  # the latter, after a connection that broke
MAX_LATE = 100  # segments that are late or refused for now: with so many, no more are sent
RECEIPT_MS = 60_000  # without a receipt for so long, a segment is late
LAST_PATIENCE_MS = 960_000  # bound of the time until what is late is sent again
FIRST_RETRY_MS, LAST_RETRY_MS = 1_000, 300_000  # bounds of the time to the next connection
PAUSE_MS = 60_000  # after the broker or the cloud said "not now"
GRACE_MS = 5_000  # that a new connection waits to hear whether the cloud accepts anything
LOSSES_MS = 60_000  # between two looks for losses to report
GOODBYE_MS = 2_000  # that a goodbye may take
MAX_MESSAGES = 1_000  # that wait without a connection; the oldest telemetry makes room
PACKET_OVERHEAD = 512  # bytes of an MQTT PUBLISH around its payload: topic and properties

# Reason codes of MQTT 5, table 2-6.
NO_SUBSCRIBERS = 0x10
PACKET_TOO_LARGE = 0x95
FOR_NOW = (NO_SUBSCRIBERS, 0x80, 0x83, 0x93, 0x97)  # that may pass: the same packet is sent again


class Uplink:
    """See the module. `session` rises with every start of the agent; `rng` draws the jitter."""

    def __init__(self, device: str, session: int, rng: random.Random) -> None:
        self._device = check_device(device)
        self._session = session
        self._rng = rng
        self._state = "down"  # or "connecting", "up", "leaving", "gone"
        self._failures = 0
        self._next_connect_ms = 0
        self._grace_ms = 0  # until then, no word from the cloud means wait
        self._token = 0
        self._window = float(MAX_WINDOW)  # segments
        self._threshold = float(MAX_WINDOW)  # of the window: below, every receipt adds one
        self._patience_ms = RECEIPT_MS  # from late to sent again, at most
        self._patient_ms = 0  # until then, what is late does not lengthen it: it is the same jam
        self._ingest: IngestState | None = None
        self._next_segment_ms = 0  # rate limit, pauses
        self._next_message_ms = 0  # pauses
        self._next_losses_ms = 0
        self._held: dict[str, int] = {}  # refused for now -> not before
        self._messages: deque[Message] = deque()  # that no receipt answers
        self._handed: dict[int, str | Message | None] = {}
        self._forget()

    def _forget(self) -> None:
        """What one connection knows."""
        self._packet_bytes = MAX_PACKET_BYTES
        self._receive_maximum = MAX_WINDOW
        self._flights: dict[str, int] = {}  # segment, loss report -> time its receipt is overdue
        self._late: dict[str, int] = {}  # segment without a receipt -> not again before
        self._unsent: deque[tuple[str, str, bytes]] = deque()  # id, channel, packet
        again = [each for each in self._handed.values() if isinstance(each, Message)]
        self._messages.extendleft(reversed(again))
        self._handed = {}  # token -> segment, message, or None for what need not arrive
        self._losses: Lost | None = None  # in flight
        self._asked_for = 0  # segments; until they come, or time passes, no more are asked for

    @property
    def state(self) -> str:
        """In a word: down, connecting, up, leaving, gone."""
        return self._state

    @property
    def accepting(self) -> bool | None:
        """What the cloud said last of whether it takes anything; None: nothing yet."""
        return None if self._ingest is None else self._ingest.accepting

    @property
    def waiting(self) -> int:
        """Messages, apart from segments, that the broker does not have."""
        return len(self._messages) + len(
            [each for each in self._handed.values() if isinstance(each, Message)]
        )

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
            case Losses(report):
                actions += self._lost(report, now_ms)
            case Say(message):
                actions += self._say(message)
            case Stop():
                actions += self._leave(now_ms)
            case Tick():
                self._asked_for = 0
        self._overdue(now_ms)
        actions += self._next(now_ms)
        actions.append(Wait(self._wake(now_ms)))
        return actions

    def _connected(self, event: Connected, now_ms: int) -> Iterable[Action]:
        if self._state in ("leaving", "gone"):
            return
        self._forget()
        self._state = "up"
        self._failures = 0
        self._grace_ms = now_ms + GRACE_MS
        self._receive_maximum = max(1, min(MAX_WINDOW, event.receive_maximum))
        if event.maximum_packet_size is not None:
            self._packet_bytes = min(MAX_PACKET_BYTES, event.maximum_packet_size - PACKET_OVERHEAD)
        mine = ("receipt", "consent", "erase", "assignment", "command")
        down = (topic_of(channel, self._device) for channel in mine)
        yield Subscribe((*down, topic_of("ingest")))
        self._messages = deque(each for each in self._messages if not isinstance(each, Birth))
        yield self._publish(event.birth, None)

    def _publish(self, message: Message, about: Message | None) -> Publish:
        """Hands a message over; `about` comes back if it does not arrive."""
        channel = channel_of(message)
        token = self._new_token()
        self._handed[token] = about
        topic = topic_of(channel.name, self._device)
        return Publish(token, topic, encode(message), retain=channel.retained)

    def _disconnected(self, now_ms: int) -> None:
        self._forget()
        if self._state == "leaving":
            self._next_connect_ms = now_ms  # nobody to say goodbye to
        if self._state in ("leaving", "gone"):
            return
        if self._state == "up":
            self._threshold = max(FIRST_WINDOW, self._threshold, self._window)
            self._window = min(self._window, float(FIRST_WINDOW))
        self._state = "down"
        bound = min(LAST_RETRY_MS, FIRST_RETRY_MS << min(self._failures, 20))
        self._failures += 1
        self._next_connect_ms = now_ms + round(self._rng.uniform(0, bound))

    def _acknowledged(self, token: int, code: int, now_ms: int) -> Iterable[Action]:
        if token not in self._handed:
            return
        handed = self._handed.pop(token)
        if self._state == "leaving" and not self._handed:
            self._next_connect_ms = now_ms  # the goodbye has arrived
        if code == 0:
            return
        if code != NO_SUBSCRIBERS:
            yield Warn(f"the broker refused a packet: reason code 0x{code:02x}")
        if isinstance(handed, Message):
            if code in FOR_NOW:
                self._messages.appendleft(handed)
                self._next_message_ms = now_ms + PAUSE_MS
            return
        if handed is None:
            return
        if code == PACKET_TOO_LARGE and self._packet_bytes > 2048:
            self._packet_bytes //= 2
        else:
            self._next_segment_ms = max(self._next_segment_ms, now_ms + PAUSE_MS)
        self._land(handed)  # it will not arrive, so its receipt need not be awaited

    def _received(self, message: Message, now_ms: int) -> Iterable[Action]:
        match message:
            case Receipt(ids=ids):
                if self._losses is not None and self._losses.id in ids:
                    yield Reported(self._losses)
                    self._next_losses_ms = now_ms  # there may be more
                for id in ids:
                    if self._land(id):
                        step = 1 if self._window < self._threshold else 1 / self._window
                        self._window = min(MAX_WINDOW, self._window + step)
                        self._patience_ms = max(RECEIPT_MS, self._patience_ms // 2)
                    self._held.pop(id, None)
                    self._late.pop(id, None)
                yield Delivered(ids)
            case Nack(id=id, permanent=permanent, reason=reason, detail=detail):
                why = f"{reason}: {detail}" if detail else reason
                if self._losses is not None and self._losses.id == id:
                    yield Warn(f"the cloud refused a report of losses: {why}")
                    if permanent:
                        yield Reported(self._losses)
                    self._next_losses_ms = now_ms + PAUSE_MS
                    self._land(id)
                    return
                self._land(id)
                self._late.pop(id, None)
                if permanent:
                    self._held.pop(id, None)
                    yield SetAside(id, why)
                else:
                    self._held[id] = now_ms + PAUSE_MS
                    self._slow_down()
            case IngestState():
                if self._ingest is None or message.version >= self._ingest.version:
                    if message.accepting and message != self._ingest:  # somebody is there now
                        self._next_segment_ms = self._next_message_ms = now_ms
                    self._ingest = message
            case Consent() | Erase() | Assignment() | Command():
                yield HandOn(message)
            case _:
                pass

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
            self._unsent.extend((item.id, "segment", packet) for packet in packets)
            if self._ingest is not None and self._ingest.segments_per_minute:
                gap = round(60_000 / self._ingest.segments_per_minute)
                self._next_segment_ms = max(self._next_segment_ms, now_ms) + gap

    def _packets(self, item: Item) -> list[bytes]:
        if len(item.payload) <= self._packet_bytes:
            return [item.payload]
        parts = split(item.id, item.payload, packet_bytes=self._packet_bytes)
        return [encode(part) for part in parts]

    def _lost(self, report: Lost | None, now_ms: int) -> Iterable[Action]:
        if report is None or self._state != "up" or self._losses is not None:
            return
        packet = encode(report)
        if len(packet) > self._packet_bytes:
            yield Warn(f"a report of losses has {len(packet)} bytes, too many for the broker")
            return
        self._losses = report
        self._flights[report.id] = now_ms + RECEIPT_MS
        self._unsent.append((report.id, "lost", packet))

    def _say(self, message: Message) -> Iterable[Action]:
        if isinstance(message, Birth):  # the last one counts
            self._messages = deque(each for each in self._messages if not isinstance(each, Birth))
        self._messages.append(message)
        if len(self._messages) > MAX_MESSAGES:
            telemetry = (each for each in self._messages if isinstance(each, Telemetry))
            self._messages.remove(next(telemetry, self._messages[0]))
            yield Warn(f"more than {MAX_MESSAGES} messages wait: the oldest was dropped")

    def _leave(self, now_ms: int) -> Iterable[Action]:
        if self._state in ("leaving", "gone"):
            return
        up, self._state = self._state == "up", "leaving"
        self._next_connect_ms = now_ms
        if up:
            self._handed = {}
            self._next_connect_ms = now_ms + GOODBYE_MS
            yield self._publish(Death(session=self._session, graceful=True), None)

    def _overdue(self, now_ms: int) -> None:
        late = [id for id, due in self._flights.items() if due <= now_ms]
        for id in late:
            if self._losses is None or self._losses.id != id:
                self._late[id] = now_ms + self._patience()
            self._land(id)
        if late:
            self._slow_down()
            if now_ms >= self._patient_ms:
                self._patience_ms = min(LAST_PATIENCE_MS, 2 * self._patience_ms)
                self._patient_ms = now_ms + RECEIPT_MS
        self._held = {id: until for id, until in self._held.items() if until > now_ms}
        self._late = {id: until for id, until in self._late.items() if until > now_ms}

    def _slow_down(self) -> None:
        self._threshold = self._window = max(1.0, self._window / 2)

    def _patience(self) -> int:
        """From late to sent again; drawn, so that devices do not repeat all at once."""
        return round(self._patience_ms * self._rng.uniform(0.5, 1))

    def _land(self, id: str) -> bool:
        """No longer in flight; its packets that are still here are not sent."""
        if self._flights.pop(id, None) is None:
            return False
        if self._losses is not None and self._losses.id == id:
            self._losses = None
        self._unsent = deque(packet for packet in self._unsent if packet[0] != id)
        return True

    def _next(self, now_ms: int) -> Iterable[Action]:
        if self._state == "leaving" and now_ms >= self._next_connect_ms:
            self._state = "gone"
            yield Hangup()
        if self._state == "down" and now_ms >= self._next_connect_ms:
            self._state = "connecting"
            will = encode(Death(session=self._session))
            yield Connect(topic_of("presence", self._device), will)
        if self._state != "up" or not self._accepting(now_ms):
            return
        while self._messages and self._has_room() and now_ms >= self._next_message_ms:
            message = self._messages.popleft()
            yield self._publish(message, message)
        while self._unsent and self._has_room():
            id, channel, packet = self._unsent.popleft()
            token = self._new_token()
            self._handed[token] = id
            self._flights[id] = now_ms + RECEIPT_MS  # counts from its last packet
            yield Publish(token, topic_of(channel, self._device), packet)
        if self._losses is None and now_ms >= self._next_losses_ms:
            self._next_losses_ms = now_ms + LOSSES_MS
            yield AskLosses(max(1, min(100, (self._packet_bytes - 3_000) // 700)))
        room = int(self._window) - len(self._flights) + (self._losses is not None)
        room = min(room, MAX_LATE - len(self._late) - len(self._held))
        if room > 0 and not self._asked_for and now_ms >= self._next_segment_ms:
            limited = self._ingest is not None and self._ingest.segments_per_minute
            self._asked_for = 1 if limited else room
            yield Ask(self._asked_for, frozenset((*self._flights, *self._held, *self._late)))

    def _has_room(self) -> bool:
        return len(self._handed) < self._receive_maximum

    def _accepting(self, now_ms: int) -> bool:
        if self._ingest is None:
            return now_ms >= self._grace_ms
        return self._ingest.accepting

    def _wake(self, now_ms: int) -> int:
        """When time alone will change something; at most a minute ahead."""
        times = [*self._flights.values(), *self._held.values(), *self._late.values()]
        times += [self._next_segment_ms, self._grace_ms, self._next_losses_ms]
        if self._messages:
            times.append(self._next_message_ms)
        if self._state in ("down", "leaving"):
            times.append(self._next_connect_ms)
        return min((each for each in times if each > now_ms), default=now_ms + RECEIPT_MS)

    def _new_token(self) -> int:
        self._token += 1
        return self._token
