"""Memory that two processes see, where packets lie from the socket to the disk without a copy.

    slabs = Slabs.make()                          # Slabs(fd) in the other process
    slabs.filled(socket.recv_into(slabs.room()))
    for first, start, end in slabs.packets(): ...
    slabs.hold(start)                             # until the other process has done with it:
    slabs.release(start)

Packets are written one after the other into a slab until it is full, then into one of which nothing
is held any more; what is cut off at its end moves there. It is memory and no file (Linux's memfd),
so what is erased is nowhere on a disk.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from autotrain_cloud import mqtt5

SIZE = 1 << 22  # bytes of a slab; no packet may be larger
COUNT = 8


class Slabs:
    """Made by `make` in the process that writes; the one that reads only needs `memory`."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.memory = memoryview(mmap.mmap(file, SIZE * COUNT))
        self._held = [0] * COUNT
        self._base = 0  # where the slab begins that is being filled
        self._start = self._end = 0  # of what is in it and not yet taken

    @classmethod
    def make(cls) -> Slabs:
        file = os.memfd_create("packets", os.MFD_CLOEXEC)
        os.ftruncate(file, SIZE * COUNT)
        return cls(file)

    def fileno(self) -> int:
        return self._file

    def room(self) -> memoryview | None:
        """Where to write what comes next; None: too much is held."""
        if self._end == self._base + SIZE or (self._start == self._end and not self._used()):
            free = self._base if not self._used() else self._next()
            if free is None:
                return None
            self._move(free)
        return self.memory[self._end : self._base + SIZE]

    def filled(self, size: int) -> None:
        """So many bytes have been written."""
        self._end += size

    def packets(self) -> Iterator[tuple[int, int, int]]:
        """Takes whole packets: first byte, where what follows the length begins, and ends.

        Raises mqtt5.ProtocolError.
        """
        while found := mqtt5.packet(self.memory, self._start, self._end):
            self._start = found[2]
            yield found
        if self._end - self._start == SIZE:
            raise mqtt5.ProtocolError(f"a packet of more than {SIZE} bytes")

    def hold(self, position: int) -> None:
        self._held[position // SIZE] += 1

    def release(self, position: int) -> None:
        self._held[position // SIZE] -= 1

    def forget(self) -> None:
        """What has not been taken: its connection is gone."""
        self._start = self._end

    def _used(self) -> bool:
        return self._held[self._base // SIZE] > 0

    def _next(self) -> int | None:
        free = (number for number, held in enumerate(self._held) if not held)
        return next((number * SIZE for number in free if number * SIZE != self._base), None)

    def _move(self, base: int) -> None:
        left = bytes(self.memory[self._start : self._end])
        self._base = self._start = base
        self._end = base + len(left)
        self.memory[base : self._end] = left
