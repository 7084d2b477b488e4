"""A real Ray cluster of this machine: its jobs and tasks do what local processes do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotrain_cloud.labels.label import LabelSettings
from autotrain_cloud.labels.shards import label_shards
from autotrain_cloud.pipeline import steps
from autotrain_cloud.pipeline.executor import Executor, Job, Outcome, open_executor
from autotrain_cloud.pipeline.record import Plan
from autotrain_cloud.pipeline.run import Pipeline
from autotrain_cloud.segments import Segment
from autotrain_cloud.tables import write_rows
from autotrain_cloud.teacher import TeacherSettings
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import read_manifest
from tests.autotrain_cloud.pipeline.test_run import LEFT_OUT, Direct
from tests.autotrain_cloud.ray_cluster import Cluster, ray_cluster

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
_SLOW = "echo x >> starts; while [ ! -e go ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as found:
        yield found


@pytest.fixture
def executor(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Executor:
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    return open_executor(cluster.url)


def job(folder: Path, *argv: str, timeout_s: float = 120.0) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(
        id=f"{folder.parent.name}-{folder.name}", attempt="1", argv=argv, folder=folder / "job",
        cwd=folder, timeout_s=timeout_s,
    )  # fmt: skip


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Running(threading.Thread):
    """A job, waited for in the background."""

    def __init__(self, executor: Executor, one: Job, **options: Callable[[], bool]) -> None:
        super().__init__()
        self.found: list[Outcome] = []
        self._run = lambda: self.found.append(executor.run(one, **options))
        self.start()

    def run(self) -> None:
        self._run()

    @property
    def outcome(self) -> Outcome:
        self.join()
        return self.found[0]


def test_words_codes_costs_and_ends_are_those_of_a_local_step(
    executor: Executor, tmp_path: Path
) -> None:
    code = "import sys; sum(range(3_000_000)); print('out'); print('err', file=sys.stderr)"
    works = job(tmp_path / "works", sys.executable, "-c", code)
    script = "echo 'vitconformer: error: no such file' >&2; exit 2"
    fails = job(tmp_path / "fails", "sh", "-c", script)
    hangs = job(tmp_path / "hangs", "sh", "-c", "sleep 999 & echo $! > child; sleep 999",
                timeout_s=1.0)  # fmt: skip
    stays = job(tmp_path / "stays", "sh", "-c", "sleep 999 & echo $! > child; sleep 999")
    running = [Running(executor, one) for one in (works, fails, hangs)]
    running.append(Running(executor, stays, cancelled=(stays.cwd / "child").exists))
    done, failed, late, cancelled = (one.outcome for one in running)
    assert (done.ended, done.code, done.reason) == ("done", 0, "")
    assert 0 < done.cpu_seconds < 60 and 0 < done.peak_mb < 1000
    assert works.out.read_text() == "out\n" and works.log.read_text() == "err\n"
    assert (failed.ended, failed.code, failed.reason) == ("failed", 2, "no such file")
    assert late.ended == "timeout" and late.reason.startswith("not done after")
    assert cancelled.ended == "cancelled"
    for one in (hangs, stays):
        child = int((one.cwd / "child").read_text())
        wait_for(lambda child=child: not Path(f"/proc/{child}").exists())
    # All are over: nothing is started again.
    assert executor.run(works) == done and works.out.read_text() == "out\n"


def test_a_controller_that_was_killed_finds_its_job_again_and_none_starts_twice(
    executor: Executor, cluster: Cluster, tmp_path: Path
) -> None:
    one = job(tmp_path / "slow", "sh", "-c", _SLOW)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.autotrain_cloud.pipeline.test_ray import _SLOW, job, open_executor\n"
        "open_executor(sys.argv[1]).run(job(Path(sys.argv[2]), 'sh', '-c', _SLOW))"
    )
    controller = subprocess.Popen(
        [sys.executable, "-c", code, cluster.url, str(one.cwd)], cwd=ROOT,
        env={**os.environ, "RAY_AUTH_TOKEN": cluster.token},
    )  # fmt: skip
    try:
        wait_for((one.cwd / "starts").exists)
    finally:
        controller.kill()
        controller.wait()
    both = [Running(executor, one), Running(executor, one)]
    time.sleep(1.5)
    assert all(one.is_alive() for one in both)
    info = cluster.jobs.find(f"{one.id}-1")
    assert info is not None and info.status == "RUNNING"
    (one.cwd / "go").touch()
    assert [one.outcome.ended for one in both] == ["done", "done"]
    assert (one.cwd / "starts").read_text() == "x\n"


def test_a_killed_command_is_told_from_one_that_failed(executor: Executor, tmp_path: Path) -> None:
    one = job(tmp_path / "killed", "sh", "-c", _SLOW)
    running = Running(executor, one)
    wait_for((one.cwd / "starts").exists)
    wait_for((one.folder / "running.json").exists)
    os.kill(json.loads((one.folder / "running.json").read_text())["command_pid"], 9)
    assert running.outcome.ended == "killed" and running.outcome.reason == "killed by signal 9"


def test_another_token_is_refused_by_the_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(ConfigError, match="refuses this token"):
        open_executor(cluster.url).run(job(tmp_path / "x", "true"))


def _shards(folder: Path, count: int = 2) -> Path:
    folder.mkdir()
    lines = read_manifest(ROOT / "samples" / "manifest.jsonl")[:count]
    for number in range(count):
        segments = [
            Segment(
                id=f"s{index}", audio=str(line.audio_filepath.absolute()), duration_s=line.duration,
                text=line.text, device="d",
            )
            for index, line in [(number, lines[number])]
        ]  # fmt: skip
        write_rows(folder / f"segments-{number:04}.jsonl", Segment, segments)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_a_run_on_the_cluster_labels_byte_for_byte_what_one_and_two_processes_do(
    executor: Executor, tmp_path: Path
) -> None:
    shards = _shards(tmp_path / "shards")
    paths = sorted(shards.iterdir())
    settings = LabelSettings(teacher=TeacherSettings(name="pocketsphinx"))
    for jobs in (1, 2):
        list(label_shards(paths, tmp_path / f"by-{jobs}", settings, jobs=jobs))
    expected = _contents(tmp_path / "by-1")
    assert len(expected) == 2 and _contents(tmp_path / "by-2") == expected
    pipeline = Pipeline(tmp_path / "pipeline", executor)
    label = "vitconformer cloud label {shards} --teacher pocketsphinx --jobs 2 --out {out}"
    pipeline.runs.create(
        Plan(
            id="r1",
            why="a test",
            code="1",
            commands=LEFT_OUT | {"label": label},
            inputs={"shards": (str(shards),)},
            settings={},
        )
    )
    assert pipeline.pipeline(Direct(), {"run": "r1", "attempt": 1}) == "done"
    (step,) = pipeline.runs.read("r1").steps
    found = Path(step.folder)
    assert _contents(found) == expected
    assert len((found / "stdout").read_text().split()) == 2
    assert step.key == steps.key(
        next(s for s in steps.plan(LEFT_OUT | {"label": label}, ["shards"])), "1",
        {"shards": steps.digest(shards)}, {}, {},
    )  # fmt: skip
    # It went through the cluster's tasks, not through processes of the step.
    assert "VITCONFORMER_SHARDS" in json.loads((found / "job" / "job.json").read_text())["env"]


def test_shards_outside_a_cluster_say_what_is_missing(tmp_path: Path) -> None:
    shards = _shards(tmp_path / "shards", 1)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "cloud", "label", str(shards), "--place", "ray",
         "--teacher", "pocketsphinx", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, cwd=ROOT,
        env={**environment, "RAY_ADDRESS": "127.0.0.1:1", "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "this machine is in none" in done.stderr
