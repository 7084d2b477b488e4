"""Which device may record what for upload: every decision is kept, the newest one holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from autotrain_cloud.store import devices, outbox
from autotrain_cloud.store.schema import consents, tombstones
from edge_runtime.contract.messages import Consent
from edge_runtime.errors import ConfigError


def grant(
    db: Connection,
    device: str,
    id: str,
    *,
    now_ms: int,
    until_ms: int | None = None,
    purposes: Sequence[str] = ("training", "monitoring"),
    retention_days: int = 14,
) -> Consent:
    """Lets a device record under this consent from now on, and has it told so.

    Raises ConfigError for a consent that was erased: a new one needs a new id.
    """
    erased = select(tombstones.c.key).where(
        tombstones.c.kind == "consent",
        tombstones.c.key == id,
        tombstones.c.device.in_(("", device)),
    )
    if db.scalar(erased) is not None:
        raise ConfigError(f"consent {id!r}: what was recorded under it was erased: name a new one")
    message = Consent(
        id=id,
        version=_next_version(db, device),
        granted=True,
        from_ms=now_ms,
        until_ms=until_ms,
        purposes=tuple(purposes),
        retention_days=retention_days,
    )
    _keep(db, device, message, now_ms)
    return message


def withdraw(db: Connection, device: str, *, now_ms: int) -> Consent | None:
    """Ends the device's consent, and has it told so; None if it has none."""
    row = current(db, device)
    if row is None or not row.granted:
        return None
    message = Consent(
        id=row.id,
        version=_next_version(db, device),
        granted=False,
        from_ms=row.from_ms,
        until_ms=now_ms,
        purposes=tuple(row.purposes),
        retention_days=row.retention_days,
    )
    _keep(db, device, message, now_ms)
    return message


def current(db: Connection, device: str) -> Row[Any] | None:
    """The newest decision about a device."""
    mine = select(consents).where(consents.c.device == device)
    return db.execute(mine.order_by(consents.c.version.desc()).limit(1)).one_or_none()


def granted(db: Connection, names: Collection[str]) -> set[tuple[str, str]]:
    """(device, consent) that were ever granted to these devices."""
    ever = select(consents.c.device, consents.c.id).where(consents.c.granted)
    return {(row.device, row.id) for row in db.execute(ever.where(consents.c.device.in_(names)))}


def republish(db: Connection, *, now_ms: int) -> int:
    """Has every device's consent published again, for a broker that forgot; -> how many."""
    newest = (
        select(consents.c.device, func.max(consents.c.version).label("version"))
        .group_by(consents.c.device)
        .subquery()
    )
    rows = db.execute(
        select(consents).join(
            newest,
            (consents.c.device == newest.c.device) & (consents.c.version == newest.c.version),
        )
    ).all()
    for row in rows:
        outbox.post(db, _message(row), row.device, now_ms=now_ms)
    return len(rows)


def _keep(db: Connection, device: str, message: Consent, now_ms: int) -> None:
    devices.register(db, [device], now_ms=now_ms)
    row = {
        "device": device,
        "version": message.version,
        "id": message.id,
        "granted": message.granted,
        "from_ms": message.from_ms,
        "until_ms": message.until_ms,
        "purposes": list(message.purposes),
        "retention_days": message.retention_days,
        "created_ms": now_ms,
    }
    db.execute(insert(consents), row)
    outbox.post(db, message, device, now_ms=now_ms)


def _message(row: Row[Any]) -> Consent:
    return Consent(
        id=row.id,
        version=row.version,
        granted=row.granted,
        from_ms=row.from_ms,
        until_ms=row.until_ms,
        purposes=tuple(row.purposes),
        retention_days=row.retention_days,
    )


def _next_version(db: Connection, device: str) -> int:
    mine = consents.c.device == device
    return (db.scalar(select(func.max(consents.c.version)).where(mine)) or 0) + 1
