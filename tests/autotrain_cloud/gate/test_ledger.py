"""The ledger: nothing in it can be changed unseen, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_cloud.gate.ledger import (
    LedgerTampered,
    append,
    looks,
    parse,
    read_ledger,
    verify,
)
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError, StorageError

ROLLBACK = {"release_counter": 4, "reason": "worse in the street"}


def filled(path: Path, count: int = 5) -> bytes:
    for number in range(count):
        append(path, "rollback", "ann", {**ROLLBACK, "release_counter": number})
    return path.read_bytes()


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    at = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)
    first = append(path, "approval", "zoë", {"verdict": "ab"}, now=lambda: at)
    second = append(path, "rollback", "ann", ROLLBACK)
    reading = read_ledger(path)
    assert reading.entries == (first, second) and reading.head == second.hash
    assert first.at == "2026-11-25T12:00:00.000+00:00" and first.who == "zoë"
    assert second.previous == first.hash and not reading.torn
    assert read_ledger(tmp_path / "none").entries == ()


@settings(max_examples=150)
@given(st.data())
def test_any_changed_byte_is_found_at_its_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.jsonl"
    whole = path.read_bytes() if path.is_file() else filled(path)
    at = data.draw(st.integers(0, len(whole) - 2))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    changed = whole[:at] + bytes([value]) + whole[at + 1 :]
    with pytest.raises(LedgerTampered) as caught:
        parse(changed, path)
    assert caught.value.line == whole[:at].count(b"\n") + 1
    assert f"changed.jsonl:{caught.value.line}:" in str(caught.value)


def test_an_entry_taken_out_or_moved_breaks_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lines = filled(path).splitlines(keepends=True)
    for changed in (lines[1:], lines[:2] + lines[3:], [lines[1], lines[0], *lines[2:]]):
        path.write_bytes(b"".join(changed))
        with pytest.raises(LedgerTampered):
            read_ledger(path)
        with pytest.raises(LedgerTampered):  # nor is anything added to a broken chain
            append(path, "rollback", "ann", ROLLBACK)
        assert path.read_bytes() == b"".join(changed)


def test_a_head_noted_elsewhere_shows_that_the_newest_entries_were_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lines = filled(path).splitlines(keepends=True)
    head = read_ledger(path).head
    assert verify(path, head=head[:12]).head == head
    path.write_bytes(b"".join(lines[:3]))
    verify(path)
    with pytest.raises(LedgerTampered) as caught:
        verify(path, head=head)
    assert caught.value.line == 3


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_an_unfinished_last_line_is_reported_and_then_replaced(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ledger.jsonl"
    whole = filled(path)
    last = whole.splitlines()[-1]
    torn = last[:kept]
    path.write_bytes(whole[: -len(last) - 1] + torn)
    reading = read_ledger(path)
    assert len(reading.entries) == 4 and reading.torn == torn
    entry = append(path, "rollback", "ann", ROLLBACK)
    assert entry.number == 5 and entry.body["replaces_unfinished_line_of_bytes"] == len(torn)
    assert read_ledger(path).torn == b""


def _write_many(path: Path, who: str, count: int) -> None:
    for _ in range(count):
        append(path, "rollback", who, ROLLBACK, lock_s=60)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(path, name, 10)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    entries = read_ledger(path).entries
    assert sorted(entry.who for entry in entries) == sorted("abc" * 10)


def test_whoever_holds_the_lock_too_long_is_named_as_the_problem(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "ledger.jsonl"
    filled(path, 1)
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process has been writing"):
            append(path, "rollback", "ann", ROLLBACK, lock_s=0.05)
    finally:
        os.close(handle)
    append(path, "rollback", "ann", ROLLBACK)


def test_an_entry_must_say_who_and_what(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(ConfigError, match="who decided"):
        append(path, "rollback", "", ROLLBACK)
    with pytest.raises(ValueError, match="expected one of verdict"):
        append(path, "gossip", "ann", {})
    with pytest.raises(ValueError, match="rollback: reason: is missing"):
        append(path, "rollback", "ann", {"release_counter": 4})
    assert not path.exists()


def test_looks_at_a_set_are_counted_by_challenger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    body: dict[str, Any] = dict.fromkeys(("verdict", "decision", "reasons", "training"), "")
    for challenger, one in (("x", "s1"), ("x", "s1"), ("y", "s1"), ("y", "s2")):
        models = {"champion": {"digest": "c"}, "challenger": {"digest": challenger}}
        append(path, "verdict", "ann", {**body, **models, "sets": [{"digest": one}]})
    append(path, "rollback", "ann", ROLLBACK)
    assert [looks(read_ledger(path), one) for one in ("s1", "s2", "s3")] == [2, 1, 0]


def test_the_verb_shows_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ledger.jsonl"

    def ledger(*words: object) -> tuple[int, str, str]:
        code = main(["cloud", "ledger", *map(str, words)])
        return code, *capsys.readouterr()

    code, _, err = ledger("show", path)
    assert code == 2 and "there is no ledger here" in err
    whole = filled(path, 3)
    assert ledger("verify", path)[1].startswith("3 entries, unchanged; head ")
    assert json.loads(ledger("verify", path, "--json")[1])["entries"] == 3
    assert len(ledger("show", path)[1].splitlines()) == 3
    assert json.loads(ledger("show", path, "--json")[1].splitlines()[2])["number"] == 3
    path.write_bytes(whole[:-10])
    code, _, err = ledger("verify", path)
    assert code == 0 and "ledger.jsonl:3: an unfinished line" in err
    path.write_bytes(whole.replace(b"street", b"forest", 2))
    code, out, err = ledger("verify", path)
    assert (code, out) == (1, "") and f"{path}:1: differs from its hash" in err
