"""A broker and a cloud in memory, as bad as they come, around a real uplink.

Packets are dropped although acknowledged, duplicated, held back and reordered, in both directions;
connections break; the device restarts. All of it drawn from one seed, in virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from edge_runtime.agent import uplink
from edge_runtime.agent.outbox import Item
from edge_runtime.agent.uplink import Uplink
from edge_runtime.contract.codec import decode
from edge_runtime.contract.messages import Birth, IngestState, Message, Nack, Part, Receipt, Segment
from edge_runtime.contract.parts import Assembly
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
        self.acknowledging.clear()
        self.down.clear()

    def bad(self) -> bool:
        return self.rng.random() < self.badness

    def delay(self) -> int:
        return self.now + self.rng.randrange(1, 30_000 if self.bad() else 200)

    def run(self, until_ms: int) -> None:
        """Lets virtual time pass; stops early when nothing is left to deliver."""
        while self.now < until_ms and (self.outbox or self.badness):
            times = [at for at, _ in (*self.up, *self.down, *self.acknowledging)]
            self.now = min([self.wake, *times, until_ms])
            if self.bad() and self.bad():
                self.start()
            if self.connected and self.bad() and self.bad():
                self.hang_up()
                self.tell(uplink.Disconnected())
            self.arrive()
            if self.wake <= self.now:
                self.wake = self.now + 1
                self.tell(uplink.Tick())

    def arrive(self) -> None:
        for at, token in [entry for entry in self.acknowledging if entry[0] <= self.now]:
            if (at, token) in self.acknowledging:  # unless the connection broke meanwhile
                self.acknowledging.remove((at, token))
                self.tell(uplink.Acknowledged(token))
        packets = [entry for entry in self.up if entry[0] <= self.now]
        self.up = [entry for entry in self.up if entry[0] > self.now]
        for _, packet in packets:
            self.ingest(packet)
        for entry in [entry for entry in self.down if entry[0] <= self.now]:
            if entry in self.down:
                self.down.remove(entry)
                self.tell(uplink.Received(entry[1]))

    def ingest(self, packet: bytes) -> None:
        message = decode(packet)
        if isinstance(message, Part):
            assembly = self.assemblies.setdefault(message.id, Assembly(message))
            whole = assembly.add(message)
            if whole is None:
                return
            packet, message = whole, decode(whole)
        assert isinstance(message, Segment)
        if message.id in self.refuse:
            self.answer(Nack(id=message.id, permanent=True, reason="malformed"))
            return
        if not self.state.accepting or (self.bad() and message.id not in self.store):
            self.answer(Nack(id=message.id, permanent=False, reason="busy"))
            return
        if message.id not in self.store:
            self.store[message.id] = packet
            self.commits.append(message.id)
        self.answer(Receipt(ids=(message.id,)))

    def answer(self, message: Message) -> None:
        if self.connected:
            for _ in range(self.copies()):
                self.down.append((self.delay(), message))

    def copies(self) -> int:
        return self.rng.choice([0, 0, 2]) if self.bad() else 1

    def tell(self, event: uplink.Event) -> None:
        for action in self.uplink.handle(event, now_ms=self.now):
            self.do(action)

    def do(self, action: uplink.Action) -> None:
        match action:
            case uplink.Connect():
                self.connects.append(self.now)
                if self.bad() or not self.broker_is_up:
                    self.tell(uplink.Disconnected())
                else:
                    self.connected = True
                    birth = Birth(
                        session=self.session, connected_ms=self.now, clock_is_set=True, agent="1",
                        model=None,
                    )  # fmt: skip
                    self.tell(uplink.Connected(birth=birth, **self.terms))
                    self.down.append((self.now + 1, self.state))
            case uplink.Publish(token, topic, payload):
                assert self.connected
                channel, device = parse_topic(topic)
                assert device == DEVICE
                decode(payload, allowed=channel.carries)
                self.acknowledging.append((self.delay(), token))
                if channel.name == "segment":
                    self.sent_bytes.append(len(payload))
                    most = min(20, self.terms.get("receive_maximum", 20)) + 1  # and the birth
                    assert len(self.acknowledging) <= most
                    self.up += [(self.delay(), payload) for _ in range(self.copies())]
            case uplink.Ask(limit, exclude):
                waiting = [item for item in self.outbox.values() if item.id not in exclude]
                self.tell(uplink.Offered(tuple(waiting[:limit])))
            case uplink.Delivered(ids):
                for id in ids:
                    assert id in self.store, "deleted before it was committed"
                    self.outbox.pop(id, None)
            case uplink.SetAside(id, reason):
                if self.outbox.pop(id, None):
                    self.dead[id] = reason
            case uplink.Warn(line):
                self.warnings.append(line)
            case uplink.Wait(until_ms):
                assert until_ms > self.now
                self.wake = until_ms
