"""One updater at a time: a lock that the kernel lets go of whenever the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from edge_runtime.errors import ConfigError

TRIES = 5


class Lock:
    """Held from construction to `close`. Raises ConfigError if another process has it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        self._file = path.open("a+")
        for left in range(TRIES, 0, -1):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if left > 1:  # perhaps somebody is just looking
                    time.sleep(0.02)
                    continue
                self._file.close()
                raise ConfigError(
                    f"{folder}: updates are in the hands of process {holder(folder) or '?'}, "
                    "an agent that runs or another `vitconformer ota`"
                ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(ValueError):  # closed before
            self._file.truncate(0)
        self._file.close()


def holder(folder: Path) -> int | None:
    """The process that has the lock, as it wrote; None if nobody has."""
    try:
        with (folder / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        return None
    return None
