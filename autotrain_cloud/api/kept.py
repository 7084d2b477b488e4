"""Values that take long to make: at hand at once, and made anew in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

SHARE = 0.02  # of the time that making may take: what takes a second is made every 50 s at most


class Kept(Generic[T]):
    """The value that `make` last made. Threads share it; it is made by one at a time."""

    def __init__(self, make: Callable[[], T], *, least_s: float, name: str) -> None:
        """`least_s`: younger it is never made anew; older it is only where somebody asks."""
        self._make, self._least_s, self._name = make, least_s, name
        self._lock = threading.Lock()
        self._value: T | None = None
        self._due = 0.0
        self._making = False

    def get(self) -> T:
        """The first one is waited for; raises what `make` raises."""
        with self._lock:
            if self._value is None:
                self._value = self._made()
            elif time.monotonic() >= self._due and not self._making:
                self._making = True
                threading.Thread(target=self._again, name=self._name, daemon=True).start()
            return self._value

    def outdate(self) -> None:
        """It is made anew when somebody asks."""
        self._due = 0.0

    def _made(self) -> T:
        began = time.monotonic()
        value = self._make()
        took = time.monotonic() - began
        self._due = began + took + max(self._least_s, took / SHARE)
        return value

    def _again(self) -> None:
        try:
            self._value = self._made()
        except Exception as error:
            log.warning("%s: %s", self._name, error)  # the one of before stays
            self._due = time.monotonic() + self._least_s
        finally:
            self._making = False
