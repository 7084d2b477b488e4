"""The fleet, as it last reported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from autotrain_cloud.store.plain import clean
from autotrain_cloud.store.schema import devices
from autotrain_cloud.store.sql import insert_new
from edge_runtime.contract.messages import Birth, Death
from edge_runtime.contract.records import Model


def register(db: Connection, names: Collection[str], *, now_ms: int) -> None:
    """Takes in those that are not known."""
    rows = [
        {"name": name, "first_seen_ms": now_ms, "last_seen_ms": now_ms, "state": "unknown"}
        for name in sorted(names)  # in one order, or two workers wait for each other
    ]
    if rows:
        db.execute(insert_new(db, devices), rows)


def known(db: Connection, names: Collection[str]) -> set[str]:
    """Those of these names that are devices."""
    return set(db.scalars(select(devices.c.name).where(devices.c.name.in_(names))))


def seen(db: Connection, names: Collection[str], *, now_ms: int) -> None:
    """They have said something."""
    for name in sorted(names):
        mine = (devices.c.name == name) & (devices.c.last_seen_ms < now_ms)
        db.execute(update(devices).where(mine).values(last_seen_ms=now_ms))


def born(db: Connection, name: str, birth: Birth) -> bool:
    """The device has connected; -> no: an old message, or the same one again."""
    facts = {
        "session": birth.session,
        "state": "online",
        "connected_ms": birth.connected_ms,
        "clock_is_set": birth.clock_is_set,
        "agent": birth.agent,
        "hardware": clean(birth.hardware),
        "time_zone": clean(birth.time_zone),
        "consent": birth.consent,
        **model_columns(birth.model),
    }
    column = devices.c.session
    again = (column == birth.session) & devices.c.connected_ms.is_distinct_from(birth.connected_ms)
    mine = (devices.c.name == name) & (column.is_(None) | (column < birth.session) | again)
    return db.execute(update(devices).where(mine).values(**facts)).rowcount > 0


def died(db: Connection, name: str, death: Death) -> bool:
    """The connection is gone; -> no: that of a session before the last, which says nothing."""
    older = devices.c.session.is_(None) | (devices.c.session <= death.session)
    state = "stopped" if death.graceful else "offline"
    mine = (devices.c.name == name) & older
    facts = {"session": death.session, "state": state}
    return db.execute(update(devices).where(mine).values(**facts)).rowcount > 0


def runs(db: Connection, name: str, session: int, model: Model | None) -> None:
    """What a device says it is running now."""
    current = devices.c.session.is_(None) | (devices.c.session <= session)
    mine = (devices.c.name == name) & current
    db.execute(update(devices).where(mine).values(**model_columns(model)))


def model_columns(model: Model | None, prefix: str = "model") -> dict[str, Any]:
    """A model in the five columns that name it."""
    return {
        f"{prefix}_name": model and model.name,
        f"{prefix}_version": model and model.version,
        f"{prefix}_counter": model and model.release_counter,
        f"{prefix}_manifest": model and model.manifest_sha256.hex(),
        f"{prefix}_precision": model and model.precision,
    }


def find(db: Connection, *, after: str = "", limit: int = 100) -> Sequence[Row[Any]]:
    """Devices by name; `after` is the last name of the page before."""
    page = select(devices).where(devices.c.name > after).order_by(devices.c.name)
    return db.execute(page.limit(limit)).all()
