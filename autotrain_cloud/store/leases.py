"""Who is reviewing which segment: one person at a time, until a label or until time is up."""

from __future__ import annotations

from sqlalchemy import Connection, delete, or_

from autotrain_cloud.store.schema import leases
from autotrain_cloud.store.sql import upsert


def take(db: Connection, segment: str, who: str, *, now_ms: int, until_ms: int) -> bool:
    """-> no: somebody else has it. Your own lasts longer then."""
    statement = upsert(db, leases).values(segment=segment, who=who, until_ms=until_ms)
    mine = or_(leases.c.who == who, leases.c.until_ms <= now_ms)
    changed = {"who": who, "until_ms": until_ms}
    statement = statement.on_conflict_do_update(
        index_elements=["segment"], set_=changed, where=mine
    )
    return db.execute(statement.returning(leases.c.segment)).one_or_none() is not None


def end(db: Connection, segment: str) -> None:
    db.execute(delete(leases).where(leases.c.segment == segment))
