"""Locks that end with whoever holds them: with a real second process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotrain_cloud.locks import if_free, locked

HOLD = """
import sys
from pathlib import Path
from autotrain_cloud.locks import locked
with locked(Path(sys.argv[1])) as mine:
    print(mine is not None, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"True\n"
        yield process
        process.kill()


def test_one_process_at_a_time_has_it_and_a_killed_one_lets_go(
    other: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "lock"
    with if_free(path) as mine:
        assert not mine
    other.kill()
    other.wait()
    with if_free(path) as mine:
        assert mine
        with if_free(path) as twice:
            assert not twice


@pytest.mark.parametrize("patient", [False, True])
def test_who_waits_gets_it_when_the_other_has_gone(
    other: subprocess.Popen[bytes], tmp_path: Path, patient: bool
) -> None:
    asked = 0

    def give_up() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            other.kill()
        return False

    if patient:
        assert other.stdin is not None
        other.stdin.close()  # it ends by itself
    with locked(tmp_path / "lock", give_up=None if patient else give_up) as mine:
        assert mine is not None
        assert patient or asked >= 3


def test_what_the_block_raises_is_not_taken_for_a_lock_that_is_held(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="mine"), locked(tmp_path / "lock"):
        raise BlockingIOError("mine")
