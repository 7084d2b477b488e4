"""A chain that shows every change, and survives the end of any write."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.ota import audit
from edge_runtime.ota.audit import NAME, OLD, Audit, verify
from tests.edge_runtime.ota.disk import WAYS, PowerCut, PoweredDisk


def filled(count: int = 6) -> PoweredDisk:
    disk = PoweredDisk()
    log = Audit(disk, now=lambda: 0.0)
    for number in range(count):
        log.write("committed", release=number, detail="x" * 40)
    return disk


def test_entries_follow_one_another_and_the_head_is_the_last() -> None:
    disk = filled()
    found = verify(disk)
    assert not found.problems and [entry["release"] for entry in found.entries] == [*range(6)]
    assert found.entries[0]["at"] == "1970-01-01T00:00:00Z"
    again = Audit(disk)
    assert again.head == found.head
    again.write("rolled-back")
    assert verify(disk).entries[-1]["previous"] == found.head
    assert len(list(audit.texts(found.entries))) == 6


@given(st.data())
def test_a_changed_byte_a_missing_a_doubled_or_a_moved_line_shows(data: st.DataObject) -> None:
    disk = filled()
    content = disk.read(NAME)
    lines = content.splitlines(keepends=True)
    way = data.draw(st.sampled_from(["byte", "missing", "doubled", "moved"]))
    at = data.draw(st.integers(0, len(lines) - 2))  # the last one only a later head guards
    if way == "byte":
        place = data.draw(st.integers(0, len(content) - len(lines[-1]) - 1))
        change = data.draw(st.integers(1, 255))
        content = content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]
    elif way == "missing":
        content = b"".join(lines[:at] + lines[at + 1 :])
    elif way == "doubled":
        content = b"".join([*lines[: at + 1], *lines[at:]])
    else:
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
        content = b"".join(lines)
    disk.write(NAME, content)
    found = verify(disk)
    # Without its beginning the chain is whole, but it does not begin with the first entry.
    assert found.problems or (way == "missing" and at == 0 and found.entries[0]["number"] == 1)


def test_a_longer_chain_than_was_forged_has_another_head() -> None:
    disk = filled()
    head = verify(disk).head
    lines = disk.read(NAME).splitlines(keepends=True)
    last = json.loads(lines[-1]) | {"what": "nothing to see here"}
    disk.write(NAME, b"".join(lines[:-1]) + json.dumps(last).encode() + b"\n")
    assert verify(disk).head != head  # as it was reported


def test_old_entries_go_and_the_chain_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_BYTES", 2000)
    disk = filled(100)
    found = verify(disk)
    assert not found.problems
    assert found.entries[-1]["number"] == 99 and found.entries[0]["number"] > 50
    assert disk.size(NAME) < 2300 and disk.size(OLD) < 2300
    assert Audit(disk).head == found.head
    disk.remove(NAME)  # a crash between the rename and the next entry
    Audit(disk).write("started")
    assert not verify(disk).problems


@pytest.mark.parametrize("rest", [b"{", b'{"number": 6, "prev', bytes(50), b"\xff\xfe"])
def test_a_torn_last_line_is_cut_off_and_that_is_written_down(rest: bytes) -> None:
    disk = filled()
    disk.append(NAME, rest)
    assert len(verify(disk).problems) == 1
    Audit(disk)
    found = verify(disk)
    assert not found.problems
    assert found.entries[-1]["what"] == "torn" and str(len(rest)) in found.entries[-1]["detail"]


@pytest.mark.parametrize(("names", "data"), WAYS)
def test_after_a_power_cut_every_entry_that_was_written_is_there(
    names: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_BYTES", 900)

    def live(disk: PoweredDisk, wrote: list[int]) -> None:
        log = Audit(disk)
        for number in range(12):
            log.write("e", release=number)
            wrote.append(number)

    whole = PoweredDisk()
    live(whole, [])
    for cut in range(whole.done):
        disk, wrote = PoweredDisk(cut_at=cut), list[int]()
        with pytest.raises(PowerCut):
            live(disk, wrote)
        disk = disk.after_cut(names, data)
        Audit(disk).write("again")
        found = verify(disk)
        assert not found.problems, cut
        kept = [entry["release"] for entry in found.entries if "release" in entry]
        assert wrote[-3:] == [n for n in kept if n in wrote][-3:], cut


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_no_bytes_in_the_file_keep_a_device_from_writing(content: bytes) -> None:
    disk = PoweredDisk()
    disk.write(NAME, content)
    log = Audit(disk)
    log.write("started")
    assert verify(disk).entries[-1]["what"] == "started"
