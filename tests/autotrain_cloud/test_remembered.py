"""A file is read when it has changed, and only then."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from autotrain_cloud.remembered import SETTLED_NS, Remembered
from edge_runtime.files import write_atomically


class Reading:
    """Reads text, and counts."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, path: Path) -> str:
        self.times += 1
        return path.read_text() if path.exists() else ""


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written now was written long ago."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 2 * SETTLED_NS)


@pytest.mark.usefixtures("old")
def test_a_file_is_read_once_until_it_changes_in_whatever_way(tmp_path: Path) -> None:
    path, reading = tmp_path / "file", Reading()
    remembered = Remembered(reading, most=10)
    assert remembered.get(path) == remembered.get(path) == ""  # what is not there is looked for
    for number, write in enumerate((Path.write_bytes, write_atomically, Path.write_bytes)):
        write(path, b"%d" % number)
        reading.times = 0
        assert [remembered.get(path) for _ in range(3)] == [str(number)] * 3
        assert reading.times == 1, number


@pytest.mark.usefixtures("old")
def test_whoever_sets_a_file_back_to_its_time_is_found_out(tmp_path: Path) -> None:
    """As one would who changes an entry of a ledger: same length, same times, other words."""
    path, remembered = tmp_path / "file", Remembered(Reading(), most=10)
    path.write_text("promote")
    assert remembered.get(path) == "promote"
    before = path.stat()
    time.sleep(0.02)  # more than a tick of the file system's clock
    with path.open("r+") as file:
        file.write("refused")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert remembered.get(path) == "refused"


def test_what_was_written_just_now_is_read_again(tmp_path: Path) -> None:
    """Two changes within one tick of the clock may leave the same traces."""
    path, reading = tmp_path / "file", Reading()
    path.write_text("x")
    remembered = Remembered(reading, most=10)
    assert remembered.get(path) == remembered.get(path) == "x"
    assert reading.times == 2


@pytest.mark.usefixtures("old")
def test_no_more_is_remembered_than_allowed_and_no_failure(tmp_path: Path) -> None:
    remembered = Remembered(Path.read_bytes, most=3)
    for number in range(20):
        path = tmp_path / str(number)
        path.write_bytes(b"x" * number)
        assert len(remembered.get(path)) == number
        assert len(remembered._known) <= 3
    path.unlink()
    with pytest.raises(FileNotFoundError):
        remembered.get(path)
