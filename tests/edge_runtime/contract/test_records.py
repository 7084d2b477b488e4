"""Ids are UUIDs that sort by time; histograms add up."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.messages import Erase
from edge_runtime.contract.records import Histogram, new_id
from edge_runtime.errors import ContractError

times = st.integers(0, (1 << 48) - 1)
entropy = st.binary(min_size=10, max_size=10)


@given(times, entropy)
def test_an_id_is_a_uuid_of_version_seven_that_holds_its_time(at_ms: int, data: bytes) -> None:
    id = new_id(at_ms, data)
    parsed = uuid.UUID(hex=id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == at_ms
    assert Erase(id=id).id == id  # the contract takes it


@given(times, times, entropy, entropy)
def test_ids_sort_by_their_time(first: int, second: int, one: bytes, other: bytes) -> None:
    if first < second:
        assert new_id(first, one) < new_id(second, other)


def test_every_random_bit_counts_but_those_of_version_and_variant() -> None:
    ids = {new_id(5, (1 << bit).to_bytes(10, "big")) for bit in range(80)}
    assert len(ids) == 80 - 6 + 1  # the six make no difference
    with pytest.raises(ValueError, match="10 random bytes"):
        new_id(5, b"short")


@pytest.mark.parametrize(
    ("bounds", "counts", "field"),
    [
        ((0.5,), (1,), "counts"),
        ((0.5,), (1, 2, 3), "counts"),
        ((0.5, 0.5), (1, 2, 3), "bounds"),
        ((0.6, 0.5), (1, 2, 3), "bounds"),
        ((), (1, 2), "bounds"),
    ],
)
def test_a_histogram_has_one_count_more_than_bounds_in_order(
    bounds: tuple[float, ...], counts: tuple[int, ...], field: str
) -> None:
    with pytest.raises(ContractError, match=field):
        Histogram(bounds=bounds, counts=counts, total=0.0)
