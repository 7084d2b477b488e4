"""Locks that end with whoever holds them: with a real second process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotrain_cloud.locks import if_free

HOLD = """
import sys
from pathlib import Path
from autotrain_cloud.locks import if_free
with if_free(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_has_it_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"True\n"
        with if_free(path) as mine:
            assert not mine
        other.kill()
        other.wait()
        with if_free(path) as mine:
            assert mine
            with if_free(path) as twice:
                assert not twice


def test_what_the_block_raises_is_not_taken_for_a_lock_that_is_held(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="mine"), if_free(tmp_path / "lock"):
        raise BlockingIOError("mine")
