"""The updater's memory: one `Record`, durable, and readable whatever a crash has left of it.

Two files, ``record.0`` and ``record.1``, are written in turn, each whole and by rename, with a
number that rises and a digest of the rest.  The newest that is sound counts.  One damaged file
(a disk that loses a sector) costs at most the last step; the floor is the higher of both, so not
even that moves it back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.ota.fs import Fs, replace
from edge_runtime.ota.update import GOLDEN, SLOTS, Candidate, Failure, Record, State

SCHEMA_VERSION = 1
NAMES = ("record.0", "record.1")


class RecordStore:
    """The record of the device whose files `fs` holds."""

    def __init__(self, fs: Fs) -> None:
        self._fs = fs
        self._number = 0  # of the newest

    def load(self, delivered: int) -> Record:
        """What is remembered, or the record of a device that was delivered with that release.

        Raises ConfigError if both files are there and neither is sound, or one was written by a
        later version: a device must not forget its floor and go on as if it were new.
        """
        found: list[tuple[int, Record]] = []
        problems = []
        for name in NAMES:
            try:
                found.append(decode(self._fs.read(name)))
            except FileNotFoundError:
                continue
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if not found and problems:
            raise ConfigError(
                f"the record of updates is damaged ({'; '.join(problems)}); if this device is to "
                "begin anew with the bundle it was delivered with, delete these files"
            )
        if not found:
            return Record.delivered(delivered)
        self._number, record = max(found, key=lambda one: one[0])
        floor = max(delivered, *(one.floor for _, one in found))
        # The device's own software may bring another golden bundle than it had before.
        holds = {**record.holds, GOLDEN: delivered}
        return dataclasses.replace(record, floor=floor, holds=holds)

    def save(self, record: Record) -> None:
        """Durable when this returns."""
        number = self._number + 1
        replace(self._fs, NAMES[number % 2], encode(record, number))
        self._number = number


def encode(record: Record, number: int) -> bytes:
    """Two lines: the SHA-256 of the second, which is JSON."""
    fields = dataclasses.asdict(record)
    fields["state"] = record.state.value
    fields |= {"schema_version": SCHEMA_VERSION, "number": number}
    body = json.dumps(fields, sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body + b"\n"


def decode(data: bytes) -> tuple[int, Record]:
    """-> number, record. Raises ValueError for anything that `encode` has not written."""
    digest, _, body = data.rstrip(b"\n").partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("is not what was written")
    fields: dict[str, Any] = json.loads(body)  # written by us, as the digest says
    if fields.pop("schema_version") != SCHEMA_VERSION:
        raise ValueError("was written by another version of vitconformer")
    number = fields.pop("number")
    candidate = fields.pop("candidate")
    record = Record(
        **{
            **fields,
            "state": State(fields["state"]),
            "candidate": candidate and Candidate(**candidate),
            "failed": tuple(Failure(**one) for one in fields["failed"]),
        }
    )
    if {record.running, record.fallback} - {*SLOTS, GOLDEN} or record.running not in record.holds:
        raise ValueError("names a slot that there is not")
    return number, record
