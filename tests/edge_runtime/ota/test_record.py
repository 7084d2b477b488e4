"""What is remembered survives, and what was not written by us is not believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.ota.durable import seal, unseal
from edge_runtime.ota.record import RecordStore, decode, encode
from edge_runtime.ota.update import GOLDEN, Candidate, Failure, Record, State
from tests.edge_runtime.ota.disk import PoweredDisk

NAMES = ("record.0", "record.1")

records = st.builds(
    Record,
    running=st.just(GOLDEN),
    fallback=st.sampled_from(["A", "B", GOLDEN]),
    holds=st.dictionaries(st.sampled_from(["A", "B"]), st.integers(0, 99)).map(
        lambda holds: {**holds, GOLDEN: 1}
    ),
    floor=st.integers(1, 99),
    state=st.sampled_from(State),
    candidate=st.none() | st.builds(Candidate, st.integers(), st.text(), st.text()),
    starts=st.integers(0, 9),
    failed=st.lists(st.builds(Failure, st.integers(), st.text()), max_size=3).map(tuple),
)


@given(records)
def test_a_record_survives_writing_and_reading(record: Record) -> None:
    assert decode(encode(record)) == record


@given(st.integers(0, 2**40), st.binary(max_size=50), st.data())
def test_bytes_survive_sealing_and_with_any_of_them_changed_are_refused(
    number: int, content: bytes, data: st.DataObject
) -> None:
    good = seal(number, content)
    assert unseal(good) == (number, content)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    for spoilt in (bad, good[:at]):
        with pytest.raises(ValueError):
            unseal(spoilt)


@pytest.mark.parametrize("lost", NAMES)
def test_one_lost_file_costs_a_step_at_most_and_never_the_floor(lost: str) -> None:
    for count in (2, 3):
        disk = PoweredDisk()
        store = RecordStore(disk)
        store.load(3)
        for floor in range(4, 4 + count):
            store.save(Record(holds={GOLDEN: 3, "A": floor}, running="A", floor=floor))
        newest = NAMES[count % 2]
        disk.write(lost, b"rust")
        record = RecordStore(disk).load(3)
        assert record.release == (3 + count if lost != newest else 2 + count)
        again = RecordStore(disk)
        again.load(3)
        again.save(Record(holds={GOLDEN: 3}, floor=50))
        assert RecordStore(disk).load(3).floor == 50


def test_a_device_that_has_lost_its_memory_does_not_take_itself_for_a_new_one() -> None:
    disk = PoweredDisk()
    assert RecordStore(disk).load(3) == Record.delivered(3)
    for name in NAMES:
        disk.write(name, b"")
    with pytest.raises(ConfigError, match=r"record\.0 is not what was written.*delete"):
        RecordStore(disk).load(3)


def test_a_newer_golden_bundle_raises_the_floor() -> None:
    disk = PoweredDisk()
    store = RecordStore(disk)
    store.load(3)
    store.save(Record(holds={GOLDEN: 3, "A": 5}, running="A", floor=5))
    record = RecordStore(disk).load(7)
    assert (record.floor, record.release, record.holds[GOLDEN]) == (7, 5, 7)
