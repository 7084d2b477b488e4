"""The outbox's SQLite file: opened whatever state it is in.

A commit is on the disk when it returns (WAL, synchronous=FULL). A file that SQLite finds damaged is
set aside, never deleted, and a fresh one takes its place with every row that could still be read.
Deleted bytes are overwritten (secure_delete), and `scrub` empties the write-ahead log of them.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import sync_directory

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
PAGE_BYTES = 4096
_SCHEMA = """
CREATE TABLE segments (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    consent TEXT NOT NULL,
    value REAL NOT NULL,
    inclusion REAL NOT NULL,
    expires_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'dead', 'corrupt')),
    size INTEGER NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX by_value ON segments (state, value DESC, sequence, size);
CREATE TABLE fates (
    id TEXT PRIMARY KEY,
    fate TEXT NOT NULL
        CHECK (fate IN ('delivered', 'evicted', 'expired', 'erased', 'dead', 'corrupt')),
    reason TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    inclusion REAL NOT NULL,
    reported INTEGER NOT NULL CHECK (reported IN (0, 1))
);
CREATE INDEX unreported ON fates (reported, at_ms);
CREATE TABLE withdrawn (consent TEXT PRIMARY KEY);
CREATE TABLE incidents (number INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL);
"""
_TABLES = ("segments", "fates", "withdrawn", "incidents")

Row = tuple[Any, ...]
Accept = Callable[[str, Row], bool]  # whether a row of this table, read from a damaged file, counts


def open_database(path: Path, *, key_id: int, max_bytes: int, accept: Accept) -> sqlite3.Connection:
    """The database at `path`: as it was, salvaged, or new. A salvage adds a row to `incidents`.

    Raises StorageError if the disk does not let us, ConfigError if a newer version wrote the file.
    """
    try:
        _finish_replacing(path)
        try:
            if path.exists():
                _check(path, key_id)
            return _connect(path, key_id, max_bytes)
        except sqlite3.OperationalError:
            raise  # of the disk, not of the file
        except sqlite3.DatabaseError as error:
            _replace(path, key_id, max_bytes, accept, str(error))
        return _connect(path, key_id, max_bytes)
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{path}: cannot open the outbox: {error}") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, rather than the disk full or the statement wrong."""
    return type(error) is sqlite3.DatabaseError  # SQLITE_CORRUPT and SQLITE_NOTADB


def scrub(database: sqlite3.Connection) -> None:
    """After it, no file holds what was deleted. Raises sqlite3.OperationalError."""
    database.execute("PRAGMA incremental_vacuum").fetchall()
    busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("another program reads the outbox")


def delete_set_aside(path: Path) -> None:
    """Deletes the damaged files kept beside the database: nobody can say what is in them."""
    _delete(_aside(path))
    sync_directory(path.parent)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.name}.fresh")


def _check(path: Path, key_id: int) -> None:
    """Raises what is wrong with the file.

    Closing it empties the write-ahead log, which finishes an erasure that was cut off.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{path}: written by a newer version of vitconformer: install that, or move the"
                " file away"
            )
        (key,) = database.execute("PRAGMA application_id").fetchone()
        if version and key != key_id:
            raise sqlite3.DatabaseError("sealed under another key")


def _connect(path: Path, key_id: int, max_bytes: int) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.text_factory = _text
    try:
        for pragma in (
            f"page_size = {PAGE_BYTES}",
            "auto_vacuum = INCREMENTAL",  # both only take effect in an empty file
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            "temp_store = MEMORY",
            f"max_page_count = {max(max_bytes // PAGE_BYTES, 64)}",
        ):
            database.execute(f"PRAGMA {pragma}").fetchall()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if not version:
            database.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {key_id};"
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        path.chmod(0o600)
    except BaseException:
        database.close()
        raise
    return database


def _replace(path: Path, key_id: int, max_bytes: int, accept: Accept, why: str) -> None:
    """A fresh database in place of the damaged one, with what can still be read of it.

    The fresh one is whole before the damaged one is moved, so a crash at any moment leaves one that
    is whole, or one to begin with again.
    """
    fresh = _fresh(path)
    _delete(fresh)
    _lengthen(path)
    with closing(_connect(fresh, key_id, max_bytes)) as database:
        saved = dict.fromkeys(_TABLES, 0)
        database.execute("BEGIN IMMEDIATE")
        for table, row in _readable(path):
            if accept(table, row):
                marks = ", ".join("?" * len(row))
                with suppress(sqlite3.IntegrityError):  # seen already, or no row of ours
                    database.execute(f"INSERT INTO {table} VALUES ({marks})", row)
                    saved[table] += 1
        kept = f"saved {saved['segments']} segments, kept the file as {_aside(path).name}"
        line = f"{path.name}: {' '.join(why.split())}; {kept}"
        database.execute("INSERT INTO incidents (line) VALUES (?)", (line[:500],))
        database.execute("COMMIT")
    log.warning("outbox damaged: %s", line)
    delete_set_aside(path)  # one is enough to find out what happened
    path.replace(_aside(path))
    _finish_replacing(path)


def _lengthen(path: Path) -> None:
    """Gives a file that was cut short the length it says it has, or SQLite reads nothing of it."""
    with path.open("r+b") as file:
        header = file.read(32)
        promised = int.from_bytes(header[28:32], "big") * PAGE_BYTES
        size = path.stat().st_size
        if header.startswith(b"SQLite format 3\0") and size < promised <= 2 * size + (64 << 20):
            file.truncate(promised)


def _finish_replacing(path: Path) -> None:
    if _fresh(path).exists() and not path.exists():
        with suppress(FileNotFoundError):
            Path(f"{path}-wal").replace(f"{_aside(path)}-wal")
        Path(f"{path}-shm").unlink(missing_ok=True)
        _fresh(path).replace(path)
        sync_directory(path.parent)


def _delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _readable(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows from both ends of every table, as far as SQLite can follow them; some come twice."""
    for table in _TABLES:
        for order in ("ASC", "DESC"):
            with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA cell_size_check = ON")
                database.text_factory = _text
                for row in database.execute(f"SELECT * FROM {table} ORDER BY rowid {order}"):
                    yield table, row


def _text(data: bytes) -> str:
    """Text that is damaged does not stop us from reading on; what it names will not open."""
    return data.decode(errors="replace")
