"""What people and alarms ask of a controller, by its verbs, and what it mends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotrain_cloud.pipeline import steps
from autotrain_cloud.pipeline.controller import Controller, PipelineSettings
from autotrain_cloud.pipeline.policy import Alarm
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError

SLICE = Alarm(scope="slice", subject="en/car")


def write_settings(folder: Path, *, commands: str, head: str = "", tail: str = "") -> Path:
    """A settings file of the plain engine in which all other commands are left out."""
    left_out = [step.name for step in steps.STEPS if f"\n{step.name} =" not in f"\n{commands}"]
    path = folder / "pipeline.toml"
    path.write_text(
        f'engine = "sqlite"\nback_off_s = 0.1\n{head}\n[inputs]\ncheckpoint = "weights"\n{tail}\n'
        f"[commands]\n{commands}\n" + "".join(f'{name} = ""\n' for name in left_out)
    )
    return path


COMMANDS = """
select = "sh -c 'echo $0 > {out}/train.jsonl' [ {slice} ]"
retrain = "sh -c 'cat {checkpoint} {select}/train.jsonl > {out}/weights'"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_text("w\n")
    return write_settings(tmp_path, commands=COMMANDS)


@pytest.fixture
def controller(settings: Path) -> Iterator[Controller]:
    found = Controller.open(settings)
    yield found
    found.close()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finish(controller: Controller) -> None:
    with controller.at_work():
        until(lambda: not controller.runs.open())


def test_a_run_that_was_asked_for_is_done_once(controller: Controller) -> None:
    assert controller.start(why="x", id="r1", slice="en/car") == "r1"
    assert controller.start(why="y", id="r1", slice="other") == "r1"
    finish(controller)
    run = controller.runs.read("r1")
    assert run.state == "done" and controller.runs.plan("r1").why == "x"
    assert (Path(run.steps[1].folder) / "weights").read_text() == "w\nen/car\n"


def test_an_input_that_is_missing_is_said_before_anything_begins(
    controller: Controller, tmp_path: Path
) -> None:
    (tmp_path / "weights").unlink()
    with pytest.raises(ConfigError, match=r"inputs.checkpoint: .*/weights is not there; step retr"):
        controller.start(why="x")
    write_settings(tmp_path, commands='select = "pick {replay}"')
    with pytest.raises(ConfigError, match=r"select: \{replay\}: is empty"):
        Controller.open(tmp_path / "pipeline.toml").start(why="x")
    assert not controller.runs.ids()


def test_an_alarm_starts_a_run_if_the_policy_lets_it(controller: Controller) -> None:
    decision, id = controller.alarm(SLICE, why="errors rose", new_minutes=1)
    assert (decision.verdict, id) == ("later", "")
    decision, id = controller.alarm(SLICE, why="errors rose", new_minutes=9)
    assert decision.verdict == "start" and controller.runs.plan(id).settings["slice"] == "en/car"
    decision, none = controller.alarm(SLICE, why="errors rose", new_minutes=9)
    assert (decision.reason, none) == (f"run {id} is not over", "")
    finish(controller)
    decision, none = controller.alarm(SLICE, why="errors rose", new_minutes=9)
    assert decision.verdict == "later" and "cool-down is 24.0 hours" in decision.reason
    decision, id = controller.alarm(
        SLICE, why="errors rose", new_minutes=9, now=time.time() + 25 * 3600
    )
    assert decision.verdict == "start"


def test_what_a_kill_left_between_writing_down_and_queueing_is_queued(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(controller, "_queue", lambda run: None)
        controller.start(why="x", id="r1")
    finish(controller)
    assert controller.runs.read("r1").state == "done"


def test_a_run_whose_workflow_broke_is_parked_and_resumed(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.start(why="x", id="r1")
    with monkeypatch.context() as patch:
        patch.setattr(steps, "plan", lambda *_: 1 / 0)
        finish(controller)
    run = controller.runs.read("r1")
    assert (run.state, run.reason) == ("parked", "ZeroDivisionError: division by zero")
    again = Controller(controller.settings)
    try:
        again.resume("r1")
        finish(again)
    finally:
        again.close()
    run = controller.runs.read("r1")
    assert (run.state, run.attempt) == ("done", 2)
    with pytest.raises(ConfigError, match="run r1 is done; only a parked or cancelled one"):
        controller.resume("r1")


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ("concurrency = 0", "concurrency, back_off_s: must be positive"),
        ("concurency = 1", "did you mean 'concurrency'"),
        ("[policy]\nmax_runs_per_week = 0", "max_runs_per_week: 1 or more"),
        ("[settings]\nthreads = 'two'", r"settings: threads: 'two' \(expected a whole number\)"),
        ("[commands]\nselct = 'x'", r"commands\.selct: no such step"),
        ("[commands]\nselect = 1", "expected a table of command lines"),
    ],
)
def test_wrong_settings_name_the_file_and_the_field(
    tmp_path: Path, head: str, problem: str
) -> None:
    path = tmp_path / "p.toml"
    path.write_text(head)
    with pytest.raises(ConfigError, match=problem):
        PipelineSettings.load(path)


def test_paths_are_meant_from_where_the_settings_are(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('folder = "f"\n[inputs]\nreplay = "r.jsonl"\n[settings]\nkeys = "/k"\n')
    found = PipelineSettings.load(path)
    assert found.folder == tmp_path / "f" and found.inputs.replay == tmp_path / "r.jsonl"
    assert found.settings.keys == Path("/k")


# -- the verb --------------------------------------------------------------------------------------


class Verb:
    def __init__(self, settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._settings, self._capsys = settings, capsys

    def __call__(self, action: str, *words: str) -> tuple[int, str, str]:
        code = main(["cloud", "runs", action, *words, "--settings", str(self._settings)])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, action: str, *words: str) -> Any:
        return json.loads(self(action, *words, "--json")[1])

    def work(self) -> subprocess.Popen[bytes]:
        """A process that carries runs; its standard error is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "edge_runtime", "cloud", "runs", "work", "--settings",
             str(self._settings)],
            stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def verb(settings: Path, capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(settings, capsys)


def test_a_run_by_its_verbs(verb: Verb, tmp_path: Path) -> None:
    assert verb("list") == (0, "no runs yet\n", "")
    write_settings(
        tmp_path, commands=COMMANDS + "publish = \"sh -c 'touch {out}/p'\"",
        tail="[policy]\napproval = true",
    )  # fmt: skip
    assert verb("start", "--id", "r1", "--subject", "en/car") == (0, "r1\n", "")
    later = verb("start", "--scope", "device", "--subject", "d7")
    assert later[0] == 1 and later[1].startswith("never: d7 is a single device")
    with verb.work() as process:
        try:
            until(lambda: verb.json("show", "r1")["state"] == "waiting")
            assert verb("approve", "r1", "--by", "ada")[0] == 0
            until(lambda: verb.json("show", "r1")["state"] == "done")
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.stderr is not None and process.stderr.read() == b"at work\n"
    (run,) = verb.json("list")
    assert [step["name"] for step in run["steps"]] == ["select", "retrain", "publish"]
    assert run["approved_by"] == "ada" and run["why"] == "by hand"
    code, out, _ = verb("show", "r1")
    assert code == 0 and out.startswith("r1: done\nwhy: by hand\nselect           done")
    assert "r1" in verb("list")[1]
    for words in (("approve", "r1", "--by", "x"), ("cancel", "r1", "--by", "x"), ("resume", "r1")):
        code, _, err = verb(*words)
        assert code == 2 and "run r1 is done" in err
    code, _, err = verb("show", "r2")
    assert code == 2 and "there is no run 'r2'; the newest are: r1" in err


def test_cancelled_and_resumed_by_verbs_while_processes_come_and_go(
    verb: Verb, tmp_path: Path
) -> None:
    slow = (
        "sh -c 'echo begun >> {checkpoint}.log; while [ ! -e {checkpoint}.go ]; do sleep 0.1; done'"
    )
    write_settings(tmp_path, commands=f'select = "{slow}"')
    log = tmp_path / "weights.log"
    verb("start", "--id", "r1")
    first = verb.work()
    until(log.exists)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = verb.work()
    try:
        time.sleep(0.5)
        assert verb("cancel", "r1", "--by", "ada")[0] == 0
        until(lambda: verb.json("show", "r1")["state"] == "cancelled")
        assert log.read_text() == "begun\n"  # the second process found the first one's
        (tmp_path / "weights.go").touch()
        assert verb("resume", "r1")[0] == 0
        until(lambda: verb.json("show", "r1")["state"] == "done")
    finally:
        second.kill()
        second.communicate()
    assert log.read_text() == "begun\nbegun\n" and verb.json("show", "r1")["attempt"] == 2
