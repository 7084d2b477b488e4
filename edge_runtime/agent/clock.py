"""What time it is, and whether anybody has told the device."""

from __future__ import annotations

import ctypes
import time
from functools import cache
from pathlib import Path

_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronised
_EARLIEST_MS = 1_767_225_600_000  # 2026: a clock before that has never been set


def now_ms() -> int:
    """Milliseconds since 1970, by the device's clock."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds that never jump."""
    return time.monotonic_ns() // 1_000_000


def clock_is_set() -> bool:
    """Whether the kernel holds the clock for synchronised, and it could be."""
    if now_ms() < _EARLIEST_MS:
        return False
    try:
        state = _libc().adjtimex(
            ctypes.create_string_buffer(512)
        )  # struct timex; modes = 0 only asks
    except (OSError, AttributeError):
        return True
    if int(state) < 0:  # a sandbox does not let us ask
        return _SYNCHRONISED.exists()
    return int(state) != _TIME_ERROR


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
