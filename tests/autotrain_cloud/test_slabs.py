"""Packets in shared memory: whole however they come, untouched while held, and then room again."""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_cloud import mqtt5, slabs
from autotrain_cloud.slabs import Slabs

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Slabs of one page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "SIZE", mmap.PAGESIZE)
        patch.setattr(slabs, "COUNT", 3)
        yield


def packet(number: int, size: int) -> bytes:
    return mqtt5.publish(1, "t", bytes([number % 251]) * size)


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=60),
    st.integers(1, 2000),
    st.integers(0, 6),
)
def test_what_is_held_stays_as_it_came_and_all_of_it_comes(
    sizes: list[int], piece: int, most_held: int
) -> None:
    memory = Slabs.make()
    stream = b"".join(packet(number, size) for number, size in enumerate(sizes))
    held: deque[tuple[int, int]] = deque()
    taken = 0

    def let_go() -> None:
        start, number = held.popleft()
        size = sizes[number]
        assert memory.memory[start : start + size] == bytes([number % 251]) * size
        memory.release(start)

    while stream:
        room = memory.room()
        if room is None:
            let_go()
            continue
        some = stream[: min(piece, len(room))]
        room[: len(some)] = some
        memory.filled(len(some))
        stream = stream[len(some) :]
        for first, start, end in memory.packets():
            _, _, at = mqtt5.received(memory.memory[start:end], first)
            assert end - start - at == sizes[taken]
            memory.hold(start + at)
            held.append((start + at, taken))
            taken += 1
            while len(held) > most_held:
                let_go()
    assert taken == len(sizes)
    while held:
        let_go()
    assert memory.room() is not None
    os.close(memory.fileno())


def test_another_process_sees_the_same_bytes() -> None:
    ours = Slabs.make()
    theirs = Slabs(ours.fileno())
    room = ours.room()
    assert room is not None
    room[:5] = b"audio"
    assert theirs.memory[:5] == b"audio"


def test_a_packet_larger_than_a_slab_is_not_waited_for() -> None:
    memory = Slabs.make()
    room = memory.room()
    assert room is not None
    room[:] = packet(0, slabs.SIZE)[: slabs.SIZE]
    memory.filled(slabs.SIZE)
    with pytest.raises(mqtt5.ProtocolError, match="a packet of more than"):
        list(memory.packets())


def test_of_a_broken_connection_nothing_is_left_in_front_of_the_next() -> None:
    memory = Slabs.make()
    for data in (packet(1, 100)[:50], packet(2, 100)):
        room = memory.room()
        assert room is not None
        room[: len(data)] = data
        memory.filled(len(data))
        if len(data) == 50:
            assert list(memory.packets()) == []
            memory.forget()
    [(first, start, end)] = memory.packets()
    assert mqtt5.received(memory.memory[start:end], first)[1] == "t"
