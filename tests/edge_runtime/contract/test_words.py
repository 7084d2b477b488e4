"""What is recognised without being built is what would have been built."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.codec import decode, decode_but_words, encode, pack, unpack
from edge_runtime.contract.fields import to_plain
from edge_runtime.contract.messages import Segment
from edge_runtime.contract.records import SpokenWord
from edge_runtime.errors import ContractError
from tests.edge_runtime.contract.examples import messages

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


@given(st.lists(words, max_size=150))
def test_words_are_the_same_whether_or_not_they_are_recognised(spoken: list[SpokenWord]) -> None:
    whole = a_segment(spoken)
    message, packed = decode_but_words(encode(whole))
    if packed is None:
        assert message == whole
    else:
        assert message == dataclasses.replace(whole, words=())
        assert unpack(packed) == to_plain(whole.words)


@pytest.mark.parametrize("count", [1, 12, 64, 65, 300])
def test_ordinary_words_are_recognised(count: int) -> None:
    spoken = [
        SpokenWord(word=f"wört{n}", start_s=n * 0.31, end_s=n * 0.31 + 0.27, confidence=0.9)
        for n in range(count)
    ]
    _, packed = decode_but_words(encode(a_segment(spoken)))
    assert packed == pack(to_plain(tuple(spoken)))


@given(st.data())
def test_what_is_refused_is_the_same(data: st.DataObject) -> None:
    spoken = data.draw(st.lists(words, min_size=1, max_size=4))
    good = encode(a_segment(spoken)) if data.draw(st.booleans()) else encode(data.draw(messages()))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    assert outcome(bad, lambda data: whole(*decode_but_words(data))) == outcome(bad, decode)


def whole(message: Any, packed: bytes | None) -> Any:
    if packed is None:
        return message
    return dataclasses.replace(message, words=tuple(SpokenWord(**each) for each in unpack(packed)))


def outcome(data: bytes, decoder: Any) -> Any:
    try:
        return decoder(data)
    except ContractError:
        return "refused"


def test_a_list_of_words_in_another_message_is_not_taken_for_a_segments() -> None:
    from tests.autotrain_cloud.fleet import birth

    spoken = [to_plain(each) for each in a_segment([]).words] or [
        {"word": "a", "start_s": 0.5, "end_s": 0.75, "confidence": 0.5}
    ]
    other = birth(extra={"words": spoken})
    assert decode_but_words(encode(other)) == (other, None)
