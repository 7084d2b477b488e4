"""What the authority issued and revoked: a file of JSON lines that only ever grows.

A line is on the disk before the certificate it speaks of is handed to anybody, so what is in use is
in here. A line that a power cut tore belongs to a certificate that nobody got: it is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_runtime.errors import ConfigError, StorageError


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

    def entries(self) -> list[Entry]:
        """In the order of issue, as they stand now. Raises ConfigError if a line is no entry."""
        found: dict[str, Entry] = {}
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read: {error.strerror}") from error
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                fields = json.loads(line)
                if set(fields) == {"serial", "revoked"}:
                    found[fields["serial"]] = replace(
                        found[fields["serial"]], revoked=int(fields["revoked"])
                    )
                else:
                    found[fields["serial"]] = Entry(**fields)
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigError(
                    f"{self._path}: line {number} is no entry: {error!r}; restore the file"
                ) from error
        return list(found.values())

    def issued(self, entry: Entry) -> None:
        """Raises StorageError if it cannot be written: then the certificate must not go out."""
        self._append(asdict(entry))

    def revoked(self, serial: str, when: int) -> None:
        self._append({"serial": serial, "revoked": when})

    def _append(self, fields: dict[str, object]) -> None:
        try:
            with self._locked() as handle:
                content = os.pread(handle, os.fstat(handle).st_size, 0)
                os.ftruncate(handle, content.rfind(b"\n") + 1)
                os.write(handle, json.dumps(fields).encode() + b"\n")
                os.fsync(handle)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)
