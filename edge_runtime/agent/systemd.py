"""What the service manager is told: sd_notify(3), over the socket it names."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*lines: str) -> None:
    """READY=1, WATCHDOG=1, STATUS=…, STOPPING=1. Nobody listening is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(lines).encode(), address)


def watchdog_s() -> float | None:
    """Seconds between two signs of life that the service manager expects, halved; None: none."""
    try:
        microseconds = int(os.environ["WATCHDOG_USEC"])
    except (KeyError, ValueError):
        return None
    wanted = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    return microseconds / 2e6 if wanted == str(os.getpid()) and microseconds > 0 else None
