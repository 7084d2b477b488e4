"""Where the heavy steps run: processes of their own, found again by whoever comes back.

    outcome = open_executor("local").run(job)

`run` may be called any number of times for one job and attempt, by one process after another: the
command is started once, and each call waits for it and returns how it ended.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from autotrain_cloud.pipeline import supervise
from edge_runtime.errors import StorageError
from edge_runtime.files import write_atomically

Ended = Literal["done", "failed", "killed", "timeout", "cancelled"]
MIN_FREE_BYTES = 64 << 20
HUNG_S = 120.0  # without a heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command in a folder of its own."""

    id: str
    attempt: str  # each has one start and one end
    argv: tuple[str, ...]
    folder: Path  # for what is known of it; holds nothing but this job
    cwd: Path
    timeout_s: float
    env: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / f"log-{self.attempt}"

    @property
    def out(self) -> Path:
        return self.folder / f"out-{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    ended: Ended
    code: int = 0  # of the command
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    reason: str = ""


class Executor(Protocol):
    """Runs commands to their end, on this machine or on others."""

    def run(self, job: Job, *, cancelled: Callable[[], bool] = lambda: False) -> Outcome:
        """Starts the job, or finds it running or done, and waits for its end.

        Raises StorageError when there is no room to begin.
        """


def open_executor(url: str) -> Executor:
    """`local`, or a Ray job server: `ray://HOST[:PORT]`. Raises ConfigError for anything else."""
    if url == "local":
        return LocalExecutor()
    from autotrain_cloud.pipeline.ray_executor import RayExecutor

    return RayExecutor.open(url)


class LocalExecutor:
    """Processes of this machine, each below a supervisor that outlives us."""

    def __init__(self, *, poll_s: float = 0.1, min_free: int = MIN_FREE_BYTES) -> None:
        self._poll_s = poll_s
        self._min_free = min_free

    def run(self, job: Job, *, cancelled: Callable[[], bool] = lambda: False) -> Outcome:
        end = job.folder / f"exit-{job.attempt}.json"
        started: subprocess.Popen[bytes] | None = None
        over = False
        try:
            while not end.exists():
                if cancelled():
                    supervise.end_all(job.id)
                    over = True
                    return Outcome(ended="cancelled", reason="cancelled")
                if started is not None and started.poll() is not None:
                    another = started.returncode == supervise.BUSY or self._running(job)
                    if not another and not end.exists():
                        return Outcome(ended="killed", reason=self._why_killed(started))
                    started = None
                elif started is None and not self._running(job):
                    if end.exists():
                        break
                    started = self._start(job)
                elif self._hung(job):
                    supervise.end_all(job.id)
                time.sleep(self._poll_s)
            over = True
            return read_outcome(job, end)
        finally:
            if started is not None and over:
                started.wait()  # its last moments, so that no zombie is left

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        write_down(job, min_free=self._min_free)
        return subprocess.Popen(
            [sys.executable, "-m", supervise.__name__, str(job.folder.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C, or a signal to our group, is not for it
            cwd=Path(__file__).parents[2],
            env={**os.environ, supervise.MARK: job.id},
        )

    def _running(self, job: Job) -> bool:
        if not job.folder.exists():
            return False
        with supervise.lock(job.folder) as free:
            return not free

    def _hung(self, job: Job) -> bool:
        beats = [job.folder / name for name in ("heartbeat", "job.json")]  # it has only begun
        newest = max((path.stat().st_mtime for path in beats if path.exists()), default=0.0)
        return time.time() - newest > HUNG_S

    def _why_killed(self, supervisor: subprocess.Popen[bytes]) -> str:
        if supervisor.returncode < 0:
            return f"killed by signal {-supervisor.returncode}"
        return f"its supervisor ended with code {supervisor.returncode}; is the disk full?"


def write_down(
    job: Job, *, min_free: int = MIN_FREE_BYTES, env: Mapping[str, str] | None = None
) -> None:
    """Leaves in the job's folder what its supervisor reads; `env` is added to the job's own.

    Raises StorageError when there is no room to begin.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(job.folder).free
        if free < min_free:
            raise StorageError(
                f"{job.folder}: {free >> 20} MB are free, {min_free >> 20} MB are needed "
                "to begin; make room, then resume"
            )
        argv = job.argv
        if argv[0] == "vitconformer":  # of this very installation, whatever PATH says
            argv = (sys.executable, "-m", "edge_runtime", *argv[1:])
        about = {
            "id": job.id, "attempt": job.attempt, "argv": argv, "cwd": str(job.cwd),
            "env": {**(env or {}), **job.env}, "timeout_s": job.timeout_s,
        }  # fmt: skip
        write_atomically(job.folder / "job.json", json.dumps(about).encode())
    except OSError as error:
        raise StorageError(f"{job.folder}: cannot be written: {error.strerror}") from error


def read_outcome(job: Job, end: Path) -> Outcome:
    """What the supervisor wrote down in `exit-ATTEMPT.json`."""
    fields: dict[str, Any] = json.loads(end.read_text("utf-8"))
    code = fields["code"]
    ended: Ended = "done" if code == 0 else "killed" if code < 0 else "failed"
    reason = ""
    if code == supervise.TIMED_OUT:
        ended, reason = "timeout", f"not done after {fields['seconds']:.0f} s"
    elif code < 0:
        reason = f"killed by signal {-code}"
    elif code:
        reason = last_words(job.log) or f"exit code {code}, and not a word"
    return Outcome(
        ended=ended,
        code=code,
        seconds=fields["seconds"],
        cpu_seconds=fields["cpu_seconds"],
        peak_mb=fields["peak_mb"],
        reason=reason,
    )


def spent(job: Job) -> float:
    """Seconds of CPU of all attempts at a job; what a killed machine used is not known."""
    ends = job.folder.glob("exit-*.json")
    return sum(float(json.loads(end.read_text("utf-8"))["cpu_seconds"]) for end in ends)


def last_words(log: Path, *, within: int = 8192) -> str:
    """The line in which a command said why it failed: its last error, or simply its last."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - within))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("vitconformer: error: ")]
    found = errors[-1].removeprefix("vitconformer: error: ") if errors else (lines or [""])[-1]
    return found[:500]
