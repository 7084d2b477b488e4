"""The outbox after kills, damage, full disks, and requests to forget."""

from __future__ import annotations

import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.agent.outbox import DATABASE_NAME, KEY_NAME, Outbox
from edge_runtime.errors import ConfigError, StorageError
from tests.edge_runtime.agent.items import item

ROOT = Path(__file__).parents[3]
QUOTA = 8 << 20


def _fill(directory: Path, count: int = 40) -> None:
    with Outbox.open(directory, quota_bytes=QUOTA) as outbox:
        for number in range(count):
            payload = random.Random(number).randbytes(9000)
            assert outbox.put(item(number, payload=payload), now_ms=1) == "kept"


def _numbers(outbox: Outbox) -> set[int]:
    return {int(entry.id, 16) for entry in outbox.peek(10_000, now_ms=1)}


def _files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir() if path.is_file())


def _edit(directory: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as database, database:
        database.execute(statement, values)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_sixty_kills(tmp_path: Path) -> None:
    rng = random.Random(5)
    kept: set[str] = set()
    delivered: set[str] = set()
    undecided: set[str] = set()
    for run in range(60):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.edge_runtime.agent.writer", str(tmp_path), str(run)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        try:
            child.wait(rng.uniform(0, 0.08))
        except subprocess.TimeoutExpired:
            child.kill()
        said = child.stdout.read().decode()
        assert child.wait() == -9
        child.stdout.close()
        for line in said.split("\n")[:-1]:  # the last may be cut
            what, id = line.split()
            {"put": kept, "begin": undecided, "delivered": delivered}[what].add(id)
        with Outbox.open(tmp_path, quota_bytes=1 << 30) as outbox:
            queued = {entry.id for entry in outbox.peek(100_000, now_ms=1)}
            assert outbox.incidents() == []
            assert kept - undecided <= queued
            assert not delivered & queued
            assert {outbox.fate(id) for id in delivered} <= {"delivered"}
            assert {outbox.fate(id) for id in undecided} <= {"delivered", "queued"}
            assert len(queued - kept) <= run + 1  # put, but killed before it could say so
    assert len(kept) > 60
    assert delivered


def test_a_commit_is_on_the_disk_before_it_returns(tmp_path: Path) -> None:
    """A kill leaves the page cache alone, so against a power cut only these two settings stand."""
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        for pragma, expected in (("synchronous", 2), ("journal_mode", "wal")):
            assert outbox._database.execute(f"PRAGMA {pragma}").fetchone() == (expected,)


def test_segments_lie_sealed_and_the_key_is_the_owner_s(tmp_path: Path) -> None:
    secret = b"what somebody said in confidence"
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        outbox.put(item(1, payload=secret * 100), now_ms=1)
        assert secret not in _files(tmp_path)
        assert (tmp_path / KEY_NAME).stat().st_mode & 0o777 == 0o600
        assert (tmp_path / DATABASE_NAME).stat().st_mode & 0o077 == 0
        assert outbox.peek(1, now_ms=1)[0].payload == secret * 100


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    Outbox.open(tmp_path, quota_bytes=QUOTA).close()
    key = tmp_path / KEY_NAME
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Outbox.open(tmp_path, quota_bytes=QUOTA)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes, not the 32"):
        Outbox.open(tmp_path, quota_bytes=QUOTA)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE segments SET sealed = zeroblob(length(sealed)) WHERE sequence = 3",
        "UPDATE segments SET sealed = x'00', size = 1 WHERE sequence = 3",
        "UPDATE segments SET size = 5 WHERE sequence = 3",
        "UPDATE segments SET value = 9 WHERE sequence = 3",
        "UPDATE segments SET value = 'much' WHERE sequence = 3",
        "UPDATE segments SET consent = 'c-2' WHERE sequence = 3",
        "UPDATE segments SET consent = CAST(x'ff' AS TEXT) WHERE sequence = 3",
        "UPDATE segments SET inclusion = 1 WHERE sequence = 3",
        "UPDATE segments SET expires_ms = 1e9 WHERE sequence = 3",
        "UPDATE segments SET sealed = (SELECT sealed FROM segments WHERE sequence = 4)"
        " WHERE sequence = 3",
    ],
)
def test_a_row_that_was_changed_is_set_apart_and_the_others_go_on(
    tmp_path: Path, change: str
) -> None:
    _fill(tmp_path, 5)
    _edit(tmp_path, change)
    for _ in range(2):
        with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
            assert _numbers(outbox) == {0, 1, 3, 4}
            assert outbox.stats().corrupt == 1
            [stone] = outbox.tombstones(9)
            assert (int(stone.id, 16), stone.fate) == (2, "corrupt")


def test_an_outbox_opens_whatever_happened_to_its_file(tmp_path: Path) -> None:
    """Damage at random; what is handed out afterwards is only ever what was put in."""
    _fill(tmp_path / "whole")
    whole = (tmp_path / "whole" / DATABASE_NAME).read_bytes()
    key = (tmp_path / "whole" / KEY_NAME).read_bytes()
    rng = random.Random(7)
    saved = []
    for run in range(60):
        directory = tmp_path / str(run)
        directory.mkdir()
        (directory / KEY_NAME).write_bytes(key)
        (directory / KEY_NAME).chmod(0o600)
        damaged = bytearray(whole)
        match run % 4:
            case 0:  # a page
                at = rng.randrange(len(whole) // 4096) * 4096
                damaged[at : at + 4096] = rng.randbytes(4096)
            case 1:  # some bytes
                for _ in range(20):
                    damaged[rng.randrange(len(whole))] = rng.randrange(256)
            case 2:  # the end
                del damaged[rng.randrange(len(whole)) :]
            case 3:  # a stretch of zeros
                at = rng.randrange(len(whole))
                damaged[at : at + 20_000] = bytes(min(20_000, len(whole) - at))
        (directory / DATABASE_NAME).write_bytes(damaged)
        if run % 5 == 0:
            (directory / f"{DATABASE_NAME}-wal").write_bytes(rng.randbytes(5000))
        with Outbox.open(directory, quota_bytes=QUOTA) as outbox:
            entries = outbox.peek(1000, now_ms=1)
            for entry in entries:
                number = int(entry.id, 16)
                assert entry == item(number, payload=random.Random(number).randbytes(9000))
            saved.append(len(entries))
            assert outbox.put(item(1000), now_ms=2) == "kept"
            assert 1000 in _numbers(outbox)
            assert all(DATABASE_NAME in line for line in outbox.incidents())
            outbox.tombstones(1000)
    assert sum(saved) > 60 * 40 * 0.6  # most of it is usually there; this is what salvage is for


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_at_any_step_of_setting_a_file_aside_loses_nothing_that_could_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path / "whole")
    damaged = bytearray((tmp_path / "whole" / DATABASE_NAME).read_bytes())
    damaged[60_000:90_000] = bytes(30_000)
    (tmp_path / "whole" / DATABASE_NAME).write_bytes(damaged)
    shutil.copytree(tmp_path / "whole", tmp_path / "undisturbed")
    with Outbox.open(tmp_path / "undisturbed", quota_bytes=QUOTA) as outbox:
        expected = _numbers(outbox)
    assert 20 < len(expected) < 40

    steps = {"rename": Path.replace, "unlink": Path.unlink}
    left = 0

    def step(name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return steps[name](*arguments, **options)  # type: ignore[operator]

        return call

    for survived in range(50):
        directory = tmp_path / str(survived)
        shutil.copytree(tmp_path / "whole", directory)
        left = survived
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", step("rename"))
            patch.setattr(Path, "unlink", step("unlink"))
            try:
                Outbox.open(directory, quota_bytes=QUOTA).close()
            except Crash:
                crashed = True
            else:
                crashed = False
        with Outbox.open(directory, quota_bytes=QUOTA) as outbox:
            assert _numbers(outbox) == expected
            assert len(outbox.incidents()) == 1
        if not crashed:
            break
    assert survived >= 6  # so many steps were cut off, and then none was left


def test_a_file_that_was_cut_short_gives_back_what_lies_before_the_cut(tmp_path: Path) -> None:
    _fill(tmp_path)
    path = tmp_path / DATABASE_NAME
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 3 // 4 + 100)
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        assert len(_numbers(outbox)) >= 25
        [line] = outbox.incidents()
        assert "\n" not in line


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000, bytes(8192)])
def test_a_file_that_is_no_database_is_set_aside_and_reported(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(content)
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        outbox.put(item(1), now_ms=1)
        if content:
            [line] = outbox.incidents()
            assert "kept the file as outbox.db.damaged" in line
            assert (tmp_path / "outbox.db.damaged").read_bytes() == content
            outbox.reported(incidents=[line])
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        assert outbox.incidents() == []
        assert _numbers(outbox) == {1}


def test_damage_while_it_is_open_is_survived_too(tmp_path: Path) -> None:
    _fill(tmp_path)
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        path = tmp_path / DATABASE_NAME
        with path.open("r+b") as file:
            for page in range(1, 40):
                file.seek(page * 4096)
                file.write(b"\xa5" * 4096)
        before = outbox.put(item(500), now_ms=1)
        assert before == "kept"
        assert 500 in _numbers(outbox)
        assert outbox.incidents()


def test_a_lost_key_costs_what_it_sealed_and_no_more(tmp_path: Path) -> None:
    _fill(tmp_path, 3)
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        outbox.erase(segments=[item(0).id], now_ms=1)
    (tmp_path / KEY_NAME).unlink()
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        assert _numbers(outbox) == set()
        assert "another key" in outbox.incidents()[0]
        assert outbox.put(item(0), now_ms=2) == "erased"  # the ledger needs no key
        assert outbox.put(item(1), now_ms=2) == "kept"


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    _fill(tmp_path, 1)
    _edit(tmp_path, "PRAGMA user_version = 9")
    with pytest.raises(ConfigError, match="newer version"):
        Outbox.open(tmp_path, quota_bytes=QUOTA)
    _edit(tmp_path, "PRAGMA user_version = 1")
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        assert _numbers(outbox) == {0}


@pytest.mark.parametrize("by", ["segment", "consent"])
def test_what_is_erased_is_in_no_file_any_more(tmp_path: Path, by: str) -> None:
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        for number in range(12):
            consent = "c-gone" if number % 3 == 0 else "c-stays"
            payload = random.Random(number).randbytes(20_000)
            outbox.put(item(number, payload=payload, consent=consent), now_ms=1)
        outbox.refused(item(0).id, "malformed", now_ms=1)
        with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as database:
            rows = database.execute("SELECT sealed, consent FROM segments").fetchall()
        gone = [sealed for sealed, consent in rows if consent == "c-gone"]
        stays = [sealed for sealed, consent in rows if consent == "c-stays"]
        assert (len(gone), len(stays)) == (4, 8)
        damaged = tmp_path / f"{DATABASE_NAME}.damaged"
        damaged.write_bytes(b"".join(gone))
        before = _files(tmp_path)
        pieces = [sealed[at : at + 32] for sealed in gone for at in range(0, 20_000, 500)]
        assert sum(piece in before for piece in pieces) == len(pieces)

        if by == "segment":
            count = outbox.erase(segments=[item(n).id for n in (0, 3, 6, 9)], now_ms=2)
        else:
            count = outbox.erase(consents=["c-gone"], now_ms=2)
        assert count == 4
        after = _files(tmp_path)
        assert not any(piece in after for piece in pieces)
        assert _numbers(outbox) == {1, 2, 4, 5, 7, 8, 10, 11}
        assert outbox.put(item(3, consent="c-gone"), now_ms=3) == "erased"
        new = outbox.put(item(99, consent="c-gone"), now_ms=3)
        assert new == ("erased" if by == "consent" else "kept")
        assert {stone.fate for stone in outbox.tombstones(99)} == {"erased"}


def test_an_erasure_that_was_cut_off_is_finished_when_it_is_opened(tmp_path: Path) -> None:
    held = tmp_path / "held"
    with Outbox.open(held, quota_bytes=QUOTA) as outbox:
        outbox.put(item(1, payload=random.Random(1).randbytes(20_000)), now_ms=1)
        with closing(sqlite3.connect(held / DATABASE_NAME)) as database:
            database.execute("BEGIN")
            [[sealed]] = database.execute("SELECT sealed FROM segments")  # holds the log back
            with pytest.raises(StorageError, match="another program reads"):
                outbox.erase(segments=[item(1).id], now_ms=2)
            shutil.copytree(held, tmp_path / "killed")  # as a kill would leave it
    assert sealed[5000:5032] in _files(tmp_path / "killed")
    with Outbox.open(tmp_path / "killed", quota_bytes=QUOTA) as outbox:
        assert sealed[5000:5032] not in _files(tmp_path / "killed")
        assert outbox.fate(item(1).id) == "erased"


def test_a_full_file_is_an_error_and_receipts_free_it_again(tmp_path: Path) -> None:
    _fill(tmp_path, 10)
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        outbox._database.execute("PRAGMA max_page_count = 64").fetchall()
        number = 10
        with pytest.raises(StorageError, match=r"outbox\.db: database or disk is full"):
            while True:
                outbox.put(item(number, payload=bytes(9000)), now_ms=1)
                number += 1
        kept = set(range(number))
        assert _numbers(outbox) == kept
        assert outbox.delivered([item(0).id, item(1).id], now_ms=2) == 2
        assert outbox.put(item(number, payload=bytes(9000)), now_ms=3) == "kept"
        assert _numbers(outbox) == kept - {0, 1} | {number}


def test_a_disk_that_takes_no_more_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    """The real thing: the kernel refuses to let any file of this process grow."""
    code = f"""
import resource
from edge_runtime.agent.outbox import Outbox
from edge_runtime.errors import StorageError
from tests.edge_runtime.agent.items import item
with Outbox.open({str(tmp_path)!r}, quota_bytes=1 << 28) as outbox:
    for number in range(20):
        outbox.put(item(number, payload=bytes(9000)), now_ms=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    failed = 0
    for number in range(20, 200):
        try:
            outbox.put(item(number, payload=bytes(9000)), now_ms=1)
        except StorageError as error:
            failed += 1
            assert "outbox.db" in str(error), error
        else:
            print(number)
    assert failed > 50, failed
    assert len(outbox.peek(1000, now_ms=1)) == 200 - failed
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert outbox.put(item(999), now_ms=2) == "kept"
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    acknowledged = {*range(20), *map(int, result.stdout.split()), 999}
    with Outbox.open(tmp_path, quota_bytes=1 << 28) as outbox:
        assert _numbers(outbox) == acknowledged
        assert outbox.incidents() == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        Outbox.open(tmp_path / "file" / "below", quota_bytes=QUOTA)
