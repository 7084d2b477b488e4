"""Audio by its digest, in a folder or an object store (fsspec).

    sha256/ab/cdef...     the digest, after its first two digits

Content never changes, so writing is idempotent and nothing is ever overwritten. In a folder a file
is whole and on the disk before it has its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import sync_directory, write_atomically


class Blobs:
    """The blobs below a folder or URL. Failures of the place are StorageErrors."""

    def __init__(self, url: str) -> None:
        try:
            files, root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"store.blobs: {url}: {error}") from error
        self._files: fsspec.AbstractFileSystem = files
        self._root = str(root).rstrip("/")
        self.url = url

    def path(self, digest: str) -> str:
        """Where the blob lies, as its file system names it."""
        return f"{self._root}/sha256/{digest[:2]}/{digest[2:]}"

    def write(self, data: bytes) -> str:
        """-> digest. On the disk, or in the store, when it returns."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        try:
            if isinstance(self._files, LocalFileSystem):
                if not Path(path).exists():
                    write_atomically(Path(path), data)
                    sync_directory(Path(path).parent)
            else:
                self._files.pipe_file(path, data)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {_why(error)}") from error
        return digest

    def read(self, digest: str) -> bytes:
        """Raises StorageError where the blob is missing, unreadable or not what it was."""
        path = self.path(digest)
        try:
            data: bytes = self._files.cat_file(path)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {_why(error)}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError(f"{path}: damaged: its digest is another")
        return data

    def delete(self, digest: str) -> None:
        """Whether or not it is there."""
        try:
            self._files.rm_file(self.path(digest))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self.path(digest)}: cannot be deleted: {_why(error)}") from error

    def check(self) -> None:
        """Whether the place answers; it need not exist yet. Raises StorageError."""
        try:
            self._files.exists(self._root)
        except OSError as error:
            raise StorageError(f"{self._root}: does not answer: {_why(error)}") from error

    def digests(self) -> Iterator[str]:
        """Of all blobs that are there, a directory at a time."""
        for first in range(256):
            folder = f"{self._root}/sha256/{first:02x}"
            try:
                names = self._files.ls(folder, detail=False, refresh=True)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StorageError(f"{folder}: cannot be read: {_why(error)}") from error
            for name in names:
                digest = f"{first:02x}{str(name).rpartition('/')[2]}"
                if len(digest) == 64:  # not a temporary file
                    yield digest


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
