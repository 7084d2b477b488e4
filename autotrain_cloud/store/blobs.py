"""Audio in packs, in a folder or an object store (fsspec).

    packs/20261126/0193...     by day, the audio of a batch, one after the other

A pack is written once, whole, and never changed: what is to go goes with its pack (`spool.bury`).
The database knows where in which pack a piece lies, and what its digest is. A pack is on the disk,
or in the object store, before the transaction that names it is committed.

Whatever a place raises, the place has failed, and never what was to be kept there: of object stores
each library has errors of its own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from autotrain_cloud.store import s3
from edge_runtime.contract.records import new_id
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import sync_directory

Bytes = bytes | memoryview


class Blobs:
    """The packs below a folder or URL. Failures of the place are StorageErrors."""

    def __init__(self, url: str) -> None:
        self._is_s3 = url.startswith(("s3://", "s3a://"))
        if self._is_s3 and "@" in urlsplit(url).netloc:
            raise ConfigError(
                "store.blobs: credentials do not belong in the URL; set AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY"
            )
        try:
            files, root = url_to_fs(
                url, use_listings_cache=False, skip_instance_cache=True,
                **(s3.OPTIONS if self._is_s3 else {}),
            )  # fmt: skip
        except ImportError as error:
            raise ConfigError(f"store.blobs: {url}: {error}; pip install that package") from error
        except ValueError as error:
            raise ConfigError(f"store.blobs: {url}: {error}") from error
        self._patience: dict[str, float] = {}
        if self._is_s3:
            files.retries = s3.ATTEMPTS
            self._patience = {"timeout": s3.PATIENCE_S}
        self._files: fsspec.AbstractFileSystem = files
        self._root = str(root).rstrip("/")
        self.url = url

    def path(self, pack: str) -> str:
        """Where it lies, as its file system names it."""
        return f"{self._root}/packs/{pack}"

    def write(self, pieces: Sequence[Bytes], pack: str | None = None) -> str:
        """-> the new pack. On the disk, or in the store, when it returns."""
        pack = pack or new_pack()
        path = self.path(pack)
        with self._failing(path, "cannot be written"):
            if isinstance(self._files, LocalFileSystem):
                _write(Path(path), pieces)
            else:
                self._files.pipe_file(path, b"".join(pieces), **self._patience)
        return pack

    def read(self, pack: str, start: int, size: int, digest: str) -> bytes:
        """Raises StorageError where it is missing, unreadable or not what it was."""
        path = self.path(pack)
        with self._failing(path, "cannot be read"):
            end = start + size
            data: bytes = self._files.cat_file(path, start=start, end=end, **self._patience)
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError(f"{path}: damaged: the digest at {start} is another")
        return data

    def delete(self, pack: str) -> None:
        """Whether or not it is there."""
        with self._failing(self.path(pack), "cannot be deleted", absent_is_fine=True):
            self._files.rm_file(self.path(pack), **self._patience)

    def check(self) -> None:
        """Whether the place answers; the folder need not exist yet. Raises StorageError."""
        self._list(self._root)

    def packs(self, since_ms: int = 0) -> Iterator[str]:
        """All that are there, from the day of `since_ms` (of 1970, UTC) on."""
        first = _day(since_ms)
        for folder in self._list(f"{self._root}/packs"):
            day = folder.rpartition("/")[2]
            if day >= first:
                yield from (f"{day}/{path.rpartition('/')[2]}" for path in self._list(folder))

    def _list(self, folder: str) -> list[str]:
        names: list[object] = []
        with self._failing(folder, "cannot be read", absent_is_fine=True):
            names = self._files.ls(folder, detail=False, refresh=True, **self._patience)
        return [str(name) for name in names]

    @contextmanager
    def _failing(self, path: str, what: str, *, absent_is_fine: bool = False) -> Iterator[None]:
        """Failures as StorageErrors. A bucket, other than a folder, has to be there."""
        try:
            yield
        except Exception as error:
            absent = isinstance(error, FileNotFoundError)
            if absent and absent_is_fine and not (self._is_s3 and s3.code(error) == "NoSuchBucket"):
                return
            why = s3.meaning(error) if self._is_s3 else _why(error)
            raise StorageError(f"{path}: {what}: {why}") from error


def new_pack() -> str:
    """The name of one that is about to be written."""
    now_ms = time.time_ns() // 1_000_000
    return f"{_day(now_ms)}/{new_id(now_ms, os.urandom(10))}"


def written_ms(pack: str) -> int:
    """When it was, since 1970, UTC."""
    return int(pack.rpartition("/")[2][:12], 16)


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).strftime("%Y%m%d")


def _write(path: Path, pieces: Sequence[Bytes]) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.parents[:3]:
            sync_directory(folder)
    try:
        with path.open("xb", buffering=0) as sink, ThreadPoolExecutor(1) as other, _STAGING:
            its_name = other.submit(sync_directory, path.parent)  # the disk does both at once
            _write_around_the_cache(sink.fileno(), pieces)
            os.fdatasync(sink.fileno())
            its_name.result()
    except OSError:
        path.unlink(missing_ok=True)
        raise


# Nobody reads a pack soon, so it does not go through the page cache, where the system allows that:
# this wants whole blocks, at addresses and places in the file that are multiples of their size.
_BLOCK = 4096
_STAGE = memoryview(mmap.mmap(-1, 1 << 22))
_STAGING = threading.Lock()


def _write_around_the_cache(file: int, pieces: Sequence[Bytes]) -> None:
    _around_the_cache(file, True)
    size = staged = 0
    for piece in pieces:
        left = memoryview(piece)
        size += len(left)
        while left:
            some = left[: len(_STAGE) - staged]
            _STAGE[staged : staged + len(some)] = some
            staged += len(some)
            left = left[len(some) :]
            if staged == len(_STAGE):
                _write_all(file, _STAGE)
                staged = 0
    _write_all(file, _STAGE[: -(-staged // _BLOCK) * _BLOCK])
    os.ftruncate(file, size)


def _write_all(file: int, data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(file, data) :]
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl.fcntl(file, fcntl.F_GETFL) & _DIRECT:
                raise
            _around_the_cache(file, False)


def _around_the_cache(file: int, yes: bool) -> None:
    with suppress(OSError):
        fcntl.fcntl(file, fcntl.F_SETFL, _DIRECT if yes else 0)


_DIRECT = getattr(os, "O_DIRECT", 0)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
