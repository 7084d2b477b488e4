"""The file operations that an update is made of, behind a port of a few verbs.

What is durable is what was synced: the bytes of a file by `sync` of the file, its name by `sync` of
the directory it is in.  Until then a power cut may leave old bytes, none, a part, or zeros
(Pillai et al. 2014, "All File Systems Are Not Created Equal").  Tests run everything above this
port on a disk of their own making that forgets in all those ways, after every single operation.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

_BLOCK = 1 << 20  # bytes hashed at a time: engines are larger than a device's spare memory


class Fs(Protocol):
    """Paths are relative, with "/", to a directory that belongs to the updater alone."""

    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError."""

    def sha256(self, path: str) -> str:
        """Of a file's content, in hex. Raises FileNotFoundError."""

    def size(self, path: str) -> int:
        """Bytes of a file, -1 if there is none."""

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted; [] if there is none."""

    def write(self, path: str, data: bytes) -> None:
        """A new file, or new content of an old one."""

    def append(self, path: str, data: bytes) -> None:
        """More bytes at the end of a file, which is made if it is not there."""

    def rename(self, old: str, new: str) -> None:
        """Atomic, for directories too; a file at `new` is replaced."""

    def remove(self, path: str) -> None:
        """Removes a file or a directory with all it holds; nothing if it is not there."""

    def mkdir(self, path: str) -> None:
        """Makes a directory; nothing if it is there."""

    def sync(self, path: str) -> None:
        """Makes a file's bytes, or a directory's names, survive a power cut."""


class RealFs:
    """`Fs` on a directory of this machine."""

    def __init__(self, root: Path, elsewhere: Mapping[str, Path] | None = None) -> None:
        """`elsewhere`: directories that are seen under these names, and only read."""
        self.root = root
        self._elsewhere = dict(elsewhere or {})
        root.mkdir(parents=True, exist_ok=True)

    def path(self, path: str) -> Path:
        """Where it is, for reading."""
        first, _, rest = path.partition("/")
        return self._elsewhere[first] / rest if first in self._elsewhere else self.root / path

    def _own(self, path: str) -> Path:
        if path.partition("/")[0] in self._elsewhere:
            raise PermissionError(f"{path}: is only read")
        return self.root / path

    def read(self, path: str) -> bytes:
        return self.path(path).read_bytes()

    def sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        with self.path(path).open("rb") as source:
            while block := source.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def size(self, path: str) -> int:
        try:
            return self.path(path).stat().st_size
        except FileNotFoundError:
            return -1

    def list(self, path: str) -> list[str]:
        try:
            return sorted(entry.name for entry in self.path(path).iterdir())
        except FileNotFoundError:
            return []

    def write(self, path: str, data: bytes) -> None:
        self._own(path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with self._own(path).open("ab") as sink:
            sink.write(data)

    def rename(self, old: str, new: str) -> None:
        self._own(old).replace(self._own(new))

    def remove(self, path: str) -> None:
        target = self._own(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def mkdir(self, path: str) -> None:
        self._own(path).mkdir(exist_ok=True)

    def sync(self, path: str) -> None:
        handle = os.open(self.path(path), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def parent(path: str) -> str:
    """The directory that holds the name of `path`."""
    return path.rpartition("/")[0] or "."


def replace(fs: Fs, path: str, data: bytes) -> None:
    """Durably gives a file new content: after a crash at any moment it is the old or the new."""
    fresh = f"{path}.new"
    fs.write(fresh, data)
    fs.sync(fresh)
    fs.rename(fresh, path)
    fs.sync(parent(path))
