"""A run goes through its steps: done once, tried again, parked, rejected, approved, published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autotrain_cloud.gate.ledger import Entry, read_ledger
from autotrain_cloud.pipeline import run as run_module
from autotrain_cloud.pipeline import steps
from autotrain_cloud.pipeline.executor import LocalExecutor
from autotrain_cloud.pipeline.record import Plan, Run
from autotrain_cloud.pipeline.run import Pipeline
from autotrain_cloud.pipeline.workflows import Json
from edge_runtime.bundle import Bundle
from edge_runtime.errors import StorageError

BUNDLE = Path(__file__).parents[3] / "bundles" / "en-demo"
LEFT_OUT = dict.fromkeys((step.name for step in steps.STEPS), "")
SELECT = "sh -c 'echo selected >> {log}; echo data > {out}/train.jsonl'"
RETRAIN = "sh -c 'echo trained >> {log}; cat {select}/train.jsonl {checkpoint} > {out}/weights'"


class Direct:
    """An engine that remembers nothing: every step happens, sleeps are counted."""

    def __init__(self, *messages: Json) -> None:
        self.slept: list[float] = []
        self.messages = list(messages)

    def step(self, function: Callable[..., Json], *arguments: Json) -> Json:
        return function(*json.loads(json.dumps(arguments)))

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def wait(self, topic: str, seconds: float) -> Json | None:
        return self.messages.pop(0) if self.messages else None


class World:
    """A pipeline of small commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.checkpoint = folder / "checkpoint"
        self.checkpoint.write_text("weights\n")
        self.pipeline = Pipeline(folder / "pipeline", LocalExecutor(poll_s=0.02), back_off_s=1.0)
        self.context = Direct()

    def plan(self, id: str = "r1", approval: bool = False, **commands: str) -> Plan:
        wanted = commands or {"select": SELECT, "retrain": RETRAIN}
        return Plan(
            id=id, why="a test", code="1", commands=LEFT_OUT | wanted,
            inputs={"checkpoint": (str(self.checkpoint),)}, settings={"log": str(self.log)},
            needs_approval=approval,
        )  # fmt: skip

    def go(
        self, id: str = "r1", *, attempt: int = 1, approval: bool = False, **commands: str
    ) -> Run:
        """The record after one walk; a run of this id is planned once."""
        self.pipeline.runs.create(self.plan(id, approval, **commands))
        state = self.pipeline.pipeline(self.context, {"run": id, "attempt": attempt})
        found = self.pipeline.runs.read(id)
        assert found.state == state
        return found

    def said(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_steps_build_on_one_another_and_all_of_it_is_written_down(world: World) -> None:
    run = world.go()
    assert run.state == "done" and [step.name for step in run.steps] == ["select", "retrain"]
    select, retrain = run.steps
    assert (Path(retrain.folder) / "weights").read_text() == "data\nweights\n"
    assert retrain.needs == {"checkpoint": steps.digest(world.checkpoint), "select": select.key}
    assert retrain.state == "done" and not retrain.again and retrain.tries == 1
    assert 0 < retrain.started <= retrain.finished <= time.time()
    assert run.cpu_seconds == select.cpu_seconds + retrain.cpu_seconds > 0
    result = json.loads((Path(retrain.folder) / "result.json").read_text())
    assert result["argv"] == list(retrain.argv) and result["needs"] == retrain.needs
    assert not list(world.folder.glob("pipeline/results/*/*.work"))


def test_what_is_made_is_not_made_again_unless_something_it_needs_has_changed(world: World) -> None:
    first = world.go()
    for run in (world.go(), world.go("r2")):
        assert [step.key for step in run.steps] == [step.key for step in first.steps]
    assert all(step.again for step in world.pipeline.runs.read("r2").steps)
    assert world.pipeline.runs.read("r2").cpu_seconds == 0
    assert world.said() == ["selected", "trained"]
    world.checkpoint.write_text("other weights\n")
    world.go("r3")
    assert world.said() == ["selected", "trained", "trained"]


def test_two_runs_that_need_the_same_make_it_once(world: World) -> None:
    slow = "sh -c 'echo begun >> {log}; sleep 0.5; echo data > {out}/train.jsonl'"
    worlds = [world, World(world.folder)]
    threads = [
        threading.Thread(target=one.go, args=(f"r{number}",), kwargs={"select": slow})
        for number, one in enumerate(worlds)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.said() == ["begun"]
    assert [world.pipeline.runs.read(id).state for id in ("r0", "r1")] == ["done", "done"]


def test_cancelling_a_run_that_waits_for_the_work_of_another_leaves_that_work_alone(
    world: World,
) -> None:
    slow = "sh -c 'echo begun >> {log}; while [ ! -e {log}.go ]; do sleep 0.05; done'"
    waiting = World(world.folder)
    threads = [threading.Thread(target=world.go, args=("r0",), kwargs={"select": slow})]
    threads[0].start()
    while not world.said():
        time.sleep(0.02)
    threads.append(threading.Thread(target=waiting.go, args=("r1",), kwargs={"select": slow}))
    threads[1].start()
    time.sleep(0.3)
    world.pipeline.runs.ask_to_cancel("r1")
    threads[1].join()
    assert world.pipeline.runs.read("r1").state == "cancelled"
    world.log.with_name("log.go").touch()
    threads[0].join()
    assert world.pipeline.runs.read("r0").state == "done" and world.said() == ["begun"]


def test_a_killed_step_goes_on_in_what_it_had_made(world: World) -> None:
    command = (
        "sh -c 'echo begun >> {log}; if [ -e {out}/half ]; then touch {out}/whole; "
        "else touch {out}/half; kill -9 $$; fi'"
    )
    run = world.go(select=command)
    (select,) = run.steps
    assert run.state == "done" and select.tries == 2 and (Path(select.folder) / "whole").exists()
    assert world.said() == ["begun", "begun"] and world.context.slept == [1.0]


def test_every_attempt_counts_for_the_budget(world: World) -> None:
    burn = "import sys; sum(range(4_000_000)); sys.exit(1)"
    one = world.go("once", select=f"{sys.executable} -c '{burn.replace('(1)', '(0)')}'")
    four = world.go("four", select=f"{sys.executable} -c '{burn}'")
    assert four.steps[0].tries == 4 and four.cpu_seconds > 2 * one.cpu_seconds > 0


def test_what_may_mend_itself_is_tried_with_longer_and_longer_pauses_then_parked(
    world: World,
) -> None:
    run = world.go(select="sh -c 'echo begun >> {log}; echo the store is down >&2; exit 1'")
    assert run.state == "parked" and run.reason == "select: the store is down (after 4 tries)"
    assert world.context.slept == [1.0, 2.0, 4.0] and len(world.said()) == 4


def test_a_wrong_setting_is_parked_at_once_and_the_run_goes_on_when_it_is_put_right(
    world: World,
) -> None:
    missing = world.folder / "missing"
    complaint = f"vitconformer: error: {missing}: is not there"
    retrain = f"sh -c 'test -e {missing} || (echo {complaint} >&2; exit 2)'"
    run = world.go(select=SELECT, retrain=retrain)
    assert run.state == "parked" and run.reason == f"retrain: {missing}: is not there"
    assert world.context.slept == []
    missing.touch()
    run = world.go(attempt=2)
    assert run.state == "done" and run.attempt == 2 and run.reason == ""
    assert world.said() == ["selected"]


def test_a_step_that_did_not_make_what_the_next_one_needs_is_parked(world: World) -> None:
    world.pipeline._table = lambda plan: (  # type: ignore[method-assign]
        steps.Step(name="select", command="true", makes=("train.jsonl",)),
    )
    run = world.go()
    assert run.state == "parked"
    assert "succeeded without making train.jsonl" in run.reason


def test_an_input_that_went_away_is_named(world: World) -> None:
    world.checkpoint.unlink()
    run = world.go()
    assert run.state == "parked"
    assert run.reason == f"retrain: {world.checkpoint}: cannot be read: No such file or directory"


def test_a_full_disk_is_tried_again_and_then_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline._executor = LocalExecutor(poll_s=0.02, min_free=1 << 60)
    run = world.go()
    assert run.state == "parked" and "MB are needed to begin; make room" in run.reason
    world.pipeline._executor = LocalExecutor(poll_s=0.02)
    assert world.go(attempt=2).state == "done"
    # A disk that is full for the record too: the result counts, and the next record has all.
    write = world.pipeline.runs.write

    def full(run: Run) -> None:
        if any(step.finished for step in run.steps) and run.state == "running":
            raise StorageError("no space left on device")
        write(run)

    monkeypatch.setattr(world.pipeline.runs, "write", full)
    assert world.go("r2", select=SELECT + " ").state == "done"


@pytest.mark.parametrize("code", [0, 1])
def test_the_gate_rejects_with_its_reasons(world: World, code: int) -> None:
    verdict = json.dumps({"promote": False, "reasons": ["slice en/car: +3.1 %", "slower by 12 %"]})
    (world.folder / "verdict.json").write_text(verdict)
    gate = f"sh -c 'cp {world.folder}/verdict.json {{out}}/verdict.json; exit {code}'"
    run = world.go(select=SELECT, gate=gate, publish="touch {out}/published")
    assert run.state == "rejected"
    assert run.reason == "gate: slice en/car: +3.1 %; slower by 12 %"
    assert [step.name for step in run.steps] == ["select", "gate"]
    assert world.go(attempt=2).state == "rejected"  # its verdict is remembered as such


def test_a_gate_without_a_verdict_is_no_yes(world: World) -> None:
    run = world.go(gate="sh -c 'echo [] > {out}/verdict.json'")
    assert run.state == "parked" and "is no verdict" in run.reason


PUBLISH = {"select": SELECT, "publish": "sh -c 'echo published >> {log}'"}
YES = {"approve": True, "cancel": False, "by": "ada", "why": ""}


@pytest.mark.parametrize(
    ("message", "state", "reason"),
    [
        (YES, "done", ""),
        ({**YES, "approve": False, "why": "not on a Friday"}, "rejected",
         "publish: ada said no: not on a Friday"),
        ({**YES, "approve": False, "cancel": True}, "cancelled", "cancelled by ada"),
        (None, "parked", "publish: nobody approved it within 14 days"),
    ],
)  # fmt: skip
def test_a_person_decides_before_anything_is_published(
    world: World, message: Json, state: str, reason: str
) -> None:
    waited: list[Run] = []

    def wait(topic: str, seconds: float) -> Json:
        waited.append(world.pipeline.runs.read("r1"))
        return message

    world.context.wait = wait  # type: ignore[method-assign]
    run = world.go(approval=True, **PUBLISH)
    assert (run.state, run.reason) == (state, reason)
    assert [one.state for one in waited] == ["waiting"]
    assert ("published" in world.said()) == (state == "done")
    if state == "done":
        assert run.approved_by == "ada"
        assert world.go(attempt=2).state == "done" and len(waited) == 1  # asked once


PROMOTED = {
    "gate": "cp {verdict} {out}/verdict.json",
    "calibrate": f"cp -r {BUNDLE} {{out}}/bundle",
    "publish": "test -f {calibrate}/bundle/manifest.json",
}


def promote(world: World, id: str, *messages: Json) -> tuple[Run, list[Entry]]:
    """A run with a ledger, walked twice as after a crash. -> it, and what the ledger has of it."""
    verdict, path = world.folder / "verdict.json", world.folder / "ledger.jsonl"
    verdict.write_text(json.dumps({"promote": True, "reasons": [], "x": 0.1}, indent=2))
    plan = world.plan(id, approval=bool(messages), **PROMOTED)
    plan = dataclasses.replace(
        plan, settings={"ledger": str(path)}, inputs={"verdict": (str(verdict),)}
    )
    world.pipeline.runs.create(plan)
    for _ in range(2):
        world.context.messages = list(messages)
        world.pipeline.pipeline(world.context, {"run": id, "attempt": 1})
    entries = read_ledger(path).entries
    return world.pipeline.runs.read(id), [e for e in entries if e.body["run"] == id]


def test_the_ledger_tells_once_who_let_a_model_out_and_that_it_is_out(world: World) -> None:
    run, (approval, publication) = promote(world, "r1", YES)
    assert run.state == "done"
    assert (approval.kind, approval.who) == ("approval", "ada")
    assert publication.kind == "publication"
    manifest = Bundle.open(BUNDLE).manifest
    assert publication.body["release_counter"] == manifest.release_counter
    assert publication.body["challenger"]["version"] == manifest.version
    # As the gate's own entry would have it: sorted keys, no spaces.
    canonical = b'{"promote":true,"reasons":[],"x":0.1}'
    assert publication.body["verdict"] == hashlib.sha256(canonical).hexdigest()
    assert approval.body["verdict"] == publication.body["verdict"]


def test_the_ledger_tells_who_refused_and_why(world: World) -> None:
    run, entries = promote(world, "r1", {**YES, "approve": False, "why": "not on a Friday"})
    assert run.state == "rejected"
    assert {(e.kind, e.who, e.body["reason"]) for e in entries} == {
        ("refusal", "ada", "not on a Friday")
    }
    assert len(entries) == 1


def test_without_approval_the_ledger_has_the_publication_alone(world: World) -> None:
    _, entries = promote(world, "r1")
    assert [(e.kind, e.who) for e in entries] == [("publication", "the pipeline")]


def test_a_ledger_that_cannot_be_written_holds_the_run_and_publishes_nothing_twice(
    world: World,
) -> None:
    (world.folder / "ledger.jsonl").mkdir()
    with pytest.raises(StorageError, match="ledger"):
        promote(world, "r1")
    run = world.pipeline.runs.read("r1")
    assert run.state == "parked" and "ledger.jsonl" in run.reason
    (world.folder / "ledger.jsonl").rmdir()
    assert world.pipeline.pipeline(world.context, {"run": "r1", "attempt": 2}) == "done"
    assert [e.kind for e in read_ledger(world.folder / "ledger.jsonl").entries] == ["publication"]


def test_cancelling_stops_a_step_and_the_run(world: World) -> None:
    command = "sh -c 'echo begun >> {log}; sleep 1000'"
    found: list[Run] = []
    thread = threading.Thread(target=lambda: found.append(world.go(select=command)))
    thread.start()
    deadline = time.monotonic() + 30
    while not world.said() and time.monotonic() < deadline:
        time.sleep(0.02)
    world.pipeline.runs.ask_to_cancel("r1")
    thread.join()
    assert found[0].state == "cancelled" and found[0].reason == "select: cancelled"
    assert world.go(attempt=2).state == "cancelled"  # until somebody resumes it
    assert world.said() == ["begun"]


def test_the_next_run_goes_on_from_what_was_published(world: World) -> None:
    world.go(bundle="true", calibrate="true", publish="true")
    crowned = json.loads((world.folder / "pipeline" / "champion.json").read_text())
    run = world.pipeline.runs.read("r1")
    steps_ = {step.name: step for step in run.steps}
    assert crowned == {
        "champion": f"{steps_['calibrate'].folder}/bundle",
        "checkpoint": f"{steps_['bundle'].folder}/model.safetensors",
    }


def test_a_record_and_a_plan_read_back_as_they_were_written(world: World) -> None:
    run = world.go()
    plan = world.plan()
    assert world.pipeline.runs.plan("r1") == plan
    assert dataclasses.replace(world.pipeline.runs.read("r1")) == run
    assert world.pipeline.runs.ids() == ["r1"] and world.pipeline.runs.open() == []
    assert run_module.state_of(run) == "done"
