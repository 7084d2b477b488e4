"""The updater's memory: one `Record`, durable, and readable whatever a crash has left of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.ota.durable import Damaged, Durable
from edge_runtime.ota.fs import Fs
from edge_runtime.ota.update import GOLDEN, SLOTS, Candidate, Failure, Record, State

SCHEMA_VERSION = 1


class RecordStore:
    """The record of the device whose files `fs` holds."""

    def __init__(self, fs: Fs) -> None:
        self._durable = Durable(fs, "record")

    def load(self, delivered: int) -> Record:
        """What is remembered, or the record of a device that was delivered with that release.

        Raises ConfigError if there is a record and it is damaged, or of another version: a device
        must not forget its floor and go on as if it were new.
        """
        try:
            found = [decode(content) for content in self._durable.load()]
        except (Damaged, ValueError) as error:
            files = " and ".join(self._durable.files)
            raise ConfigError(
                f"the record of updates is damaged ({error}); if this device is to begin anew with "
                f"the bundle it was delivered with, delete {files}"
            ) from error
        if not found:
            return Record.delivered(delivered)
        # One step may be lost with a file, but not even that moves the floor back.  And the
        # device's own software may bring another golden bundle than it had before.
        floor = max(delivered, *(record.floor for record in found))
        holds = {**found[0].holds, GOLDEN: delivered}
        return dataclasses.replace(found[0], floor=floor, holds=holds)

    def save(self, record: Record) -> None:
        """Durable when this returns."""
        self._durable.save(encode(record))


def encode(record: Record) -> bytes:
    """JSON."""
    fields = dataclasses.asdict(record)
    fields |= {"state": record.state.value, "schema_version": SCHEMA_VERSION}
    return json.dumps(fields, sort_keys=True).encode()


def decode(content: bytes) -> Record:
    """What `encode` wrote. Raises ValueError if another version of it did."""
    fields: dict[str, Any] = json.loads(content)
    if fields.pop("schema_version") != SCHEMA_VERSION:
        raise ValueError("written by another version of vitconformer")
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
    return record
