"""What files say, read again only where they have changed.

runs = Remembered(read_run, most=2000)
runs.get(path)          # reads it
runs.get(path)          # does not, unless somebody wrote meanwhile
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

SETTLED_NS = 1_000_000_000  # two changes within a tick of the file system's clock can look alike


class Remembered(Generic[T]):
    """Threads share it, and the values, which nobody must change."""

    def __init__(self, read: Callable[[Path], T], *, most: int) -> None:
        """`read` is given a path, and says what there is to say where nothing is; of more files
        than `most` all are forgotten.
        """
        self._read, self._most = read, most
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[int, ...], T]] = {}

    def get(self, path: Path) -> T:
        """Raises what `read` raises, and then remembers nothing."""
        try:
            found = path.stat()
        except OSError:
            return self._read(path)
        version = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = self._known.get(path)
        if known is not None and known[0] == version:
            return known[1]
        value = self._read(path)
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_NS:
            with self._lock:
                if len(self._known) >= self._most:
                    self._known.clear()
                self._known[path] = (version, value)
        return value
