"""What is put together from parts is what was cut, or is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.codec import encode
from edge_runtime.contract.parts import Assembly, split
from edge_runtime.errors import ContractError

ID = "f" * 32


@given(st.binary(min_size=800, max_size=4000), st.data())
@settings(max_examples=60)
def test_parts_in_any_order_and_any_number_of_times_make_the_whole(
    whole: bytes, data: st.DataObject
) -> None:
    packet = data.draw(st.integers(500, 799))
    parts = split(ID, whole, packet_bytes=packet)
    assert all(len(encode(part)) <= packet for part in parts)
    again = data.draw(st.lists(st.sampled_from(parts)))
    order = data.draw(st.permutations([*parts, *again]))
    assembly = Assembly(order[0])
    seen = set()
    for part in order:
        seen.add(part.index)
        result = assembly.add(part)
        assert (result is not None) == (len(seen) == len(parts))
        if result is not None:
            assert result == whole
            break


def test_the_largest_message_still_fits_into_parts_of_the_usual_packet() -> None:
    parts = split(ID, bytes(1_500_000))
    assert max(len(encode(part)) for part in parts) <= 120_000


def test_what_needs_too_many_parts_is_refused_and_what_needs_none_is_a_mistake() -> None:
    with pytest.raises(ContractError, match="count"):
        split(ID, bytes(100_000), packet_bytes=1000)
    with pytest.raises(ContractError, match="packet_bytes"):
        split(ID, bytes(1000), packet_bytes=100)
    with pytest.raises(ValueError, match="one packet"):
        split(ID, b"x")


def test_a_forged_or_foreign_part_is_refused_and_the_whole_can_be_sent_again() -> None:
    first, second, third = split(ID, bytes(range(256)) * 6, packet_bytes=800)
    assembly = Assembly(first)
    with pytest.raises(ContractError, match="another message"):
        assembly.add(replace(second, id="e" * 32))
    assembly.add(first)
    assembly.add(replace(second, data=bytes(len(second.data))))
    with pytest.raises(ContractError, match="differs"):
        assembly.add(third)
    assembly.add(first)
    with pytest.raises(ContractError, match="more bytes"):
        assembly.add(replace(second, data=bytes(5000)))
    assert [assembly.add(part) for part in (third, second)] == [None, None]
    assert assembly.add(first) == bytes(range(256)) * 6
