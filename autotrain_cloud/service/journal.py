"""What happened, in the order in which it did: for the console, the terminal and whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

from autotrain_cloud.store.schema import events


def note(
    db: Connection,
    kind: str,
    subject: str,
    text: str,
    *,
    now_ms: int,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Adds an event, in the transaction of what it tells of."""
    row = {"at_ms": now_ms, "kind": kind, "subject": subject, "text": text}
    db.execute(insert(events), {**row, "facts": dict(facts or {})})


def since(db: Connection, number: int, *, limit: int = 500) -> Sequence[Row[Any]]:
    """Events after the one with this number, the oldest first."""
    later = select(events).where(events.c.number > number).order_by(events.c.number)
    return db.execute(later.limit(limit)).all()


def newest(db: Connection) -> int:
    """Number of the newest event; 0 if there is none."""
    return db.scalar(select(func.max(events.c.number))) or 0
