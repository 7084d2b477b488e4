"""A few bytes that must not be lost: two files, ``NAME.0`` and ``NAME.1``, written in turn.

Each is replaced whole, by rename, and carries a number that rises and a digest.  A crash leaves
both sound; a disk that loses one of them costs the last change at most.
"""

from __future__ import annotations

import hashlib

from edge_runtime.ota.fs import Fs, replace


class Damaged(Exception):
    """There is something, and nothing of it is sound."""


class Durable:
    """The bytes called `name`."""

    def __init__(self, fs: Fs, name: str) -> None:
        self._fs = fs
        self.files = (f"{name}.0", f"{name}.1")
        self._number = 0  # of the newest

    def load(self) -> list[bytes]:
        """What is sound, the newest first; [] if nothing was ever saved. Raises Damaged."""
        found, problems = [], []
        for name in self.files:
            try:
                found.append(unseal(self._fs.read(name)))
            except FileNotFoundError:
                continue
            except ValueError as error:
                problems.append(f"{name} {error}")
        if problems and not found:
            raise Damaged(", ".join(problems))
        found.sort(reverse=True)
        self._number = found[0][0] if found else 0
        return [content for _, content in found]

    def load_or_nothing(self) -> list[bytes]:
        """Likewise, for what can be done without: [] if it is damaged."""
        try:
            return self.load()
        except Damaged:
            return []

    def save(self, content: bytes) -> None:
        """Durable when this returns. Only after `load`."""
        number = self._number + 1
        replace(self._fs, self.files[number % 2], seal(number, content))
        self._number = number


def seal(number: int, content: bytes) -> bytes:
    """A line with the SHA-256 of what follows: a line with the number, and the content."""
    body = b"%d\n%b" % (number, content)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unseal(data: bytes) -> tuple[int, bytes]:
    """-> number, content. Raises ValueError for anything that `seal` has not written."""
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("is not what was written")
    number, _, content = body.partition(b"\n")
    return int(number), content
