"""One command, watched: `python -m autotrain_cloud.pipeline.supervise FOLDER`.

Whoever starts a job may be killed and come back, and must then neither start it twice nor lose
what became of it.  So every job has this small process above it, in a session of its own:

    FOLDER/job.json        what to run: written before
    FOLDER/lock            locked as long as this process lives; the kernel sees to that
    FOLDER/running.json    its pid, the command's, when
    FOLDER/heartbeat       touched every second
    FOLDER/exit-ATTEMPT.json   how it ended: code, seconds, seconds of CPU.  Missing: it was killed
    FOLDER/out-ATTEMPT, log-ATTEMPT    stdout and stderr

The command dies with this process, and what it left running is ended by the next attempt.  Needs
the standard library only, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autotrain_cloud.locks import if_free

MARK = "VITCONFORMER_JOB"  # in the environment of every process of a job
BUSY = 75  # exit code: another process has this job (EX_TEMPFAIL)
NO_FOLDER = 66  # exit code: the job's folder is not on this machine (EX_NOINPUT)
TIMED_OUT = 124  # exit code in exit.json, as timeout(1) has it
BEAT_S = 1.0
_PR_SET_PDEATHSIG = 1


def main(folder: Path) -> int:
    if not folder.is_dir():  # of another machine, and not shared with this one
        return NO_FOLDER
    with lock(folder) as mine:
        if not mine:
            return BUSY
        job = json.loads((folder / "job.json").read_text("utf-8"))
        if (folder / f"exit-{job['attempt']}.json").exists():
            return 0  # done before we got the lock
        end_all(job["id"])
        write(folder / f"exit-{job['attempt']}.json", _run(folder, job))
    return 0


def _run(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    started, clock = time.time(), time.monotonic()
    libc = ctypes.CDLL(None)
    with (
        (folder / f"out-{job['attempt']}").open("ab") as out,
        (folder / f"log-{job['attempt']}").open("ab") as log,
    ):
        try:
            process = subprocess.Popen(
                job["argv"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=job["cwd"],
                env={**os.environ, **job["env"], MARK: job["id"]},
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        except OSError as error:
            log.write(f"{job['argv'][0]}: cannot be started: {error.strerror}\n".encode())
            code = 127
        else:
            about = {"pid": os.getpid(), "command_pid": process.pid, "started": started}
            write(folder / "running.json", about)
            code = _watch(folder, process, clock + job["timeout_s"])
    if code == TIMED_OUT:
        end_all(job["id"])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "code": code,
        "started": started,
        "seconds": round(time.monotonic() - clock, 3),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
    }


def _watch(folder: Path, process: subprocess.Popen[bytes], deadline: float) -> int:
    """The command's exit code; negative: the signal that ended it."""
    while True:
        with contextlib.suppress(OSError):  # a full disk ends the command, not its watcher
            (folder / "heartbeat").touch()
        try:
            return process.wait(timeout=BEAT_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                return TIMED_OUT


def lock(folder: Path) -> contextlib.AbstractContextManager[bool]:
    """Whether the job was free, and is ours until the end of the block."""
    return if_free(folder / "lock")


def end_all(job: str) -> None:
    """Kills every process of a job but this one, and returns when none is left."""
    wanted = f"{MARK}={job}".encode()
    while True:
        found = [pid for pid in _pids() if pid != os.getpid() and wanted in _environment(pid)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """Empty for a zombie, and for what is not ours to read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def write(path: Path, fields: dict[str, Any]) -> None:
    """Whole or not at all, and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as sink:
        json.dump(fields, sink)
        sink.flush()
        os.fsync(sink.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
