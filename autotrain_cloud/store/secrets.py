"""Random names that are drawn once and then kept, for all processes with this store."""

from __future__ import annotations

from secrets import token_hex

from sqlalchemy import select

from autotrain_cloud.store import Store
from autotrain_cloud.store import schema as tables
from autotrain_cloud.store.sql import insert_new


def secret(store: Store, name: str) -> str:
    """32 random hexadecimal digits, the same at every call. Raises StorageError."""
    query = select(tables.secrets.c.value).where(tables.secrets.c.name == name)
    with store.begin() as db:  # whoever comes second waits for the first, and reads its value
        db.execute(insert_new(db, tables.secrets).values(name=name, value=token_hex(16)))
        return str(db.scalar(query))
