"""Locks among processes and threads that end with whoever holds them. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LOOK_S = 0.05  # between two looks at a lock that somebody else holds


@contextlib.contextmanager
def locked(
    path: Path, *, mode: int = 0o600, give_up: Callable[[], bool] | None = None
) -> Iterator[int | None]:
    """The descriptor of a file, made if need be, that is ours alone until the end of the block.

    Waits while somebody else has it, or only until `give_up` says so: then there is None in its
    place. Raises OSError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        yield handle if _is_taken(handle, give_up) else None
    finally:
        os.close(handle)


@contextlib.contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Whether nobody holds it, and it is ours until the end of the block. Raises OSError."""
    with locked(path, give_up=lambda: True) as mine:
        yield mine is not None


def _is_taken(handle: int, give_up: Callable[[], bool] | None) -> bool:
    if give_up is None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return True
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if give_up():
                return False
            time.sleep(LOOK_S)
        else:
            return True
