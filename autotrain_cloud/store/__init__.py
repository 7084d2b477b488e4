"""The cloud's memory: devices, segments and their audio, labels, data sets, models, and what is yet
to be published.

    store = Store.open(settings.store)
    with store.begin() as db:                     # or store.read()
        segments.set_retention(db, ids, "guard", days=3650)
    audio = store.audio(digest)

A database (SQLite by default, PostgreSQL by URL) and a place for audio (a folder, or an object
store, which all processes of the store must reach). Audio is there, in packs, before the
transaction that refers to it is committed, and never in the database. The modules of this folder
are functions over a connection, so several of them can share a transaction.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import engine as _engine
from autotrain_cloud.store import schema
from autotrain_cloud.store.blobs import Blobs
from autotrain_cloud.store.migrations import migrate
from edge_runtime.errors import StorageError

__all__ = ["Store"]


@dataclass(frozen=True, slots=True)
class Store:
    """An open store. Threads may share it; processes open their own."""

    engine: Engine
    blobs: Blobs

    @classmethod
    def open(cls, settings: StoreSettings) -> Store:
        """Brings the schema up to date first.

        Raises ConfigError for settings that cannot be right and for the schema of a newer version,
        StorageError where database or disk do not answer.
        """
        store = cls(_engine.open_engine(settings.url), Blobs(settings.blobs))
        try:
            migrate(store.engine)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Closes its connections."""
        self.engine.dispose()

    def begin(self) -> AbstractContextManager[Connection]:
        """A transaction that may write. Failures of database or disk are StorageErrors."""
        return _engine.begin(self.engine)

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that only reads, and sees one state."""
        return _engine.read(self.engine)

    def audio(self, digest: str) -> bytes:
        """The bytes of a blob, wherever they are. Raises StorageError if they are nowhere."""
        blobs = schema.blobs
        found = select(blobs.c.pack, blobs.c.start, blobs.c.size).where(blobs.c.digest == digest)
        before = None
        while True:
            with self.read() as db:
                row = db.execute(found).one_or_none()
            if row is None:
                raise StorageError(f"{digest}: no such audio")
            try:
                return self.blobs.read(row.pack, row.start, row.size, digest)
            except StorageError:
                if row == before:
                    raise
                before = row  # it may have moved meanwhile
