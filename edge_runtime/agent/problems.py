"""What is wrong right now: one line each in the log and in the status, and no flood of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_runtime.errors import EdgeError

log = logging.getLogger("edge_runtime.agent")

REPEAT_S = 600.0  # the same line again is logged after so long


class Problems:
    """Shared by all threads. A problem has a key, the part of the agent that has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: dict[str, tuple[str, float]] = {}  # key -> line, when it began (Unix time)
        self._logged: dict[str, tuple[str, float]] = {}  # key -> line, when (monotonic)

    def report(self, key: str, problem: object) -> None:
        """Something is wrong, perhaps still."""
        line = " ".join(str(problem).split())
        now = time.monotonic()
        with self._lock:
            _, since = self._now.get(key, ("", time.time()))
            self._now[key] = line, since
            before, at = self._logged.get(key, ("", 0.0))
            if before == line and now - at < REPEAT_S:
                return
            self._logged[key] = line, now
        log.warning("%s: %s", key, line)

    def clear(self, key: str) -> None:
        """It works."""
        with self._lock:
            if self._now.pop(key, None) is None:
                return
            self._logged.pop(key, None)
        log.info("%s: works again", key)

    @contextmanager
    def watching(self, key: str) -> Iterator[None]:
        """What the block raises on purpose is a problem, and no more than that."""
        try:
            yield
        except (EdgeError, OSError) as error:
            self.report(key, error)
        else:
            self.clear(key)

    def current(self) -> dict[str, str]:
        """By key, in words."""
        with self._lock:
            return {
                key: f"{line} (since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(since))})"
                for key, (line, since) in self._now.items()
            }
