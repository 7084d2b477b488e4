"""A segment recognised without being built is the one that would have been built."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.codec import decode, encode, glance, pack, unpack
from edge_runtime.contract.fields import to_plain
from edge_runtime.contract.messages import Segment
from edge_runtime.contract.records import SpokenWord
from edge_runtime.errors import ContractError
from tests.edge_runtime.contract.examples import messages, records

seconds = st.floats(0, 86_400) | st.floats(0, 65_504, width=16) | st.floats(0, 86_400, width=32)
chances = st.floats(0, 1) | st.floats(0, 1, width=16) | st.floats(0, 1, width=32)
words = st.builds(
    SpokenWord,
    word=st.text(min_size=1, max_size=30).filter(lambda text: len(text.encode()) <= 500),
    start_s=seconds, end_s=seconds, confidence=chances,
)  # fmt: skip


def a_segment(spoken: list[SpokenWord]) -> Segment:
    from tests.autotrain_cloud.fleet import segment

    return dataclasses.replace(segment(1), words=tuple(spoken))


def seen(data: bytes) -> Any:
    """The message that a glance finds, or what `decode` says where it finds none."""
    found = glance(memoryview(data))
    if found is None:
        return decode(data)
    fields, where = found
    fields |= {"audio": data[where.audio], "words": unpack(data[where.words])}
    try:
        whole = decode(pack(fields))
    except ContractError as error:
        raise AssertionError("recognised, and yet not right") from error
    assert encode(whole) == data
    return whole


def outcome(data: bytes, decoder: Any) -> Any:
    try:
        return decoder(data)
    except ContractError:
        return "refused"


@given(st.lists(words, max_size=150))
def test_words_are_the_same_whether_or_not_they_are_recognised(spoken: list[SpokenWord]) -> None:
    segment = a_segment(spoken)
    assert seen(encode(segment)) == segment


@given(records(Segment))
def test_any_segment_is_the_same_whether_or_not_it_is_recognised(segment: Segment) -> None:
    assert seen(encode(segment)) == segment


@pytest.mark.parametrize("count", [0, 1, 12, 64, 65, 300])
@pytest.mark.parametrize("word", ["word", "w\u00f6rt", "\u8a00\u8449"])
def test_an_ordinary_segment_is_recognised(count: int, word: str) -> None:
    spoken = tuple(
        SpokenWord(word=f"{word}{n}", start_s=n * 0.31, end_s=n * 0.31 + 0.27, confidence=0.9)
        for n in range(count)
    )
    segment = dataclasses.replace(
        a_segment([]), words=spoken, text=" ".join(each.word for each in spoken),
        audio=bytes(70_000), reasons=("unsure", "random"), consent="c" * 36, language="pt-BR",
    )  # fmt: skip
    data = encode(segment)
    found = glance(data)
    assert found is not None
    fields, where = found
    assert data[where.audio] == segment.audio
    assert data[where.words] == pack(to_plain(spoken))
    assert fields == to_plain(segment) | {"v": 1, "type": "segment", "audio": b"", "words": []}


@given(st.data())
def test_what_is_refused_is_the_same(data: st.DataObject) -> None:
    spoken = data.draw(st.lists(words, min_size=1, max_size=4))
    good = encode(a_segment(spoken)) if data.draw(st.booleans()) else encode(data.draw(messages()))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    assert outcome(bad, seen) == outcome(bad, decode)


def test_wherever_one_byte_is_another_the_outcome_is_the_same() -> None:
    spoken = [SpokenWord(word="w\u00f6rt", start_s=0.5, end_s=0.77, confidence=0.9)]
    good = encode(dataclasses.replace(a_segment(spoken), audio=b"audio", audio_sha256=bytes(32)))
    others = (0, 1, 0x17, 0x18, 0x40, 0x60, 0x78, 0x80, 0xF4, 0xF6, 0xFF)
    for at, byte in enumerate(good):
        for other in {*others, byte ^ 1, byte ^ 0x20, byte ^ 0x80} - {byte}:
            bad = good[:at] + bytes([other]) + good[at + 1 :]
            assert outcome(bad, seen) == outcome(bad, decode), (at, other)


@given(st.integers(0, 1 << 53), st.floats(0, 1), st.floats(0, 86_400, width=32))
def test_numbers_are_only_taken_in_their_shortest_form(
    number: int, chance: float, seconds: float
) -> None:
    segment = dataclasses.replace(
        a_segment([]), sequence=number, confidence=chance, duration_s=seconds
    )
    good = encode(segment)
    assert seen(good) == segment
    for key, value, wide in (
        (b"hsequence", number, b"\x1b" + number.to_bytes(8, "big")),
        (b"jconfidence", chance, b"\xfb" + struct.pack(">d", chance)),
        (b"jduration_s", seconds, b"\xfb" + struct.pack(">d", seconds)),
        (b"jduration_s", seconds, b"\xfa" + struct.pack(">f", seconds)),
    ):
        other = good.replace(key + pack(value), key + wide)
        assert outcome(other, seen) == outcome(other, decode)


def test_a_list_of_words_in_another_message_is_not_taken_for_a_segments() -> None:
    from tests.autotrain_cloud.fleet import birth

    spoken = [{"word": "a", "start_s": 0.5, "end_s": 0.75, "confidence": 0.5}]
    other = birth(extra={"words": spoken})
    assert glance(encode(other)) is None
    assert seen(encode(other)) == other
