"""What the authority issued and revoked: a file of JSON lines that only ever grows.

A line is on the disk before the certificate it speaks of is handed to anybody, so what is in use is
in here. A line that a power cut tore belongs to a certificate that nobody got: it is cut off.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autotrain_cloud.locks import locked
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import sync_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A certificate. Times are seconds since 1970."""

    serial: str  # hexadecimal
    kind: str  # servers, devices or services: who signed it
    name: str
    issued: int
    expires: int
    sha256: str  # of the certificate, DER
    revoked: int | None = None


class Ledger:
    """See the module. Safe among processes: whoever writes holds the file's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Entry] = {}  # by serial number
        self._read_to, self._line = 0, 0  # what comes after is new
        self._reading = threading.Lock()

    def entries(self) -> list[Entry]:
        """In the order of issue, as they stand now. Raises ConfigError if a line is no entry."""
        with self._reading:
            try:
                with self._path.open("rb") as source:
                    source.seek(self._read_to)
                    content = source.read()
            except FileNotFoundError:
                return []
            except OSError as error:
                raise StorageError(f"{self._path}: cannot be read: {error.strerror}") from error
            for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
                self._line += 1
                self._take(line)
                self._read_to += len(line)
            return list(self._found.values())

    def _take(self, line: bytes) -> None:
        try:
            fields = json.loads(line)
            if set(fields) == {"serial", "revoked"}:
                entry = replace(self._found[fields["serial"]], revoked=int(fields["revoked"]))
            else:
                entry = Entry(**fields)
            self._found[entry.serial] = entry
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self._path}: line {self._line} is no entry: {error!r}; restore the file"
            ) from error

    def issued(self, entry: Entry) -> None:
        """Raises StorageError if it cannot be written: then the certificate must not go out."""
        self._append(asdict(entry))

    def revoked(self, serial: str, when: int) -> None:
        self._append({"serial": serial, "revoked": when})

    def _append(self, fields: dict[str, object]) -> None:
        try:
            is_new = not self._path.exists()
            with locked(self._path) as handle:
                assert handle is not None  # it waits as long as it takes
                size = os.fstat(handle).st_size
                start = max(0, size - 4096)  # no line is as long
                whole = start + os.pread(handle, 4096, start).rfind(b"\n") + 1
                os.ftruncate(handle, whole)
                os.pwrite(handle, json.dumps(fields).encode() + b"\n", whole)
                os.fsync(handle)
            if is_new:
                sync_directory(self._path.parent)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror}") from error
