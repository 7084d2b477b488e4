"""Durable workflows on one SQLite file: for tests, and for one machine without DBOS.

Three tables: workflows, what their steps returned, and messages.  Whoever runs a workflow renews
its lease every second; one whose lease has run out belongs to whoever adopts it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autotrain_cloud.pipeline.workflows import Json, Phase, State, Workflow
from edge_runtime.errors import ConfigError

log = logging.getLogger(__name__)

LEASE_S = 10.0
_POLL_S = 0.1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS workflows (
    id TEXT PRIMARY KEY, argument TEXT NOT NULL, phase TEXT NOT NULL, error TEXT NOT NULL,
    owner TEXT NOT NULL, lease REAL NOT NULL, queued INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS results (
    id TEXT, number INTEGER, result TEXT NOT NULL, PRIMARY KEY (id, number)
);
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, topic TEXT NOT NULL, message TEXT NOT NULL,
    read INTEGER NOT NULL
);
"""


class _Closed(BaseException):
    """The engine stops: the workflow is left where it is."""


class SqliteEngine:
    """See `autotrain_cloud.pipeline.workflows.Engine`."""

    def __init__(
        self, workflow: Workflow, *, url: str, executor: str, concurrency: int,
        lease_s: float = LEASE_S,
    ) -> None:  # fmt: skip
        kind, _, path = url.partition(":///")
        if kind != "sqlite" or not path:
            raise ConfigError(f"{url}: the sqlite engine needs sqlite:///FILE")
        self._path = path
        self._workflow = workflow
        self._owner = executor
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self._dispatcher: threading.Thread | None = None
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.executescript(_SCHEMA)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction, in a connection of its own: threads share none."""
        database = sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT") if database.in_transaction else None
        finally:
            database.close()

    def start(self, id: str, argument: Json) -> None:
        with self._open() as database:
            database.execute(
                "INSERT OR IGNORE INTO workflows VALUES (?, ?, 'queued', '', '', 0,"
                " (SELECT COUNT(*) FROM workflows))",
                (id, json.dumps(argument)),
            )

    def send(self, id: str, topic: str, message: Json) -> None:
        with self._open() as database:
            database.execute(
                "INSERT INTO messages (id, topic, message, read) VALUES (?, ?, ?, 0)",
                (id, topic, json.dumps(message)),
            )

    def states(self) -> dict[str, State]:
        with self._open() as database:
            rows = database.execute("SELECT id, phase, error FROM workflows").fetchall()
        return {id: State(id=id, phase=phase, error=error) for id, phase, error in rows}

    def work(self) -> None:
        with self._open() as database:  # what we were running when we died
            database.execute(
                "UPDATE workflows SET lease = 0 WHERE phase = 'running' AND owner = ?",
                (self._owner,),
            )
        self._dispatcher = threading.Thread(target=self._dispatch, name="pipeline-dispatch")
        self._dispatcher.start()

    def adopt(self) -> int:
        return 0  # the dispatcher takes what has no lease any more

    def close(self) -> None:
        self._stop.set()
        if self._dispatcher is not None:
            self._dispatcher.join()
        for thread in self._threads.values():
            thread.join()

    # -- inside ------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while not self._stop.wait(_POLL_S):
            self._threads = {id: t for id, t in self._threads.items() if t.is_alive()}
            try:
                self._renew()
                while len(self._threads) < self._concurrency and (taken := self._take()):
                    id, argument = taken
                    thread = threading.Thread(target=self._run, args=(id, argument), name=id)
                    self._threads[id] = thread
                    thread.start()
            except sqlite3.Error as error:  # a full disk: it may have room again
                log.warning("%s: %s", self._path, error)

    def _renew(self) -> None:
        now = time.time()
        with self._open() as database:
            database.executemany(
                "UPDATE workflows SET lease = ? WHERE id = ? AND owner = ? AND lease < ?",
                [
                    (now + self._lease_s, id, self._owner, now + self._lease_s / 2)
                    for id in self._threads
                ],
            )

    def _take(self) -> tuple[str, Json] | None:
        now = time.time()
        with self._open() as database:
            row = database.execute(
                "SELECT id, argument FROM workflows WHERE phase = 'queued'"
                " OR (phase = 'running' AND lease < ?) ORDER BY queued LIMIT 1",
                (now,),
            ).fetchone()
            if row is None or row[0] in self._threads:
                return None
            database.execute(
                "UPDATE workflows SET phase = 'running', owner = ?, lease = ? WHERE id = ?",
                (self._owner, now + self._lease_s, row[0]),
            )
        return row[0], json.loads(row[1])

    def _run(self, id: str, argument: Json) -> None:
        phase: Phase = "done"
        error = ""
        try:
            self._workflow(_Context(self, id), argument)
        except _Closed:
            return
        except Exception as problem:
            log.exception("workflow %s", id)
            phase, error = "failed", f"{type(problem).__name__}: {problem}"
        try:
            with self._open() as database:
                database.execute(
                    "UPDATE workflows SET phase = ?, error = ? WHERE id = ? AND owner = ?",
                    (phase, error, id, self._owner),
                )
        except sqlite3.Error as problem:  # the lease runs out, and it is run again
            log.warning("%s: %s", self._path, problem)


class _Context:
    """See `autotrain_cloud.pipeline.workflows.Context`."""

    def __init__(self, engine: SqliteEngine, id: str) -> None:
        self._engine = engine
        self._id = id
        self._number = 0

    def step(self, function: Callable[..., Json], *arguments: Json) -> Json:
        self._number += 1
        found, result = self._remembered()
        if not found:
            if self._engine._stop.is_set():
                raise _Closed
            result = function(*arguments)
            self._remember(result)
        return result

    def sleep(self, seconds: float) -> None:
        until = self.step(lambda: time.time() + seconds)
        while (left := until - time.time()) > 0:
            if self._engine._stop.wait(left):
                raise _Closed

    def wait(self, topic: str, seconds: float) -> Json | None:
        until = self.step(lambda: time.time() + seconds)
        self._number += 1
        found, result = self._remembered()
        if found:
            return result
        while True:
            with self._engine._open() as database:
                row = database.execute(
                    "SELECT number, message FROM messages WHERE id = ? AND topic = ? AND read = 0"
                    " ORDER BY number LIMIT 1",
                    (self._id, topic),
                ).fetchone()
                late = time.time() > until
                if row or late:
                    message = row[1] if row else "null"
                    # Read and remembered in one transaction: no message is lost, none comes twice.
                    if row:
                        database.execute("UPDATE messages SET read = 1 WHERE number = ?", row[:1])
                    database.execute(
                        "INSERT INTO results VALUES (?, ?, ?)", (self._id, self._number, message)
                    )
            if row or late:
                return json.loads(message)
            if self._engine._stop.wait(_POLL_S):
                raise _Closed

    def _remembered(self) -> tuple[bool, Json]:
        with self._engine._open() as database:
            row: Any = database.execute(
                "SELECT result FROM results WHERE id = ? AND number = ?", (self._id, self._number)
            ).fetchone()
        return (True, json.loads(row[0])) if row else (False, None)

    def _remember(self, result: Json) -> None:
        with self._engine._open() as database:
            database.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?)",
                (self._id, self._number, json.dumps(result)),
            )
