"""Many devices at one slow cloud, in virtual time: what an outage left behind is worked off."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from edge_runtime.agent import exchange
from edge_runtime.agent.outbox import Item
from edge_runtime.agent.uplink import LAST_PATIENCE_MS, MAX_LATE, MAX_WINDOW, RECEIPT_MS, Uplink
from edge_runtime.contract.messages import Birth, IngestState, Lost, Nack, Receipt
from edge_runtime.contract.records import Tombstone

MINUTE = 60_000
BIRTH = Birth(session=1, connected_ms=0, clock_is_set=True, agent="1", model=None)
ACCEPTING = exchange.Received(IngestState(accepting=True, version=1))


def item(number: int) -> Item:
    return Item(
        id=f"{number:032x}",
        consent="c",
        value=0.5,
        inclusion_probability=1.0,
        expires_ms=1 << 50,
        payload=f"{number:032x}".encode(),
    )


@dataclass
class Device:
    uplink: Uplink
    outbox: dict[str, Item] = field(default_factory=dict)
    wake_ms: int = 0


class Fleet:
    """Each device makes a segment a minute; the cloud commits them one by one, first come first.

    What it has committed already takes it as long as what is new. `capacity` is in times of what
    the fleet makes. A queue in the cloud is lost with the connections.
    """

    def __init__(self, seed: int, devices: int, capacity: float) -> None:
        self.rng = random.Random(seed)
        self.now = self.made = self.sent = 0
        self.service_ms = MINUTE / devices / capacity
        self.is_down = False
        self.queue: deque[tuple[Device, bytes]] = deque()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.devices = [
            Device(Uplink(f"d-{number}", 1, random.Random(self.rng.random())))
            for number in range(devices)
        ]
        for device in self.devices:
            self.at(self.rng.uniform(0, 5_000), self.ticking(device))
            self.at(self.rng.expovariate(1 / MINUTE), self.making(device))
        self.at(0, self.serve)

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what))

    def run(self, until_ms: int) -> None:
        while self.events[0][0] <= until_ms:
            when, _, what = heapq.heappop(self.events)
            self.now = int(when)
            what()

    def waiting(self) -> int:
        return sum(len(device.outbox) for device in self.devices)

    def cut(self) -> None:
        self.is_down = True
        self.queue.clear()
        for device in self.devices:
            self.tell(device, exchange.Disconnected())

    def ticking(self, device: Device) -> Callable[[], None]:
        def tick() -> None:
            if device.wake_ms <= self.now:
                self.tell(device, exchange.Tick())

        return tick

    def making(self, device: Device) -> Callable[[], None]:
        def make() -> None:
            self.made += 1
            made = item(self.made)
            device.outbox[made.id] = made
            self.tell(device, exchange.Tick())
            self.at(self.now + self.rng.expovariate(1 / MINUTE), make)

        return make

    def serve(self) -> None:
        if self.queue:
            device, packet = self.queue.popleft()
            self.tell(device, exchange.Received(Receipt(ids=(packet.decode(),))))
        self.at(self.now + self.service_ms, self.serve)

    def tell(self, device: Device, event: exchange.Event) -> None:
        events = deque([event])
        while events:
            for action in device.uplink.handle(events.popleft(), now_ms=self.now):
                match action:
                    case exchange.Connect():
                        if self.is_down:
                            events.append(exchange.Disconnected())
                        else:
                            events += (exchange.Connected(birth=BIRTH), ACCEPTING)
                    case exchange.Publish(token, topic, payload):
                        events.append(exchange.Acknowledged(token))
                        if topic.endswith("segment"):
                            self.sent += 1
                            self.queue.append((device, payload))
                    case exchange.Ask(limit, exclude):
                        assert len(exclude) <= MAX_WINDOW + MAX_LATE
                        found = [each for id, each in device.outbox.items() if id not in exclude]
                        events.append(exchange.Offered(tuple(found[:limit])))
                    case exchange.Delivered(ids):
                        for id in ids:
                            device.outbox.pop(id, None)
                    case exchange.Wait(until_ms):
                        device.wake_ms = until_ms
                        self.at(max(until_ms, self.now + 1), self.ticking(device))


@pytest.mark.parametrize("seed", [1, 2])
def test_what_an_outage_left_is_worked_off_with_few_repeats(seed: int) -> None:
    fleet = Fleet(seed, devices=40, capacity=1.6)
    fleet.run(2 * MINUTE)
    assert fleet.waiting() <= 3
    fleet.cut()
    fleet.run(17 * MINUTE)
    left = fleet.waiting()
    assert left > 10 * len(fleet.devices)
    fleet.is_down = False
    least = left / len(fleet.devices) / 0.6  # minutes, were the cloud never idle
    end = 22 * MINUTE + round(1.3 * least * MINUTE)  # 5: until all have connected again
    while fleet.waiting() and fleet.now < end:
        fleet.run(fleet.now + 5_000)
    assert fleet.waiting() == 0
    assert fleet.sent <= 1.3 * fleet.made


def _connected(items: tuple[Item, ...]) -> Uplink:
    """With these on their way."""
    machine = Uplink("a", 1, random.Random(1))
    for event in (
        exchange.Tick(),
        exchange.Connected(birth=BIRTH),
        ACCEPTING,
        exchange.Offered(items),
    ):
        for action in machine.handle(event, now_ms=0):
            if isinstance(action, exchange.Publish):
                machine.handle(exchange.Acknowledged(action.token), now_ms=0)
    return machine


def _excluded(machine: Uplink, now_ms: int) -> frozenset[str]:
    [asked] = [
        action.exclude
        for action in machine.handle(exchange.Tick(), now_ms=now_ms)
        if isinstance(action, exchange.Ask)
    ]
    return asked


def test_what_is_late_is_not_sent_again_at_once_and_is_forgotten_in_the_end() -> None:
    items = tuple(map(item, range(MAX_WINDOW)))
    machine = _connected(items)
    ids = frozenset(each.id for each in items)
    assert _excluded(machine, RECEIPT_MS) == ids
    machine.handle(exchange.Received(Receipt(ids=(items[0].id,))), now_ms=RECEIPT_MS)
    assert _excluded(machine, RECEIPT_MS + 1) == ids - {items[0].id}
    # The outbox has evicted the others, so none of them is offered again.
    assert _excluded(machine, RECEIPT_MS + LAST_PATIENCE_MS) == frozenset()


def test_a_cloud_that_refuses_everything_for_now_is_not_offered_everything() -> None:
    machine = Uplink("a", 1, random.Random(1))
    refused = 0
    events: deque[exchange.Event] = deque([exchange.Tick()])
    while events and refused <= 2 * MAX_LATE:
        for action in machine.handle(events.popleft(), now_ms=0):
            match action:
                case exchange.Connect():
                    events += (exchange.Connected(birth=BIRTH), ACCEPTING)
                case exchange.Ask(limit):
                    offered = tuple(item(refused + each) for each in range(limit))
                    refused += limit
                    events.append(exchange.Offered(offered))
                case exchange.Publish(token, _, payload) if token > 1:  # the first is a birth
                    events.append(exchange.Acknowledged(token))
                    nack = Nack(id=payload.decode(), permanent=False, reason="busy")
                    events.append(exchange.Received(nack))
    assert refused == MAX_LATE


def test_a_report_of_losses_that_waits_leaves_segments_their_place() -> None:
    machine = _connected(())
    stone = Tombstone(
        id="f" * 32, fate="evicted", reason="made room", at_ms=1, inclusion_probability=0.5
    )
    machine.handle(exchange.Losses(Lost(id="e" * 32, session=1, tombstones=(stone,))), now_ms=0)
    asked = machine.handle(exchange.Tick(), now_ms=1)
    assert [action.limit for action in asked if isinstance(action, exchange.Ask)] == [MAX_WINDOW]
