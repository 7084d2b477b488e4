"""What is told of updates: in reports to the cloud, in the audit log, to people."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from edge_runtime.contract.bundle import MANIFEST_NAME, Manifest
from edge_runtime.contract.records import Model
from edge_runtime.errors import BundleError
from edge_runtime.ota.fs import Fs
from edge_runtime.ota.update import (
    Broken,
    Event,
    Failed,
    Gone,
    Healthy,
    Record,
    State,
    Undone,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one pass."""

    kind: Literal[
        "current",  # there is nothing newer
        "switched",  # a new one runs from the next stream on, on probation
        "probation",  # one is on probation: nothing else is looked for
        "stopped",  # cancelled, or outside of the hours; goes on another time
        "unreachable",  # the repository
        "refused",  # must not be believed, or not be run here
        "failed",  # does not work here
    ]
    detail: str
    attack: str | None = None  # that it looks like


def state_of(before: Record, event: Event, after: Record) -> str | None:
    """The state of an UpdateReport after this change; None if it is not worth one."""
    if isinstance(event, Undone):
        return "rolled-back"
    if after.state is before.state:
        return None
    if after.state is not State.IDLE:
        return str(after.state.value)
    if isinstance(event, Healthy):
        return "committed"
    return "rolled-back" if before.state is State.PROBATION else "failed"


def reason_of(before: Record, event: Event, after: Record) -> str:
    """Why, where something went wrong."""
    if after.failed != before.failed and after.failed:
        return after.failed[-1].reason
    return event.reason if isinstance(event, Failed | Gone | Broken | Undone) else ""


def describe(record: Record, fs: Fs) -> dict[str, Any]:
    """A record, for people and programs."""

    def bundle(slot: str) -> dict[str, Any]:
        found = manifest(fs, slot)
        version = found.version if found else None
        return {"slot": slot, "release": record.holds.get(slot), "version": version}

    candidate = record.candidate
    return {
        "state": record.state.value,
        "running": bundle(record.running),
        "fallback": bundle(record.fallback),
        "floor": record.floor,
        "candidate": candidate and {"release": candidate.release, "version": candidate.version},
        "failed": [{"release": one.release, "reason": one.reason} for one in record.failed],
    }


def model(fs: Fs, slot: str, precision: str) -> Model | None:
    """The bundle in a slot, as reports name it; None if it cannot be read."""
    found = manifest(fs, slot)
    if found is None:
        return None
    return Model(
        name=found.name,
        version=found.version,
        release_counter=found.release_counter,
        manifest_sha256=hashlib.sha256(fs.read(f"{slot}/{MANIFEST_NAME}")).digest(),
        precision=precision,
    )


def manifest(fs: Fs, slot: str) -> Manifest | None:
    """Of the bundle in a slot; None if it cannot be read."""
    try:
        return Manifest.from_json(fs.read(f"{slot}/{MANIFEST_NAME}"))
    except (OSError, BundleError):
        return None
