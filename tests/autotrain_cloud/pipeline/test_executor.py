"""Processes that are started once, found again, and end with all they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autotrain_cloud.pipeline import supervise
from autotrain_cloud.pipeline.executor import Job, LocalExecutor, Outcome, open_executor
from edge_runtime.errors import ConfigError, StorageError


def job(folder: Path, *argv: str, attempt: str = "1", timeout_s: float = 60.0, id: str = "") -> Job:
    return Job(
        id=id or f"test-{folder.name}-{os.getpid()}", attempt=attempt, argv=argv,
        folder=folder / "job", cwd=folder, timeout_s=timeout_s,
    )  # fmt: skip


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_command_runs_and_its_words_and_costs_are_kept(tmp_path: Path) -> None:
    code = "import sys; sum(range(3_000_000)); print('out'); print('err', file=sys.stderr)"
    one = job(tmp_path, sys.executable, "-c", code)
    outcome = LocalExecutor().run(one)
    assert (outcome.ended, outcome.code, outcome.reason) == ("done", 0, "")
    assert 0 < outcome.cpu_seconds < 60 and 0 < outcome.peak_mb < 1000
    assert one.out.read_text() == "out\n" and one.log.read_text() == "err\n"
    assert LocalExecutor().run(one) == outcome  # it is over: nothing is started
    assert one.out.read_text() == "out\n"


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("echo one >&2; echo 'vitconformer: error: no such file' >&2; echo x >&2; exit 2", 2,
         "no such file"),
        ("echo last words >&2; exit 1", 1, "last words"),
        ("exit 3", 3, "exit code 3, and not a word"),
    ],
)  # fmt: skip
def test_a_failure_comes_with_its_reason(
    tmp_path: Path, script: str, code: int, reason: str
) -> None:
    outcome = LocalExecutor().run(job(tmp_path, "sh", "-c", script))
    assert (outcome.ended, outcome.code, outcome.reason) == ("failed", code, reason)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    outcome = LocalExecutor().run(job(tmp_path, "no-such-program"))
    assert outcome.code == 127
    assert outcome.reason == "no-such-program: cannot be started: No such file or directory"


def test_time_that_has_run_out_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    script = "sleep 1000 & echo $! > child; sleep 1000"
    outcome = LocalExecutor().run(job(tmp_path, "sh", "-c", script, timeout_s=1.0))
    assert outcome.ended == "timeout" and outcome.reason.startswith("not done after")
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def _in_background(executor: LocalExecutor, one: Job) -> tuple[threading.Thread, list[Outcome]]:
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(executor.run(one)))
    thread.start()
    return thread, found


_SLOW = "echo x >> starts; while [ ! -e go ]; do sleep 0.05; done"


def test_whoever_comes_later_waits_for_the_same_process(tmp_path: Path) -> None:
    one = job(tmp_path, "sh", "-c", _SLOW)
    first = _in_background(LocalExecutor(), one)
    wait_for((tmp_path / "starts").exists)
    second = _in_background(LocalExecutor(), one)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    for thread, found in (first, second):
        thread.join()
        assert found[0].ended == "done"
    assert (tmp_path / "starts").read_text() == "x\n"


def test_a_controller_that_was_killed_finds_its_process_again(tmp_path: Path) -> None:
    one = job(tmp_path, "sh", "-c", _SLOW)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.autotrain_cloud.pipeline.test_executor import _SLOW, LocalExecutor, job\n"
        "folder, id = sys.argv[1:]\n"
        "LocalExecutor().run(job(Path(folder), 'sh', '-c', _SLOW, id=id))"
    )
    controller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), one.id])
    try:
        wait_for((tmp_path / "starts").exists)
    finally:
        controller.kill()
        controller.wait()
    thread, found = _in_background(LocalExecutor(), one)
    time.sleep(0.3)
    assert not found
    (tmp_path / "go").touch()
    thread.join()
    assert found[0].ended == "done" and (tmp_path / "starts").read_text() == "x\n"


@pytest.mark.parametrize("whom", ["pid", "command_pid"])
def test_a_killed_process_is_told_from_a_failed_one_and_nothing_of_it_stays(
    tmp_path: Path, whom: str
) -> None:
    import json

    script = "sleep 1000 & echo $! > child; " + _SLOW
    one = job(tmp_path, "sh", "-c", script)
    thread, found = _in_background(LocalExecutor(), one)
    wait_for((tmp_path / "starts").exists)
    wait_for((one.folder / "running.json").exists)
    pids = json.loads((one.folder / "running.json").read_text())
    os.kill(pids[whom], signal.SIGKILL)
    thread.join()
    assert found[0].ended == "killed" and found[0].reason == "killed by signal 9"
    wait_for(lambda: not Path(f"/proc/{pids['command_pid']}").exists())
    # The next attempt ends what the killed one had started.
    (tmp_path / "go").touch()
    again = LocalExecutor().run(job(tmp_path, "sh", "-c", "true", attempt="2"))
    assert again.ended == "done"
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def test_cancelling_ends_the_process(tmp_path: Path) -> None:
    one = job(tmp_path, "sh", "-c", _SLOW)
    outcome = LocalExecutor().run(one, cancelled=(tmp_path / "starts").exists)
    assert outcome.ended == "cancelled"
    wait_for(lambda: not LocalExecutor()._running(one))


def test_a_disk_without_room_is_said_before_anything_starts(tmp_path: Path) -> None:
    executor = LocalExecutor(min_free=1 << 60)
    with pytest.raises(StorageError, match=r"MB are free, .* MB are needed to begin"):
        executor.run(job(tmp_path, "true"))
    assert not (tmp_path / "job" / "job.json").exists()


def test_a_place_to_run_that_nobody_knows_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="executor 'slurm': expected 'local' or 'ray://HOST"):
        open_executor("slurm")
    assert isinstance(open_executor("local"), LocalExecutor)


def test_the_supervisor_needs_the_standard_library_only() -> None:
    code = (
        f"import sys; before = set(sys.modules); import {supervise.__name__}; "
        "print(*set(sys.modules) - before)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert foreign == {"autotrain_cloud"}
