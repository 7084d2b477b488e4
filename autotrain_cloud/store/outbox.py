"""What is to be published, written by the transaction that gives reason to it.

A row belongs to the worker that publishes it (`owner`), or to nobody yet. It is deleted when the
broker has acknowledged it; a worker that starts begins with what it had not finished. What is
retained is published in the order of its rows, so that the newest is what stays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, or_, select, text, update

from autotrain_cloud.store.schema import outbox
from autotrain_cloud.store.sql import insert_returning, rows_in
from edge_runtime.contract.codec import encode
from edge_runtime.contract.messages import Message
from edge_runtime.contract.topics import channel_of, topic_of

_INSERTED = ("topic", "payload", "retain", "owner", "claimed_ms")
_AT_ONCE = 200  # rows in a statement
FORSAKEN_MS = 300_000  # then another worker takes over what one has claimed
_LOCK = 7_305_003  # of PostgreSQL: one worker claims at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message on its way out."""

    number: int  # of its row
    topic: str
    payload: bytes
    retain: bool


def post(
    db: Connection, message: Message, device: str | None, *, now_ms: int, owner: str | None = None
) -> None:
    """Has a message published, once this transaction is committed."""
    channel = channel_of(message)
    topic = topic_of(channel.name, device)
    post_encoded(db, [(topic, encode(message), channel.retained)], owner, now_ms=now_ms)


def post_encoded(
    db: Connection, rows: Sequence[tuple[str, bytes, bool]], owner: str | None, *, now_ms: int
) -> list[Outgoing]:
    """The same for rows of topic, payload, retain; -> the rows, for an owner that is at hand."""
    if not rows:
        return []
    made: list[Outgoing] = []
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        values = [(*row, owner, now_ms) for row in some]
        found = insert_returning(db, outbox, _INSERTED, values, "number, topic, payload, retain")
        made += sorted(map(_outgoing, found), key=attrgetter("number"))
    return made


def claim(db: Connection, owner: str, *, now_ms: int, limit: int = 200) -> list[Outgoing]:
    """Makes this worker publish what nobody does yet, and what others have left lying."""
    if db.dialect.name == "postgresql":
        db.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    forsaken = (outbox.c.owner != owner) & (outbox.c.claimed_ms < now_ms - FORSAKEN_MS)
    free = select(outbox).where(or_(outbox.c.owner.is_(None), forsaken))
    rows = db.execute(free.order_by(outbox.c.number).limit(limit)).all()
    held = {row.topic for row in rows if row.retain} and _held(db, owner, now_ms)
    mine = [row for row in rows if not (row.retain and row.topic in held)]
    if mine:
        numbers = [row.number for row in mine]
        claimed = update(outbox).where(outbox.c.number.in_(numbers))
        db.execute(claimed.values(owner=owner, claimed_ms=now_ms))
    return [_outgoing(row) for row in mine]


def unfinished(db: Connection, owner: str) -> list[Outgoing]:
    """What this worker has to publish and the broker has not acknowledged."""
    mine = select(outbox).where(outbox.c.owner == owner)
    return [_outgoing(row) for row in db.execute(mine.order_by(outbox.c.number))]


def finish(db: Connection, numbers: Collection[int]) -> None:
    """These are with the broker."""
    if numbers:
        rows_in(db, "DELETE FROM outbox WHERE number IN {}", numbers)


def _held(db: Connection, owner: str, now_ms: int) -> set[str]:
    """Topics of retained messages that another worker is publishing."""
    others = (outbox.c.owner != owner) & (outbox.c.claimed_ms >= now_ms - FORSAKEN_MS)
    return set(db.scalars(select(outbox.c.topic).where(outbox.c.retain, others).distinct()))


def _outgoing(row: Row[Any]) -> Outgoing:
    return Outgoing(
        number=row.number, topic=row.topic, payload=bytes(row.payload), retain=bool(row.retain)
    )
