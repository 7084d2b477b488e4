"""How far each device may update: the newest word counts, and is published again if it is lost."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from autotrain_cloud.store import outbox
from autotrain_cloud.store.schema import assignments
from autotrain_cloud.store.sql import upsert
from edge_runtime.contract.messages import Assignment


def assign(db: Connection, counters: Collection[tuple[str, int]], *, now_ms: int) -> None:
    """(device, release counter) for each; devices are told once this transaction is committed."""
    if not counters:
        return
    statement = upsert(db, assignments)
    changed = {"version": statement.excluded.version, "counter": statement.excluded.counter}
    db.execute(
        statement.on_conflict_do_update(index_elements=["device"], set_=changed),
        [{"device": name, "version": now_ms, "counter": counter} for name, counter in counters],
    )
    for name, counter in counters:
        _post(db, name, now_ms, counter, now_ms)


def republish(db: Connection, *, now_ms: int) -> int:
    """For a broker that forgot; -> how many."""
    rows = db.execute(select(assignments)).all()
    for row in rows:
        _post(db, row.device, row.version, row.counter, now_ms)
    return len(rows)


def _post(db: Connection, device: str, version: int, counter: int, now_ms: int) -> None:
    message = Assignment(version=version, release_counter=counter)
    outbox.post(db, message, device, now_ms=now_ms)
