"""A broker and a cloud in memory, as bad as they come, around a real uplink.

Packets are dropped although acknowledged, duplicated, held back and reordered, in both directions;
connections break; the device restarts. All of it drawn from one seed, in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from edge_runtime.agent import exchange
from edge_runtime.agent.outbox import Item
from edge_runtime.agent.uplink import Uplink
from edge_runtime.contract.codec import decode
from edge_runtime.contract.messages import (
    Birth,
    IngestState,
    Lost,
    Message,
    Nack,
    Part,
    Receipt,
    Segment,
)
from edge_runtime.contract.parts import Assembly
from edge_runtime.contract.records import Tombstone
from edge_runtime.contract.topics import parse_topic

DEVICE = "device-1"


class World:
    """`badness` is the probability that any one thing goes wrong."""

    def __init__(self, seed: int, items: Iterable[Item], *, badness: float, **terms: int) -> None:
        self.rng = random.Random(seed)
        self.badness = badness
        self.terms = terms
        self.now = 0
        self.outbox = {item.id: item for item in items}
        self.dead: dict[str, str] = {}
        self.store: dict[str, bytes] = {}  # the cloud's
        self.commits: list[str] = []
        self.refuse: set[str] = set()  # ids that the cloud never takes
        self.assemblies: dict[str, Assembly] = {}
        self.up: list[tuple[int, bytes]] = []  # on the way to the cloud: when, packet
        self.down: list[tuple[int, Message]] = []
        self.acknowledging: list[tuple[int, int]] = []
        self.sent_bytes: list[int] = []
        self.connects: list[int] = []
        self.warnings: list[str] = []
        self.published: dict[int, Message] = {}  # token -> what is no segment, on its way
        self.arrived: list[Message] = []  # such messages that the broker acknowledged
        self.tombstones: dict[str, Tombstone] = {}  # not reported yet
        self.reported: set[str] = set()
        self.handed_on: list[Message] = []
        self.gone = False
        self.session = 0
        self.broker_is_up = True
        self.state = IngestState(accepting=True, version=1)
        self.start()

    def start(self) -> None:
        """The agent starts, for the first time or again: what it had in memory is gone."""
        self.session += 1
        self.uplink = Uplink(DEVICE, self.session, random.Random(self.rng.random()))
        self.wake = self.now
        self.hang_up()

    def hang_up(self) -> None:
        self.connected = False
        self.published.clear()
        self.acknowledging.clear()
        self.down.clear()

    def bad(self) -> bool:
        return self.rng.random() < self.badness

    def delay(self) -> int:
        return self.now + self.rng.randrange(1, 30_000 if self.bad() else 200)

    def run(self, until_ms: int) -> None:
        """Lets virtual time pass; stops early when nothing is left to deliver."""
        while self.now < until_ms and (
            self.outbox or self.tombstones or self.uplink.waiting or self.badness
        ):
            times = [at for at, _ in (*self.up, *self.down, *self.acknowledging)]
            self.now = min([self.wake, *times, until_ms])
            if self.bad() and self.bad():
                self.start()
            if self.connected and self.bad() and self.bad():
                self.hang_up()
                self.tell(exchange.Disconnected())
            self.arrive()
            if self.wake <= self.now:
                self.wake = self.now + 1
                self.tell(exchange.Tick())

    def arrive(self) -> None:
        for at, token in [entry for entry in self.acknowledging if entry[0] <= self.now]:
            if (at, token) in self.acknowledging:  # unless the connection broke meanwhile
                self.acknowledging.remove((at, token))
                if token in self.published:
                    self.arrived.append(self.published.pop(token))
                self.tell(exchange.Acknowledged(token))
        packets = [entry for entry in self.up if entry[0] <= self.now]
        self.up = [entry for entry in self.up if entry[0] > self.now]
        for _, packet in packets:
            self.ingest(packet)
        for entry in [entry for entry in self.down if entry[0] <= self.now]:
            if entry in self.down:
                self.down.remove(entry)
                self.tell(exchange.Received(entry[1]))

    def ingest(self, packet: bytes) -> None:
        message = decode(packet)
        if isinstance(message, Part):
            assembly = self.assemblies.setdefault(message.id, Assembly(message))
            whole = assembly.add(message)
            if whole is None:
                return
            packet, message = whole, decode(whole)
        assert isinstance(message, Segment | Lost)
        if message.id in self.refuse:
            self.answer(Nack(id=message.id, permanent=True, reason="malformed"))
            return
        if not self.state.accepting or (self.bad() and message.id not in self.store):
            self.answer(Nack(id=message.id, permanent=False, reason="busy"))
            return
        if message.id not in self.store:
            self.store[message.id] = packet
            if isinstance(message, Segment):
                self.commits.append(message.id)
            else:
                self.reported |= {tombstone.id for tombstone in message.tombstones}
        self.answer(Receipt(ids=(message.id,)))

    def loss_report(self, limit: int) -> Lost | None:
        first = tuple(self.tombstones.values())[:limit]
        id = f"{self.rng.getrandbits(128):032x}"
        return Lost(id=id, session=self.session, tombstones=first) if first else None

    def answer(self, message: Message) -> None:
        if self.connected:
            for _ in range(self.copies()):
                self.down.append((self.delay(), message))

    def copies(self) -> int:
        return self.rng.choice([0, 0, 2]) if self.bad() else 1

    def tell(self, event: exchange.Event) -> None:
        for action in self.uplink.handle(event, now_ms=self.now):
            self.do(action)

    def do(self, action: exchange.Action) -> None:
        match action:
            case exchange.Connect():
                self.connects.append(self.now)
                if self.bad() or not self.broker_is_up:
                    self.tell(exchange.Disconnected())
                else:
                    self.connected = True
                    birth = Birth(
                        session=self.session, connected_ms=self.now, clock_is_set=True, agent="1",
                        model=None,
                    )  # fmt: skip
                    self.tell(exchange.Connected(birth=birth, **self.terms))
                    self.down.append((self.now + 1, self.state))
            case exchange.Publish(token, topic, payload):
                assert self.connected
                channel, device = parse_topic(topic)
                assert device == DEVICE
                decode(payload, allowed=channel.carries)
                at_once = channel.name == "presence"
                self.acknowledging.append((self.now + 1 if at_once else self.delay(), token))
                most = min(20, self.terms.get("receive_maximum", 20))
                assert len(self.acknowledging) <= most
                if channel.name in ("segment", "lost"):
                    if channel.name == "segment":
                        self.sent_bytes.append(len(payload))
                    self.up += [(self.delay(), payload) for _ in range(self.copies())]
                else:
                    self.published[token] = decode(payload)
            case exchange.Ask(limit, exclude):
                waiting = [item for item in self.outbox.values() if item.id not in exclude]
                self.tell(exchange.Offered(tuple(waiting[:limit])))
            case exchange.AskLosses(limit):
                self.tell(exchange.Losses(self.loss_report(limit)))
            case exchange.Reported(report):
                assert report.id in self.store, "forgotten before it was committed"
                for tombstone in report.tombstones:
                    self.tombstones.pop(tombstone.id, None)
            case exchange.HandOn(message):
                self.handed_on.append(message)
            case exchange.Hangup():
                self.hang_up()
                self.gone = True
            case exchange.Delivered(ids):
                for id in ids:
                    assert id in self.store, "deleted before it was committed"
                    self.outbox.pop(id, None)
            case exchange.SetAside(id, reason):
                if self.outbox.pop(id, None):
                    self.dead[id] = reason
            case exchange.Warn(line):
                self.warnings.append(line)
            case exchange.Wait(until_ms):
                assert until_ms > self.now
                self.wake = until_ms
