"""The one statement that the two databases spell differently."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def upsert(db: Connection, table: Table) -> Any:
    """INSERT of this database, for `on_conflict_do_update`."""
    if db.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def insert_new(db: Connection, table: Table) -> Any:
    """INSERT that leaves alone what is there already."""
    return upsert(db, table).on_conflict_do_nothing()
