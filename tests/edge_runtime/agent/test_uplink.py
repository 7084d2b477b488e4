"""Through any network, every segment arrives, and none is deleted before it has."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.agent import exchange
from edge_runtime.agent.outbox import Item
from edge_runtime.agent.uplink import (
    GRACE_MS,
    LAST_RETRY_MS,
    MAX_MESSAGES,
    PACKET_TOO_LARGE,
    PAUSE_MS,
    RECEIPT_MS,
    Uplink,
)
from edge_runtime.contract.codec import encode
from edge_runtime.contract.messages import (
    Birth,
    Command,
    Consent,
    Death,
    IngestState,
    Nack,
    Segment,
    Telemetry,
)
from edge_runtime.contract.records import Histogram, Model, Tombstone
from tests.edge_runtime.agent.world import World

HOUR = 3_600_000
MODEL = Model(
    name="en-demo", version="1", release_counter=1, manifest_sha256=bytes(32), precision="float32"
)


def segments(count: int, size: int = 300) -> list[Item]:
    """Encoded segments whose audio has `size` bytes."""
    items = []
    for number in range(count):
        audio = random.Random(number).randbytes(size)
        segment = Segment(
            id=f"{number:032x}",
            session=1,
            sequence=number,
            captured_ms=number,
            clock_is_set=True,
            duration_s=1.0,
            sample_rate=16_000,
            codec="pcm16",
            audio=audio,
            audio_sha256=hashlib.sha256(audio).digest(),
            model=MODEL,
            text="",
            words=(),
            confidence=0.5,
            deletion_score=0.0,
            reasons=("unsure",),
            inclusion_probability=1.0,
            random_probability=0.01,
            consent="c-1",
        )
        items.append(
            Item(
                id=segment.id,
                consent="c-1",
                value=0.5,
                inclusion_probability=1.0,
                expires_ms=1 << 50,
                payload=encode(segment),
            )
        )
    return items


def tombstones(count: int) -> list[Tombstone]:
    return [
        Tombstone(
            id=f"{1000 + number:032x}", fate="evicted", reason="made room", at_ms=number,
            inclusion_probability=0.5,
        )
        for number in range(count)
    ]  # fmt: skip


def telemetry(sequence: int) -> Telemetry:
    none = Histogram(bounds=(0.5,), counts=(0, 0), total=0.0)
    return Telemetry(
        session=1, sequence=sequence, start_ms=0, end_ms=1, model=MODEL, utterances=0, speech_s=0.0,
        confidence=none, word_confidence=none, deletion_score=none, first_word_s=none, final_s=none,
        real_time_factor=0.0, selected={}, vetoed={}, unsampled=0, queued=0, queued_bytes=0, dead=0,
        crashes=0,
    )  # fmt: skip


@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(1, 15),
    size=st.sampled_from([200, 3000]),
    badness=st.floats(0, 0.4),
    terms=st.fixed_dictionaries(
        {},
        optional={
            "receive_maximum": st.integers(1, 30),
            "maximum_packet_size": st.sampled_from([2200, 4000, 200_000]),
        },
    ),
)
@settings(max_examples=100)
def test_every_segment_is_committed_once_and_none_is_deleted_before(
    seed: int, count: int, size: int, badness: float, terms: dict[str, int]
) -> None:
    items = segments(count, size)
    world = World(seed, items, badness=badness, **terms)
    world.refuse = {item.id for item in items if world.rng.random() < 0.1}
    world.tombstones = {each.id: each for each in tombstones(count)}
    world.run(5 * RECEIPT_MS)  # asserts on the way that only what is committed is deleted
    world.badness = 0.0  # the network recovers: from here on all must arrive
    world.run(world.now + 3 * HOUR)
    assert world.outbox == {}
    assert set(world.dead) == world.refuse
    assert world.tombstones == {}
    assert world.reported == {each.id for each in tombstones(count)}
    good = {item.id: item.payload for item in items if item.id not in world.refuse}
    assert {id: world.store[id] for id in world.commits} == good
    assert sorted(world.commits) == sorted(good)
    limit = terms.get("maximum_packet_size", 1 << 30)
    assert max(world.sent_bytes) < limit


def test_a_good_network_takes_one_packet_for_each_segment() -> None:
    world = World(1, segments(200), badness=0.0)
    world.run(HOUR)
    assert (len(world.store), len(world.sent_bytes), world.warnings) == (200, 200, [])


def test_a_segment_larger_than_a_packet_goes_in_parts() -> None:
    [item] = segments(1, size=400_000)
    world = World(1, [item], badness=0.0)
    world.run(HOUR)
    assert world.store == {item.id: item.payload}
    assert len(world.sent_bytes) == 4
    assert max(world.sent_bytes) <= 120_000


def test_what_no_number_of_parts_can_carry_is_set_aside_and_the_rest_goes_on() -> None:
    [large] = segments(1, size=50_000)
    small = segments(3)[1:]
    world = World(1, [large, *small], badness=0.0, maximum_packet_size=1200)
    world.run(HOUR)
    assert "part" in world.dead[large.id]
    assert set(world.store) == {item.id for item in small}


def test_a_cloud_that_accepts_nothing_gets_nothing_until_it_does() -> None:
    world = World(1, segments(30), badness=0.0)
    world.state = IngestState(accepting=False, version=5)
    world.run(HOUR)
    assert world.sent_bytes == []
    assert len(world.outbox) == 30
    old = IngestState(accepting=True, version=4)
    world.tell(exchange.Received(old))
    world.run(2 * HOUR)
    assert world.sent_bytes == []
    world.state = IngestState(accepting=True, version=6)
    world.tell(exchange.Received(world.state))
    world.run(3 * HOUR)
    assert len(world.store) == 30


def test_a_cloud_that_says_nothing_is_believed_to_accept_after_a_while() -> None:
    world = World(1, segments(3), badness=0.0)
    world.run(0)
    world.down.clear()
    world.tell(exchange.Tick())
    world.down.clear()
    world.run(GRACE_MS - 1)
    assert world.sent_bytes == []
    world.run(HOUR)
    assert len(world.store) == 3


def test_a_rate_that_the_cloud_asks_for_is_kept() -> None:
    world = World(1, segments(100), badness=0.0)
    world.state = IngestState(accepting=True, version=1, segments_per_minute=6.0)
    world.run(5 * 60_000)
    assert 28 <= len(world.store) <= 31


def test_reconnecting_is_spread_over_all_of_a_time_that_grows_to_its_bound() -> None:
    delays: list[list[int]] = [[] for _ in range(12)]
    for seed in range(400):
        machine = Uplink("a", 1, random.Random(seed))
        now = 0
        for attempt in range(12):
            machine.handle(exchange.Tick(), now_ms=now)
            [wait] = machine.handle(exchange.Disconnected(), now_ms=now)[-1:]
            assert isinstance(wait, exchange.Wait)
            delays[attempt].append(wait.until_ms - now)
            now = wait.until_ms
    for attempt, drawn in enumerate(delays):
        bound = min(LAST_RETRY_MS, 1000 << attempt)
        assert max(drawn) <= bound
        assert sum(drawn) / len(drawn) == pytest.approx(bound / 2, rel=0.15)


def test_a_broker_that_is_gone_is_not_asked_all_the_time() -> None:
    world = World(1, segments(3), badness=0.0)
    world.broker_is_up = False
    world.run(24 * HOUR)
    assert 24 * HOUR / LAST_RETRY_MS < len(world.connects) < 4 * 24 * HOUR / LAST_RETRY_MS
    world.broker_is_up = True
    world.run(25 * HOUR)
    assert world.outbox == {}


def _sending() -> World:
    """Connected, with twenty segments on their way and nothing answered yet."""
    world = World(1, segments(60), badness=0.0)
    world.run(1)
    assert len(world.sent_bytes) == 20
    return world


def test_without_receipts_ever_less_is_in_flight() -> None:
    world = World(1, segments(60), badness=0.0)
    world.copies = lambda: 0  # type: ignore[method-assign]
    world.run(RECEIPT_MS - 1000)
    first = len(world.sent_bytes)
    assert first == 20
    world.run(8 * RECEIPT_MS)
    sent = len(world.sent_bytes) - first
    assert 10 + 5 + 2 + 1 <= sent <= 10 + 5 + 2 + 1 * 5
    assert len(world.outbox) == 60


@pytest.mark.parametrize("code", [0x10, 0x87, 0x97])
def test_a_broker_that_refuses_is_left_alone_for_a_while_and_nothing_is_lost(code: int) -> None:
    world = _sending()
    tokens = [token for _, token in world.acknowledging]
    world.acknowledging.clear()
    world.up.clear()
    for token in tokens:
        for action in world.uplink.handle(exchange.Acknowledged(token, code), now_ms=world.now):
            assert not isinstance(action, exchange.Ask | exchange.Publish | exchange.Delivered)
            world.do(action)
    assert bool(world.warnings) == (code != 0x10)
    before = len(world.sent_bytes)
    world.run(PAUSE_MS - 1000)
    assert len(world.sent_bytes) == before
    world.run(HOUR)
    assert world.outbox == {}
    assert len(world.store) == 60


def test_a_segment_refused_for_now_is_not_asked_for_again_at_once() -> None:
    [item] = segments(1)
    machine = Uplink("a", 1, random.Random(1))
    birth = Birth(session=1, connected_ms=0, clock_is_set=True, agent="1", model=None)
    accepting = exchange.Received(IngestState(accepting=True, version=1))
    busy = exchange.Received(Nack(id=item.id, permanent=False, reason="busy"))
    events = (
        exchange.Tick(),
        exchange.Connected(birth=birth),
        accepting,
        exchange.Offered((item,)),
        busy,
    )

    def asked(event: exchange.Event, now_ms: int) -> list[frozenset[str]]:
        actions = machine.handle(event, now_ms=now_ms)
        return [action.exclude for action in actions if isinstance(action, exchange.Ask)]

    for event in events:
        asked(event, 0)
    assert asked(exchange.Tick(), PAUSE_MS - 1) == [{item.id}]
    assert asked(exchange.Tick(), PAUSE_MS) == [frozenset()]


def test_a_broken_connection_makes_nobody_wait_for_receipts_that_are_overdue() -> None:
    world = _sending()
    world.up.clear()
    world.hang_up()
    world.tell(exchange.Disconnected())
    world.run(RECEIPT_MS // 2)
    assert len(world.store) == 60


def test_a_packet_that_the_broker_finds_too_large_is_cut_smaller() -> None:
    [item] = segments(1, size=100_000)
    world = World(1, [item], badness=0.0)
    world.run(1)
    [(_, token)] = [entry for entry in world.acknowledging if entry[1] > 1]
    world.acknowledging.clear()
    world.up.clear()
    world.tell(exchange.Acknowledged(token, PACKET_TOO_LARGE))
    world.run(HOUR)
    assert world.store == {item.id: item.payload}
    assert [size > 60_000 for size in world.sent_bytes] == [True, False, False]
    assert world.warnings == ["the broker refused a packet: reason code 0x95"]


def test_a_restart_sends_again_what_was_in_flight_under_a_new_session() -> None:
    world = _sending()
    world.up.clear()
    world.start()
    world.run(HOUR)
    assert world.session == 2
    assert len(world.sent_bytes) == 80
    assert len(world.store) == 60


@given(seed=st.integers(0, 1 << 32), badness=st.floats(0, 0.4), count=st.integers(1, 40))
@settings(max_examples=30)
def test_messages_that_no_receipt_answers_wait_until_the_broker_has_them(
    seed: int, badness: float, count: int
) -> None:
    world = World(seed, [], badness=badness)
    world.start = lambda: None  # type: ignore[method-assign]  # they do not outlive the process
    for sequence in range(count):
        world.tell(exchange.Say(telemetry(sequence)))
        world.run(world.now + world.rng.randrange(1, 60_000))
    world.badness = 0.0
    world.run(world.now + 3 * HOUR)
    arrived = [each.sequence for each in world.arrived if isinstance(each, Telemetry)]
    assert set(arrived) == set(range(count))
    assert world.uplink.waiting == 0
    if not badness:
        assert len(arrived) == count


def test_a_message_that_nobody_listens_to_is_kept_and_one_that_is_refused_is_not() -> None:
    for code, kept in ((0x10, True), (0x97, True), (0x87, False), (0x99, False)):
        world = World(1, [], badness=0.0)
        world.tell(exchange.Say(telemetry(7)))
        world.run(1)
        [(token, _)] = world.published.items()
        world.acknowledging.clear()
        world.tell(exchange.Acknowledged(token, code))
        assert (world.uplink.waiting == 1) == kept
        world.published.clear()
        world.run(PAUSE_MS // 2)
        assert telemetry(7) not in world.arrived
        world.run(HOUR)
        assert (telemetry(7) in world.arrived) == kept


def test_the_oldest_telemetry_makes_room_when_too_much_waits() -> None:
    machine = Uplink("a", 1, random.Random(1))
    for sequence in range(MAX_MESSAGES):
        machine.handle(exchange.Say(telemetry(sequence)), now_ms=0)
    actions = machine.handle(exchange.Say(telemetry(MAX_MESSAGES)), now_ms=0)
    assert machine.waiting == MAX_MESSAGES
    assert [type(action) for action in actions] == [exchange.Warn, exchange.Wait]


def test_what_is_for_others_is_handed_on() -> None:
    world = World(1, [], badness=0.0)
    consent = Consent(id="c", version=1, granted=True, from_ms=0)
    command = Command(id="0" * 32, name="report", issued_ms=0, expires_ms=1)
    for message in (consent, command):
        world.tell(exchange.Received(message))
    assert world.handed_on == [consent, command]


def test_a_goodbye_is_said_and_then_nothing_more() -> None:
    world = World(1, segments(3), badness=0.0)
    world.run(1)
    world.tell(exchange.Stop())
    world.run(world.now + 10_000)
    assert world.gone
    assert [each for each in world.arrived if isinstance(each, Death)] == [
        Death(session=1, graceful=True)
    ]
    assert [type(each) for each in world.uplink.handle(exchange.Tick(), now_ms=HOUR)] == [
        exchange.Wait
    ]


def test_a_goodbye_without_a_connection_takes_no_time() -> None:
    machine = Uplink("a", 1, random.Random(1))
    machine.handle(exchange.Tick(), now_ms=0)
    actions = machine.handle(exchange.Stop(), now_ms=5)
    assert isinstance(actions[0], exchange.Hangup)
