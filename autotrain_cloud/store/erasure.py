"""Erasing: what was recorded goes, wherever it is, and stays away.

One transaction deletes rows, labels and memberships, remembers by tombstones what must not come
back, keeps the answer to "which models were trained on it", and has the devices told. The audio
itself goes right after; a crash in between leaves it marked, and the next `spool.bury` deletes it.
A device that does not answer is told again whenever it connects.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import zip_longest

from sqlalchemy import Connection, delete, insert, select, text, update

from autotrain_cloud.store import Store, outbox, segments, spool
from autotrain_cloud.store.engine import scrub
from autotrain_cloud.store.lineage import Lineage, count_erased, lineage
from autotrain_cloud.store.schema import (
    consents,
    dead_letters,
    erasure_devices,
    erasures,
    parts,
    tombstones,
)
from autotrain_cloud.store.schema import segments as segment_rows
from autotrain_cloud.store.sql import insert_new
from edge_runtime.contract.codec import encode
from edge_runtime.contract.messages import Erase, Erased
from edge_runtime.contract.records import new_id
from edge_runtime.contract.topics import topic_of
from edge_runtime.errors import ConfigError

_LOCK = 7_305_002  # of PostgreSQL: whoever takes segments in shares it, an erasure has it alone
_IDS, _CONSENTS = 1000, 100  # in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What an erase request did."""

    id: str
    segments: int  # deleted here
    devices: tuple[str, ...]  # told to delete theirs
    lineage: Lineage


def erase(
    store: Store,
    *,
    segments: Collection[str] = (),
    consents: Collection[str] = (),
    devices: Collection[str] = (),
    reason: str = "",
    now_ms: int,
) -> Erasure:
    """Erases these segments, all recorded under these consents, and all of these devices.

    Raises ConfigError if nothing is named, StorageError if it could not be done; then nothing was,
    or only the audio of what is gone waits to be deleted.
    """
    if not (segments or consents or devices):
        raise ConfigError("nothing to erase: name segments, consents or devices")
    with store.begin() as db:
        alone(db)
        done = _erase(db, set(segments), set(consents), set(devices), reason, now_ms)
    spool.bury(store)
    scrub(store.engine)
    return done


def alone(db: Connection) -> None:
    """No segment is taken in until this transaction ends."""
    if db.dialect.name == "postgresql":
        db.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


def among_others(db: Connection) -> None:
    """Nothing is erased until this transaction, which takes segments in, ends."""
    if db.dialect.name == "postgresql":
        db.execute(text(f"SELECT pg_advisory_xact_lock_shared({_LOCK})"))


def _erase(
    db: Connection, ids: set[str], names: set[str], owners: set[str], reason: str, now_ms: int
) -> Erasure:
    erasure = new_id(now_ms, os.urandom(10))
    of_device = _consents_of(db, owners)
    wanted = _rows(db, ids, names, owners)
    told = _messages(db, names, of_device, wanted, now_ms)
    answer = lineage(db, wanted)
    row = {
        "id": erasure,
        "created_ms": now_ms,
        "reason": reason,
        "requested": {
            "segments": sorted(ids),
            "consents": sorted(names),
            "devices": sorted(owners),
        },
        "segments": len(wanted),
        "lineage": asdict(answer),
    }
    db.execute(insert(erasures), row)
    graves = [("segment", id, "") for id in ids | set(wanted)]
    graves += [("consent", name, "") for name in names]
    graves += [("device", device, "") for device in owners]
    graves += [("consent", name, device) for device, its in of_device.items() for name in its]
    db.execute(
        insert_new(db, tombstones),
        [
            {"kind": kind, "key": key, "device": device, "erasure": erasure, "at_ms": now_ms}
            for kind, key, device in graves
        ],
    )
    count_erased(db, wanted)
    for some in segments.slices(wanted):
        segments.remove(db, some)
    for some in segments.slices(ids | set(wanted)):
        db.execute(delete(parts).where(parts.c.id.in_(some)))
        db.execute(delete(dead_letters).where(dead_letters.c.id.in_(some)))
    for some in segments.slices(names):
        db.execute(delete(dead_letters).where(dead_letters.c.consent.in_(some)))
    if owners:
        db.execute(delete(parts).where(parts.c.device.in_(owners)))
        db.execute(delete(dead_letters).where(dead_letters.c.device.in_(owners)))
    for device, messages in told.items():
        for message in messages:
            db.execute(
                insert(erasure_devices),
                {
                    "erasure": erasure,
                    "device": device,
                    "message": encode(message),
                    "message_id": message.id,
                },
            )
            outbox.post(db, message, device, now_ms=now_ms)
    return Erasure(id=erasure, segments=len(wanted), devices=tuple(sorted(told)), lineage=answer)


def remind(db: Connection, device: str, *, now_ms: int) -> None:
    """Sends a device again what it has not answered."""
    mine = (erasure_devices.c.device == device) & erasure_devices.c.answered_ms.is_(None)
    messages = db.scalars(select(erasure_devices.c.message).where(mine))
    topic = topic_of("erase", device)
    rows = [(topic, bytes(message), False) for message in messages]
    outbox.post_encoded(db, rows, None, now_ms=now_ms)


def answered(db: Connection, device: str, answer: Erased, *, now_ms: int) -> bool:
    """A device has deleted what it was told to; -> no: nobody had asked."""
    mine = (erasure_devices.c.device == device) & (erasure_devices.c.message_id == answer.request)
    values = {"answered_ms": now_ms, "segments": answer.segments}
    return db.execute(update(erasure_devices).where(mine).values(**values)).rowcount > 0


def _rows(db: Connection, ids: set[str], names: set[str], owners: set[str]) -> dict[str, str]:
    """Every segment that is meant -> its device."""
    columns = select(segment_rows.c.id, segment_rows.c.device)
    found: dict[str, str] = {}
    for column, values in (
        (segment_rows.c.id, ids),
        (segment_rows.c.consent, names),
        (segment_rows.c.device, owners),
    ):
        for some in segments.slices(values):
            rows = db.execute(columns.where(column.in_(some)))
            found.update((row.id, row.device) for row in rows)
    return found


def _consents_of(db: Connection, owners: set[str]) -> dict[str, set[str]]:
    """Device -> the consents that it had or used."""
    found: dict[str, set[str]] = {device: set() for device in owners}
    for some in segments.slices(owners):
        granted = select(consents.c.device, consents.c.id).where(consents.c.device.in_(some))
        used = select(segment_rows.c.device, segment_rows.c.consent.label("id"))
        for query in (granted, used.where(segment_rows.c.device.in_(some)).distinct()):
            for row in db.execute(query):
                found[row.device].add(row.id)
    return found


def _messages(
    db: Connection, names: set[str], of_device: dict[str, set[str]], wanted: dict[str, str],
    now_ms: int,
) -> dict[str, list[Erase]]:  # fmt: skip
    """What each device is told: ids of segments it has sent, and consents it may still hold."""
    ids: dict[str, list[str]] = defaultdict(list)
    for id, device in wanted.items():
        ids[device].append(id)
    its = {device: set(found) for device, found in of_device.items()}
    for some in segments.slices(names):
        granted = select(consents.c.device, consents.c.id).where(consents.c.id.in_(some))
        for row in db.execute(granted):
            its.setdefault(row.device, set()).add(row.id)
    for device in ids:
        its.setdefault(device, set()).update(names)
    messages: dict[str, list[Erase]] = {}
    nothing: list[str] = []
    for device in sorted(its):
        segment_slices = list(segments.slices(sorted(ids[device]), _IDS)) or [[]]
        consent_slices = list(segments.slices(sorted(its[device]), _CONSENTS)) or [[]]
        messages[device] = [
            Erase(id=new_id(now_ms, os.urandom(10)), segments=tuple(some), consents=tuple(others))
            for some, others in zip_longest(segment_slices, consent_slices, fillvalue=nothing)
            if some or others
        ]
    return {device: told for device, told in messages.items() if told}
