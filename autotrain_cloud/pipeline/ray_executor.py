"""Steps as jobs of a Ray cluster: the same supervisor, on whatever node has room.

    outcome = open_executor("ray://head:8265?cpus=2").run(job)

A job's submission id is made of its id, which holds the key of its result, and its attempt. Ray
takes an id once, so any number of controllers, killed and come back, launch a job once and wait for
the same. What is run is `supervise` with the job's folder: output, exit code, seconds of CPU and
the time limit are those of a local step because the same code writes them down. Hence the one
condition: **the pipeline's folder, its inputs and this installation lie on every node under the
same path** (a shared folder and one container image, say), and that folder's locks are shared too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

from autotrain_cloud.pipeline import supervise
from autotrain_cloud.pipeline.executor import (
    MIN_FREE_BYTES,
    Job,
    Outcome,
    read_outcome,
    write_down,
)
from autotrain_cloud.pipeline.ray_jobs import JobInfo, RayJobs, find_token
from edge_runtime.errors import ConfigError, StorageError

log = logging.getLogger(__name__)

JOB_PORT = 8265  # of the dashboard, which is the job server
CLIENT_PORT = 10001  # of Ray Client, which is something else
PATIENCE_S = 120.0  # without an answer, while a job may be running
PLACE = "VITCONFORMER_SHARDS"  # in a step's environment: where the shards of its work run
SETTLE_S = 10.0  # until a shared folder shows what a node wrote
QUEUED_S = 60.0  # without a place, before it is said


class RayExecutor:
    """Jobs of a cluster, found again by their ids."""

    def __init__(
        self,
        jobs: RayJobs,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        poll_s: float = 1.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`cpus`, `gpus`: what the cluster sets aside for each step; 0 and 0 mean the head node."""
        self._jobs = jobs
        self._cpus, self._gpus = cpus, gpus
        self._poll_s = poll_s
        self._patience_s = patience_s

    @classmethod
    def open(cls, url: str) -> RayExecutor:
        """Nothing is asked of the cluster yet. Raises ConfigError for a URL that cannot be one."""
        parts = urllib.parse.urlsplit(url)
        expected = "expected 'local' or 'ray://HOST:8265', http:// or https://, with ?cpus=N&gpus=N"
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"executor {url!r}: {error}; {expected}") from error
        if parts.scheme not in ("ray", "http", "https") or not parts.hostname or parts.username:
            raise ConfigError(f"executor {url!r}: {expected}")
        if parts.path.strip("/") or parts.fragment:
            raise ConfigError(f"executor {url!r}: nothing may follow host and port; {expected}")
        if port == CLIENT_PORT:
            raise ConfigError(
                f"executor {url!r}: {CLIENT_PORT} is Ray Client, whose work ends with whoever asked"
                f" for it; name the job server: ray://{parts.hostname}:{JOB_PORT}"
            )
        if parts.scheme == "ray":
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            server = f"http://{host}:{port or JOB_PORT}"
        else:
            server = f"{parts.scheme}://{parts.netloc}"
        wanted = {"cpus": 1.0, "gpus": 0.0}
        for name, value in urllib.parse.parse_qsl(parts.query, keep_blank_values=True):
            try:
                if name not in wanted or not 0 <= float(value) < float("inf"):
                    raise ValueError
                wanted[name] = float(value)
            except ValueError as error:
                raise ConfigError(f"executor {url!r}: {name}={value}: {expected}") from error
        return cls(RayJobs(server, token=find_token()), **wanted)

    def run(self, job: Job, *, cancelled: Callable[[], bool] = lambda: False) -> Outcome:
        end = job.folder / f"exit-{job.attempt}.json"
        id = _submission(job, job.attempt)
        earlier = self._earlier(job)
        asked = time.monotonic()
        told = begun = False
        heard = asked
        while True:
            if end.exists():
                self._settle(id)
                return read_outcome(job, end)
            try:
                if cancelled():
                    for one in filter(None, (earlier, id)):
                        self._end(one)
                    return Outcome(ended="cancelled", reason="cancelled")
                if earlier and self._is_over(earlier):
                    earlier = ""
                if not earlier:
                    found = self._jobs.find(id)
                    begun = begun or found is not None
                    if found is None:
                        write_down(job, min_free=MIN_FREE_BYTES, env=_environment())
                        self._jobs.submit(id, _entrypoint(job), cpus=self._cpus, gpus=self._gpus)
                    elif found.over and not self._appears(end, found):
                        if found.code != supervise.BUSY:
                            return self._without_end(job, found)
                        self._jobs.forget(id)  # another process had the folder: ask again
                    elif found.status == "PENDING" and not told:
                        told = time.monotonic() - asked > QUEUED_S
                        if told:
                            log.warning("%s still waits for a place: %s", id, found.message)
                heard = time.monotonic()
            except StorageError:
                # A job goes on while its job server does not answer; what cannot begin is said.
                if not begun or time.monotonic() - heard > self._patience_s:
                    raise
            time.sleep(self._poll_s)

    def _earlier(self, job: Job) -> str:
        """The submission of an attempt before, which may still be running; or nothing."""
        with contextlib.suppress(OSError, ValueError):
            before = json.loads((job.folder / "job.json").read_text("utf-8"))["attempt"]
            if before != job.attempt:
                return _submission(job, before)
        return ""

    def _is_over(self, id: str) -> bool:
        found = self._jobs.find(id)
        return found is None or found.over

    def _end(self, id: str) -> None:
        """Stops a job, and returns when it has ended."""
        self._jobs.stop(id)
        for _ in _until(60.0, self._poll_s):
            if self._is_over(id):
                return
        raise StorageError(f"{self._jobs.url}: job {id} does not end; see `ray job stop`")

    def _settle(self, id: str) -> None:
        """Its supervisor's last moments, so that nothing works in a folder that gets its name."""
        with contextlib.suppress(StorageError, ConfigError):  # its end is on the disk
            for _ in _until(SETTLE_S, self._poll_s):
                if self._is_over(id):
                    return
            self._end(id)

    def _appears(self, end: Path, found: JobInfo) -> bool:
        """Whether the end is on the shared folder, which may be seconds behind the node."""
        for _ in _until(SETTLE_S if found.status == "SUCCEEDED" else 0.0, 0.2):
            if end.name in {path.name for path in end.parent.iterdir()}:  # makes NFS look again
                return True
        return False

    def _without_end(self, job: Job, found: JobInfo) -> Outcome:
        if found.code == supervise.NO_FOLDER:
            raise ConfigError(
                f"{job.folder}: a node of {self._jobs.url} does not have this folder; put the "
                "pipeline's folder where every node sees it under the same path"
            )
        said = found.message.strip().splitlines() or ["without a reason"]
        if found.code in (126, 127):
            raise ConfigError(
                f"{self._jobs.url}: a node cannot run {sys.executable} ({said[-1][:200]}); every "
                "node needs this very installation under the same path"
            )
        return Outcome(ended="killed", reason=f"its Ray job ended as {found.status}: {said[0]}")


def _submission(job: Job, attempt: str) -> str:
    return f"{job.id}-{attempt}"


def _entrypoint(job: Job) -> str:
    mark = f"{supervise.MARK}={job.id}"
    folder = str(job.folder.absolute())
    return "exec " + shlex.join(
        # Ray sets OMP_NUM_THREADS to what it sets aside, and results may hang on it.
        ["env", "-u", "OMP_NUM_THREADS", mark, sys.executable, "-m", supervise.__name__, folder]
    )


def _environment() -> dict[str, str]:
    """What a step is told beyond its node's own: where its shards run, and our threads."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return {PLACE: "ray", **({"OMP_NUM_THREADS": threads} if threads else {})}


def _until(limit_s: float, every_s: float) -> Iterator[None]:
    """Once at least, then until the time is over."""
    deadline = time.monotonic() + limit_s
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(every_s)
