"""Why each of the last utterances was kept or not, for `vitconformer agent explain`.

No sound and no text is in it, so it may be read, shown and kept without anybody's consent. It is a
convenience: one that is damaged is begun anew, and a disk that is full stops nothing. Why something
was kept is on the disk as soon as that is; decisions against keeping, which are most, wait for each
other in memory, since a transaction costs more than a decision.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.agent.sampling import Candidate, Decision
from edge_runtime.errors import StorageError

log = logging.getLogger("edge_runtime.agent")

NAME = "decisions.db"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    captured_ms INTEGER NOT NULL,
    line TEXT NOT NULL,
    facts TEXT NOT NULL
)
"""
_WAITING = 100  # decisions that wait at most to be written down

Row = tuple[str, int, str, str]  # id, captured_ms, line, facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A decision, as it was written down."""

    id: str
    captured_ms: int
    line: str  # why, in one line
    facts: dict[str, Any]  # upload, outcome, probabilities, rules


class DecisionLog:
    """Holds the last `limit` decisions. Thread-safe."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._path = directory / NAME
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Decision, Candidate, str | None]] = deque(maxlen=_WAITING)
        self._database: sqlite3.Connection | None = None

    def add(self, decision: Decision, candidate: Candidate, outcome: str | None) -> None:
        """Never raises: what cannot be remembered is logged, and goes on."""
        if not self._limit:
            return
        with self._lock:
            self._waiting.append((decision, candidate, outcome))
            if decision.upload or len(self._waiting) == _WAITING:
                self._write()

    def write(self) -> None:
        """Brings to the disk what waits. Never raises; what could not be written waits on."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            self._insert([_row(*each) for each in self._waiting])
        except sqlite3.DatabaseError as error:
            self._begin_anew(error)
        else:
            self._waiting.clear()

    def _insert(self, rows: list[Row]) -> None:
        if self._database is None:
            self._database = _open(self._path)
        with self._database:  # one transaction
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT OR REPLACE INTO decisions (id, captured_ms, line, facts)"
                " VALUES (?, ?, ?, ?)",
                rows,
            )
            self._database.execute(
                "DELETE FROM decisions WHERE number <= (SELECT max(number) FROM decisions) - ?",
                (self._limit,),
            )

    def _begin_anew(self, error: sqlite3.Error) -> None:
        self._close()
        damaged = type(error) is sqlite3.DatabaseError
        log.warning("%s: %s%s", self._path, error, ": it begins anew" if damaged else "")
        if damaged:
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    Path(f"{self._path}{suffix}").unlink()

    def close(self) -> None:
        with self._lock:
            self._write()
            self._close()

    def _close(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None


def _row(decision: Decision, candidate: Candidate, outcome: str | None) -> Row:
    facts = {
        "upload": decision.upload,
        "outcome": outcome,
        "reasons": decision.reasons,
        "inclusion_probability": decision.inclusion_probability,
        "random_probability": decision.random_probability,
        "value": round(decision.value, 4),
        "confidence": round(candidate.confidence, 4),
        "deletion_score": round(candidate.deletion_score, 4),
        "speech_s": round(candidate.speech_s, 3),
        "rules": decision.rules,
    }
    return decision.id, candidate.captured_ms, str(decision), json.dumps(facts)


def explain(directory: Path, *, id: str | None = None, last: int = 10) -> list[Remembered]:
    """Decisions, the oldest first: those whose id begins or ends so, or the last ones.

    Works while the agent runs; what still waits in its memory is not among them then. Raises
    StorageError.
    """
    path = directory / NAME
    if not path.exists():
        return []
    query = "SELECT id, captured_ms, line, facts FROM decisions"
    try:
        with closing(_open(path)) as database:
            if id is not None:
                rows = database.execute(
                    f"{query} WHERE substr(id, 1, ?1) = ?2 OR substr(id, -?1) = ?2"
                    " ORDER BY number DESC LIMIT ?3",
                    (len(id), id, last),
                ).fetchall()
            else:
                rows = database.execute(f"{query} ORDER BY number DESC LIMIT ?", (last,)).fetchall()
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error
    return [
        Remembered(id=id, captured_ms=at, line=line, facts=json.loads(facts))
        for id, at, line, facts in reversed(rows)
    ]


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
            database.execute(f"PRAGMA {pragma}").fetchall()
        database.execute(_SCHEMA)
        path.chmod(0o600)
    except BaseException:
        database.close()
        raise
    return database
