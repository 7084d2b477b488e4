"""Segments: what was said, as it was recognised, and how long it is kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, tuple_, update

from autotrain_cloud.store import Store, spool
from autotrain_cloud.store.schema import labels, segments

DAY_MS = 86_400_000


def find(
    db: Connection,
    *,
    device: str | None = None,
    model_version: str | None = None,
    language: str | None = None,
    consent: str | None = None,
    retention: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    before: tuple[int, str] | None = None,
    limit: int = 100,
) -> Sequence[Row[Any]]:
    """Segments, the newest first; `before` is (received_ms, id) of the page's last one."""
    wanted = select(segments)
    for column, value in (
        (segments.c.device, device),
        (segments.c.model_version, model_version),
        (segments.c.language, language),
        (segments.c.consent, consent),
        (segments.c.retention, retention),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    if since_ms is not None:
        wanted = wanted.where(segments.c.received_ms >= since_ms)
    if until_ms is not None:
        wanted = wanted.where(segments.c.received_ms < until_ms)
    if before is not None:
        wanted = wanted.where(tuple_(segments.c.received_ms, segments.c.id) < tuple_(*before))
    newest = wanted.order_by(segments.c.received_ms.desc(), segments.c.id.desc())
    return db.execute(newest.limit(limit)).all()


def get(db: Connection, id: str) -> Row[Any] | None:
    """One segment."""
    return db.execute(select(segments).where(segments.c.id == id)).one_or_none()


def labels_of(db: Connection, id: str) -> Sequence[Row[Any]]:
    """Its labels, the newest first."""
    mine = select(labels).where(labels.c.segment == id)
    return db.execute(mine.order_by(labels.c.created_ms.desc(), labels.c.id)).all()


def count(db: Connection) -> int:
    """How many there are."""
    return db.scalar(select(func.count()).select_from(segments)) or 0


def set_retention(
    db: Connection, ids: Collection[str], retention: str, *, days: int, now_ms: int
) -> int:
    """Gives segments another retention class; -> how many."""
    values = {"retention": retention, "expires_ms": now_ms + days * DAY_MS}
    return db.execute(update(segments).where(segments.c.id.in_(ids)).values(**values)).rowcount


def remove(db: Connection, ids: Collection[str]) -> int:
    """Deletes segments with labels, memberships and audio that nothing else refers to; -> count."""
    gone = list(
        db.execute(delete(segments).where(segments.c.id.in_(ids)).returning(segments.c.audio))
    )
    spool.doom(db, {row.audio for row in gone})
    return len(gone)


def expire(store: Store, *, now_ms: int) -> int:
    """Deletes what has outlived its retention; -> how many segments. Raises StorageError."""
    total = 0
    while True:
        with store.begin() as db:
            due = select(segments.c.id).where(segments.c.expires_ms <= now_ms).limit(500)
            ids = list(db.scalars(due))
            total += remove(db, ids)
        if not ids:
            break
    spool.bury(store)
    return total


def slices(ids: Collection[str], size: int = 500) -> Iterator[list[str]]:
    """Ids in portions that one statement can name."""
    ordered = list(ids)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
