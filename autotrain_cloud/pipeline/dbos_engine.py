"""Durable workflows by DBOS: on SQLite as it comes, on PostgreSQL by its URL.

What was learnt about it and is kept here, out of sight of the rest:

* the application version is pinned, since by default any change of code leaves what was running
  behind; whoever changes `run.pipeline` so that old runs cannot be replayed counts it up;
* each process has a name that stays the same, and DBOS itself goes on with what that name was
  running when it died; what another name was running is adopted once its heartbeat has stopped;
* steps happen at least once.

DBOS calls SQLite "for development and testing": one machine with a handful of runs a day is well
within it, a second machine needs PostgreSQL.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from autotrain_cloud.pipeline.workflows import Json, Phase, State, Workflow
from edge_runtime.errors import ConfigError, StorageError

APPLICATION = "vitconformer"
VERSION = "1"  # of the workflow's shape
QUEUE = "pipeline"
BEAT_S = 1.0
LEASE_S = 15.0  # without a heartbeat, until a process counts as gone

_PHASES: dict[str, Phase] = {
    "PENDING": "running", "ENQUEUED": "queued", "DELAYED": "queued", "SUCCESS": "done",
}  # fmt: skip


class InShort(logging.Filter):
    """While its database is away DBOS says so several times a second, some of it in tracebacks: a
    line from each place of it in a minute will do.
    """

    EVERY_S = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._said.get(place, -self.EVERY_S) < self.EVERY_S:
            return False
        self._said[place] = now
        first = record.getMessage().partition("Traceback")[0].partition("\n")[0]
        record.msg, record.args, record.exc_info = first.rstrip(" :"), None, None
        return True


class DbosEngine:
    """See `autotrain_cloud.pipeline.workflows.Engine`. One per process may `work`."""

    def __init__(
        self, workflow: Workflow, *, url: str, executor: str, concurrency: int, folder: Path,
        lease_s: float = LEASE_S,
    ) -> None:  # fmt: skip
        from dbos import DBOS, DBOSClient, DBOSConfig

        self._workflow = workflow
        self._url = url
        self._executor = executor
        self._concurrency = concurrency
        self._folder = folder / "executors"
        self._lease_s = lease_s
        self._seen: dict[str, tuple[float, float]] = {}  # executor -> (its beat, when we saw it)
        self._lock = -1
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None
        self._config = DBOSConfig(
            name=APPLICATION,
            system_database_url=url,
            application_version=VERSION,
            executor_id=executor,
            log_level="WARNING",
            use_listen_notify=False,
            notification_listener_polling_interval_sec=0.2,
        )
        its_words = logging.getLogger("dbos")
        its_words.setLevel(logging.WARNING)
        if not any(isinstance(each, InShort) for each in its_words.filters):
            its_words.addFilter(InShort())
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            DBOS.migrate(url)
            self._client = DBOSClient(system_database_url=url, application_name=APPLICATION)
        except Exception as error:  # every driver has errors of its own
            raise StorageError(f"{_shown(url)}: this database cannot be used: {error}") from error

    def start(self, id: str, argument: Json) -> None:
        from dbos import EnqueueOptions

        options = EnqueueOptions(
            workflow_name=QUEUE, queue_name=QUEUE, workflow_id=id, app_version=VERSION
        )
        self._client.enqueue(options, argument)

    def send(self, id: str, topic: str, message: Json) -> None:
        self._client.send(id, message, topic)

    def states(self) -> dict[str, State]:
        all_ = self._client.list_workflows(name=QUEUE, load_input=False, load_output=False)
        failed = self._client.list_workflows(name=QUEUE, status="ERROR", load_input=False)
        errors = {one.workflow_id: str(one.error) for one in failed}
        return {
            one.workflow_id: State(
                id=one.workflow_id,
                phase=_PHASES.get(one.status, "failed"),
                error=errors.get(one.workflow_id, "" if one.status in _PHASES else one.status),
            )
            for one in all_
        }

    def work(self) -> None:
        from dbos import DBOS

        self._claim_name()
        workflow = self._workflow

        def pipeline(argument: Json) -> Json:
            return workflow(_Context(), argument)

        self._beating = threading.Thread(target=self._beat, name="pipeline-beat", daemon=True)
        self._beating.start()
        DBOS(config=self._config)
        DBOS.workflow(name=QUEUE, max_recovery_attempts=None)(pipeline)
        try:
            DBOS.launch()
        except Exception as error:  # of whichever driver
            raise StorageError(f"{_shown(self._url)}: cannot be used: {error}") from error
        DBOS.register_queue(QUEUE, worker_concurrency=self._concurrency, polling_interval_sec=0.2)

    def adopt(self) -> int:
        pending = self._client.list_workflows(
            name=QUEUE, status="PENDING", load_input=False, load_output=False
        )
        gone = [
            one.workflow_id
            for one in pending
            if one.executor_id != self._executor and self._is_gone(one.executor_id or "")
        ]
        for id in gone:
            self._client.resume_workflow(id, queue_name=QUEUE)
        return len(gone)

    def close(self) -> None:
        self._stop.set()
        if self._beating is not None:
            from dbos import DBOS

            self._beating.join()
            DBOS.destroy(workflow_completion_timeout_sec=0)
        self._client.destroy()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- who is alive ------------------------------------------------------------------------------

    def _claim_name(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(
            self._folder / self._executor, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise ConfigError(
                f"{self._folder / self._executor}: a controller of the name {self._executor!r} is "
                "at work; each needs an executor_id of its own"
            ) from None

    def _beat(self) -> None:
        while not self._stop.is_set():
            os.utime(self._lock)
            self._stop.wait(BEAT_S)

    def _is_gone(self, executor: str) -> bool:
        """Whether its heartbeat has stood still for a lease, by our clock alone."""
        try:
            beat = (self._folder / executor).stat().st_mtime
        except OSError:
            beat = 0.0
        now = time.monotonic()
        before, since = self._seen.get(executor, (-1.0, now))
        if beat != before:
            self._seen[executor] = (beat, now)
            return False
        return now - since > self._lease_s


class _Context:
    """See `autotrain_cloud.pipeline.workflows.Context`."""

    def step(self, function: Callable[..., Json], *arguments: Json) -> Json:
        from dbos import DBOS

        return DBOS.run_step({"name": function.__name__}, function, *arguments)

    def sleep(self, seconds: float) -> None:
        from dbos import DBOS

        DBOS.sleep(seconds)

    def wait(self, topic: str, seconds: float) -> Json | None:
        from dbos import DBOS

        return DBOS.recv(topic, seconds)


def _shown(url: str) -> str:
    """Without the password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
