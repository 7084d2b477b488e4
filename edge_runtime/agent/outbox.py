"""The outbox: segments wait here, through power cuts, until the cloud has them.

    queued ── receipt ──> delivered          gone from the disk
       │ ├─── permanent nack ──> dead        kept until its time is up, not sent again
       │ ├─── does not open ──> corrupt      likewise
       └─┴─── quota, time, consent ──> evicted, expired, erased

Every segment that `put` accepted is either queued or in the ledger of fates, in the same file, by
the same transaction. What was not delivered leaves a tombstone that waits to be reported. What is
in flight is the sender's to know: to the outbox it is queued, so a sender that dies loses nothing
and what it sent may be sent again. All operations can be repeated.

One process may hold an outbox open, with as many threads as it likes. Failures of the disk are
StorageErrors and leave everything as it was, so a caller can log them and go on.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from edge_runtime.agent.database import (
    Row,
    delete_set_aside,
    is_damage,
    open_database,
    scrub,
)
from edge_runtime.agent.sealing import Sealer, load_key
from edge_runtime.contract.records import Tombstone
from edge_runtime.errors import ConfigError, StorageError

DATABASE_NAME = "outbox.db"
KEY_NAME = "outbox.key"
LOCK_NAME = "outbox.lock"
REMEMBER_MS = 30 * 86_400_000  # how long the fate of a segment is known after it was reported

Put = Literal["kept", "known", "evicted", "erased"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A segment to keep; all of it but `payload` can be read without the key."""

    id: str
    consent: str  # recorded under it
    value: float  # the least valuable make room first
    inclusion_probability: float
    expires_ms: int  # since 1970
    payload: bytes  # the encoded message

    @property
    def bound(self) -> bytes:
        """What the payload is sealed to."""
        numbers = (float(self.value), float(self.inclusion_probability), int(self.expires_ms))
        facts = (self.id, self.consent, *numbers)
        return json.dumps(facts).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What lies in the outbox. Bytes are those of sealed segments."""

    queued: int
    queued_bytes: int
    dead: int
    corrupt: int
    bytes: int  # of all three
    unreported: int  # tombstones


class Outbox:
    """See the module. Open it with `Outbox.open`."""

    def __init__(self, directory: Path, quota_bytes: int, sealer: Sealer, lock: int) -> None:
        self._path = directory / DATABASE_NAME
        self._quota = quota_bytes
        self._sealer = sealer
        self._lock_file = lock
        self._mutex = threading.RLock()
        self._database = self._open()

    @classmethod
    def open(cls, directory: Path | str, *, quota_bytes: int) -> Outbox:
        """The outbox in this directory, made if need be; holds at most `quota_bytes` of segments.

        Raises ConfigError for a key that others can read and for a second process, StorageError if
        the disk does not let us. A damaged file is no error: see `edge_runtime.agent.database`.
        """
        directory = Path(directory)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"{directory}: cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(directory, quota_bytes, Sealer(load_key(directory / KEY_NAME)), lock)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(f"{directory}: another process has this outbox open") from None
        except BaseException:
            os.close(lock)
            raise

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process open it."""
        with self._mutex:
            if self._lock_file >= 0:
                self._database.close()
                os.close(self._lock_file)
                self._lock_file = -1

    def put(self, item: Item, *, now_ms: int) -> Put:
        """Keeps a segment; on the disk when this returns `kept`.

        `known`: it is here or was, and nothing changes. `evicted`: what is here is worth more.
        `erased`: it, or its consent, was erased. Raises StorageError, and then it is not kept.
        """
        sealed = self._sealer.seal(item.payload, item.bound)

        def put(database: sqlite3.Connection) -> Put:
            if _one(database, "SELECT 1 FROM segments WHERE id = ?", item.id):
                return "known"
            if fate := _one(database, "SELECT fate FROM fates WHERE id = ?", item.id):
                return "erased" if fate[0] == "erased" else "known"
            if _one(database, "SELECT 1 FROM withdrawn WHERE consent = ?", item.consent):
                return "erased"
            if not self._make_room(database, len(sealed), item.value, now_ms):
                fate = ("evicted", "no room", now_ms, item.inclusion_probability)
                database.execute("INSERT INTO fates VALUES (?, ?, ?, ?, ?, 0)", (item.id, *fate))
                return "evicted"
            database.execute(
                "INSERT INTO segments (id, consent, value, inclusion, expires_ms, state, size,"
                " sealed) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?)",
                (
                    item.id,
                    item.consent,
                    item.value,
                    item.inclusion_probability,
                    item.expires_ms,
                    len(sealed),
                    sealed,
                ),
            )
            return "kept"

        return self._transaction(put)

    def peek(
        self, limit: int, *, now_ms: int, exclude: Collection[str] = frozenset()
    ) -> list[Item]:
        """The next to send: the most valuable first, among equals the oldest.

        `exclude` is what is in flight. What does not open is set apart as corrupt on the way.
        """

        def peek(database: sqlite3.Connection) -> list[Item]:
            found: list[Item] = []
            rows = database.execute(
                "SELECT * FROM segments WHERE state = 'queued' ORDER BY value DESC, sequence"
            )
            damaged = []
            for row in rows:
                if len(found) >= limit:
                    break
                if row[1] in exclude:
                    continue
                try:
                    found.append(self._unsealed(row))
                except StorageError:
                    damaged.append(row)
            for row in damaged:
                self._leave(database, row[1], "corrupt", "does not open", now_ms)
            return found

        return self._transaction(peek)

    def delivered(self, ids: Iterable[str], *, now_ms: int) -> int:
        """The cloud has committed these; -> how many were still here. Unknown ids are no error."""

        def delivered(database: sqlite3.Connection) -> int:
            return sum(
                self._leave(database, each, "delivered", "", now_ms, keep=False) for each in names
            )

        names = list(ids)
        return self._transaction(delivered)

    def refused(self, id: str, reason: str, *, now_ms: int) -> bool:
        """The cloud will never take this one: a dead letter; -> whether it was queued."""
        return self._transaction(
            lambda database: self._leave(database, id, "dead", reason, now_ms, only="queued")
        )

    def expire(self, *, now_ms: int) -> int:
        """Deletes what outlived its time, and old entries of the ledger; -> how many segments."""

        def expire(database: sqlite3.Connection) -> int:
            rows = database.execute("SELECT id FROM segments WHERE expires_ms <= ?", (now_ms,))
            ids = [id for (id,) in rows]
            for each in ids:
                self._leave(database, each, "expired", "its time is up", now_ms, keep=False)
            database.execute(
                "DELETE FROM fates WHERE reported = 1 AND fate != 'erased' AND at_ms < ?",
                (now_ms - REMEMBER_MS,),
            )
            return len(ids)

        return self._transaction(expire)

    def erase(
        self, *, segments: Iterable[str] = (), consents: Iterable[str] = (), now_ms: int
    ) -> int:
        """Deletes these and everything recorded under these consents; -> how many segments.

        When it returns, no file of the outbox holds them any more, sealed or not; what the medium
        keeps below the file system is sealed. They can never be put again. Raises StorageError if
        a file could not be cleaned: repeat it.
        """
        names, withdrawn = list(segments), list(consents)

        def erase(database: sqlite3.Connection) -> int:
            database.executemany(
                "INSERT OR IGNORE INTO withdrawn VALUES (?)", [(each,) for each in withdrawn]
            )
            ids = dict.fromkeys(names)
            for consent in withdrawn:
                rows = database.execute("SELECT id FROM segments WHERE consent = ?", (consent,))
                ids |= dict.fromkeys(id for (id,) in rows)
            count = 0
            for each in ids:
                count += self._leave(database, each, "erased", "on request", now_ms, keep=False)
                fate = (each, "erased", "on request", now_ms)
                database.execute(
                    "INSERT INTO fates VALUES (?, ?, ?, ?, 0, 1)"
                    " ON CONFLICT (id) DO UPDATE SET fate = 'erased'",
                    fate,
                )
            return count

        with self._mutex:
            count = self._transaction(erase)
            try:
                delete_set_aside(self._path)
                scrub(self._database)
            except (sqlite3.Error, OSError) as error:
                raise StorageError(f"{self._path}: cannot be cleaned: {error}") from error
            return count

    def recorded_under(self, consent: str | None = None) -> list[str]:
        """Ids of what is here, under this consent or, without one, of everything."""

        def ids(database: sqlite3.Connection) -> list[str]:
            query = "SELECT id FROM segments WHERE ?1 IS NULL OR consent = ?1"
            return [id for (id,) in database.execute(query, (consent,))]

        return self._transaction(ids)

    def consents(self) -> list[str]:
        """Under which what is here was recorded."""

        def consents(database: sqlite3.Connection) -> list[str]:
            return [id for (id,) in database.execute("SELECT DISTINCT consent FROM segments")]

        return self._transaction(consents)

    def tombstones(self, limit: int) -> list[Tombstone]:
        """Fates not yet reported, the oldest first."""

        def tombstones(database: sqlite3.Connection) -> list[Tombstone]:
            rows = database.execute(
                "SELECT id, fate, reason, at_ms, inclusion FROM fates WHERE reported = 0"
                " ORDER BY at_ms, id LIMIT ?",
                (limit,),
            )
            return [
                Tombstone(
                    id=id,
                    fate=fate,
                    reason=why,
                    at_ms=at,
                    inclusion_probability=min(max(inclusion, 0.0), 1.0),  # SQLite does not check it
                )
                for id, fate, why, at, inclusion in rows
            ]

        return self._transaction(tombstones)

    def incidents(self) -> list[str]:
        """Files that were set aside, in words, the oldest first, until they were reported."""
        return self._transaction(
            lambda database: [line for (line,) in database.execute("SELECT line FROM incidents")]
        )

    def reported(self, ids: Iterable[str] = (), incidents: Iterable[str] = ()) -> None:
        """The cloud knows of these tombstones and incidents."""
        names, lines = [(each,) for each in ids], [(each,) for each in incidents]

        def reported(database: sqlite3.Connection) -> None:
            database.executemany("UPDATE fates SET reported = 1 WHERE id = ?", names)
            database.executemany("DELETE FROM incidents WHERE line = ?", lines)

        self._transaction(reported)

    def fate(self, id: str) -> str | None:
        """`queued`, or what became of the segment; None for one that was never here."""

        def fate(database: sqlite3.Connection) -> str | None:
            if row := _one(database, "SELECT fate FROM fates WHERE id = ?", id):
                return str(row[0])
            row = _one(database, "SELECT state FROM segments WHERE id = ?", id)
            return str(row[0]) if row else None

        return self._transaction(fate)

    def stats(self) -> Stats:
        """What lies here now."""

        def stats(database: sqlite3.Connection) -> Stats:
            states = {
                state: (count, size)
                for state, count, size in database.execute(
                    "SELECT state, count(*), sum(size) FROM segments GROUP BY state"
                )
            }
            (unreported,) = database.execute(
                "SELECT count(*) FROM fates WHERE reported = 0"
            ).fetchone()
            queued, queued_bytes = states.get("queued", (0, 0))
            return Stats(
                queued=queued,
                queued_bytes=queued_bytes,
                dead=states.get("dead", (0, 0))[0],
                corrupt=states.get("corrupt", (0, 0))[0],
                bytes=sum(size for _, size in states.values()),
                unreported=unreported,
            )

        return self._transaction(stats)

    def _make_room(
        self, database: sqlite3.Connection, size: int, value: float, now_ms: int
    ) -> bool:
        """Evicts what is worth no more than `value`, if that makes room; all or nothing."""
        (used,) = database.execute("SELECT coalesce(sum(size), 0) FROM segments").fetchone()
        over = used + size - self._quota
        victims = []
        if over > 0:
            rows = database.execute(
                "SELECT id, size FROM segments WHERE state != 'queued' OR value <= ?"
                " ORDER BY state = 'queued', value, sequence",
                (value,),
            )
            for id, freed in rows:
                if over <= 0:
                    break
                victims.append(id)
                over -= freed
        if over > 0:
            return False
        for id in victims:
            self._leave(database, id, "evicted", "made room", now_ms, keep=False)
        return True

    @staticmethod
    def _leave(
        database: sqlite3.Connection,
        id: str,
        fate: str,
        reason: str,
        now_ms: int,
        *,
        keep: bool = True,
        only: str | None = None,
    ) -> bool:
        """Takes a segment out of the queue and notes why; -> whether it was here.

        What had left before keeps its first fate, but a receipt overrules any but erasure: a
        segment that was evicted in flight has arrived after all.
        """
        row = _one(database, "SELECT state, inclusion FROM segments WHERE id = ?", id)
        if row is not None and only not in (None, row[0]):
            return False
        if row is not None:
            database.execute(
                "INSERT OR IGNORE INTO fates VALUES (?, ?, ?, ?, ?, ?)",
                (id, fate, reason[:500], now_ms, row[1], fate == "delivered"),
            )
            if keep:
                database.execute("UPDATE segments SET state = ? WHERE id = ?", (fate, id))
            else:
                database.execute("DELETE FROM segments WHERE id = ?", (id,))
        if fate == "delivered":
            database.execute(
                "UPDATE fates SET fate = 'delivered', reported = 1"
                " WHERE id = ? AND fate != 'erased'",
                (id,),
            )
        return row is not None

    def _unsealed(self, row: Row) -> Item:
        """The segment in a row of the table. Raises StorageError if anything in it was changed."""
        _, id, consent, value, inclusion, expires_ms, _, size, sealed = row
        facts: dict[str, Any] = {"id": id, "consent": consent, "value": value}
        facts |= {"inclusion_probability": inclusion, "expires_ms": expires_ms}
        try:
            bound = Item(**facts, payload=b"").bound
            if size != len(sealed):
                raise StorageError("is cut")
        except (TypeError, ValueError) as error:
            raise StorageError("holds what was never put there") from error
        return Item(**facts, payload=self._sealer.open(sealed, bound))

    def _counts(self, table: str, row: Row) -> bool:
        """Whether a row out of a damaged file is what was put there."""
        if table == "segments":
            try:
                self._unsealed(row)
            except StorageError:
                return False
        return True

    def _open(self) -> sqlite3.Connection:
        return open_database(
            self._path,
            key_id=self._sealer.key_id,
            max_bytes=2 * self._quota + (4 << 20),  # pages are never as full as segments are long
            accept=self._counts,
        )

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` all or nothing; once more on a fresh file if it finds this one damaged."""
        with self._mutex:
            try:
                return self._attempt(work)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise StorageError(f"{self._path}: {error}: is the disk full?") from error
            self._database.close()
            self._database = self._open()
            try:
                return self._attempt(work)
            except sqlite3.Error as error:
                raise StorageError(f"{self._path}: {error}") from error

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            result = work(database)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        return result


def _one(database: sqlite3.Connection, query: str, *parameters: object) -> Row | None:
    row: Row | None = database.execute(query, parameters).fetchone()
    return row
