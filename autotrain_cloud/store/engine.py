"""SQLite or PostgreSQL behind one engine: a commit is on the disk when it returns.

SQLite runs in WAL mode with synchronous=FULL; a writing transaction takes the write lock when it
begins (BEGIN IMMEDIATE), so it never has to be repeated because another one was faster.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

from edge_runtime.errors import ConfigError, StorageError

BUSY_MS = 20_000  # that SQLite waits for another process's transaction
PAGE_BYTES = 16384


def open_engine(url: str) -> Engine:
    """Raises ConfigError for a URL that is none or of another database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(f"store.url: not a database URL (expected {_EXPECTED})") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(parsed)
    if parsed.drivername == "postgresql+psycopg":
        return create_engine(parsed, pool_pre_ping=False, pool_size=8, json_serializer=_json)
    raise ConfigError(f"store.url: {parsed.drivername!r} (expected {_EXPECTED})")


@contextmanager
def begin(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write. Failures of database or disk are StorageErrors."""
    with _mapped(), engine.connect().execution_options(writes=True) as db, db.begin():
        yield db


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the store."""
    with _mapped(), engine.connect() as db, db.begin():
        if db.dialect.name == "postgresql":
            db.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        yield db


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if is_unavailable(error):
            reason = " ".join(str(error.orig).split())
            raise StorageError(f"the store is not available: {reason}") from error
        raise


def is_unavailable(error: DBAPIError) -> bool:
    """Whether database or disk are to blame, and the same may work later."""
    if isinstance(error.orig, sqlite3.DatabaseError):
        return isinstance(error.orig, sqlite3.OperationalError)
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def checkpoint(engine: Engine) -> None:
    """SQLite: brings the write-ahead log into the file, as far as nobody is in the way."""
    _checkpoint(engine, "PASSIVE")


def scrub(engine: Engine) -> None:
    """SQLite: the same, and empties the log, where what was deleted can still be read.

    Who reads is waited for, but not for ever: then the log is emptied by the next one to try.
    """
    _checkpoint(engine, "TRUNCATE")


def _checkpoint(engine: Engine, how: str) -> None:
    if engine.dialect.name == "sqlite":
        with _mapped(), engine.connect() as db:
            raw = db.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute(f"PRAGMA wal_checkpoint({how})").close()


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError("store.url: names no file (expected sqlite:///FOLDER/store.db)")
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"store.url: {url.database}: {error.strerror}") from error
    engine = create_engine(
        url, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False},
        json_serializer=_json,
    )  # fmt: skip

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN
        for pragma in (
            f"page_size = {PAGE_BYTES}",  # of a new file
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "secure_delete = ON",  # what is erased is overwritten
            "cache_size = -32768",  # KiB
            "wal_autocheckpoint = 8000",  # pages; before, `checkpoint` does it in quiet times
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def start(db: Connection) -> None:
        writes = db.get_execution_options().get("writes")
        db.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _json(value: Any) -> str:
    from autotrain_cloud.store.plain import to_json

    return to_json(value)


_EXPECTED = "sqlite:///FILE or postgresql+psycopg://HOST/DATABASE"
