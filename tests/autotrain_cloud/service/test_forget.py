"""What the store does not have any more is deleted from the pipeline's folder, run by run."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from autotrain_cloud.datasets.manifest import Row, freeze
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.pipeline.record import Run
from autotrain_cloud.service.forget import Forgetting, forget
from autotrain_cloud.store import Store, erasure, schema
from autotrain_cloud.store.segments import expire
from edge_runtime.bundle import Bundle, write_bundle
from tests.autotrain_cloud.fleet import NOW, new_ingest, packet, segment
from tests.autotrain_cloud.pipeline.test_controller import finish, until, write_settings

BUNDLE = Path(__file__).parents[3] / "bundles" / "en-demo"
ONE, TWO = (segment(number).id for number in (1, 2))
# Its first step stands for `gather`: it copies what the folder `stored` has.
COMMANDS = """
gather = "cp -r @/stored {out}/audio"
label = "sh -c 'cat {gather}/audio/* > {out}/labels'"
select = "cp -r @/chosen/. {label}/labels {out}"
retrain = "sh -c 'while test -e @/slow; do sleep 0.1; done; cp {label}/labels {out}'"
bundle = "cp {retrain}/labels {out}/weights"
calibrate = "sh -c 'test -e {bundle} && cp -r @/trained {out}/bundle'"
"""
PUBLISH = 'publish = "test -f {calibrate}/bundle/manifest.json"'
NO = "gate = \"sh -c 'test -e {calibrate} && cp @/no {out}/verdict.json'\""


@pytest.fixture
def place(store: Store, tmp_path: Path) -> Path:
    """Both segments are in the store, and in what the first step will find."""
    new_ingest(store).commit([packet(segment(1)), packet(segment(2))], now_ms=NOW)
    (tmp_path / "stored").mkdir()
    for id in (ONE, TWO):
        (tmp_path / "stored" / f"{id}.ogg").write_text(f"sound of {id}\n")
    found = Bundle.open(BUNDLE)
    manifest = dataclasses.replace(found.manifest, files={}, version="9.0", release_counter=9)
    files: dict[str, Path | bytes] = {name: found.file(name) for name in found.manifest.files}
    write_bundle(tmp_path / "trained", manifest, files)
    rows = [
        Row(
            segment_id=id, audio=f"/{id}.ogg", audio_sha256=id * 2, duration_s=1.0, text="a word",
            source="teacher", split="train", device="kitchen-1",
        )
        for id in (ONE, TWO)
    ]  # fmt: skip
    freeze(tmp_path / "chosen", "train", rows)
    (tmp_path / "weights").write_text("w\n")
    return tmp_path


def opened(place: Path, rest: str = PUBLISH) -> Controller:
    commands = (COMMANDS + rest).replace("@", str(place))
    return Controller.open(write_settings(place, commands=commands, tail=f'champion = "{BUNDLE}"'))


@pytest.fixture
def controller(place: Path) -> Iterator[Controller]:
    found = opened(place)
    yield found
    found.close()


def done(controller: Controller, id: str = "r1", state: str = "done") -> Run:
    controller.start(why="a test", id=id)
    finish(controller)
    run = controller.runs.read(id)
    assert run.state == state, run
    return run


def left(controller: Controller, run: Run) -> set[str]:
    """Steps whose results are there."""
    assert not list(controller.settings.folder.glob("results/*/*.gone"))
    return {step.name for step in run.steps if Path(step.folder).exists()}


def erase_one(store: Store, place: Path) -> erasure.Erasure:
    (place / "stored" / f"{ONE}.ogg").unlink(missing_ok=True)
    return erasure.erase(store, segments=[ONE], now_ms=NOW)


def test_nothing_happens_while_the_store_has_everything(
    store: Store, controller: Controller
) -> None:
    run = done(controller)
    assert forget(store, controller, now_ms=NOW).results == 0
    assert left(controller, run) == {step.name for step in run.steps}


def test_of_a_published_run_the_model_stays_and_the_answer_names_it_though_nobody_had_kept_it(
    store: Store, controller: Controller, place: Path
) -> None:
    run = done(controller)
    asked = erase_one(store, place)
    assert asked.lineage.models == ()  # no service has told the store of this run
    assert forget(store, controller, now_ms=NOW).results == 4
    assert left(controller, run) == {"bundle", "calibrate", "publish"}
    with store.read() as db:
        answer = db.scalar(
            select(schema.erasures.c.lineage).where(schema.erasures.c.id == asked.id)
        )
        members = db.scalars(select(schema.dataset_members.c.segment)).all()
    assert answer["models"] == [["en-demo", "9.0"]] and len(answer["datasets"]) == 1
    assert members == [TWO]
    assert forget(store, controller, now_ms=NOW).results == 0


def test_of_a_rejected_run_nothing_stays(store: Store, place: Path) -> None:
    (place / "no").write_text('{"promote": false, "reasons": ["worse"]}')
    controller = opened(place, NO)
    run = done(controller, state="rejected")
    erase_one(store, place)
    forget(store, controller, now_ms=NOW)
    assert left(controller, run) == set()
    controller.close()


def test_a_run_under_way_is_stopped_and_begins_anew_without_what_was_erased(
    store: Store, controller: Controller, place: Path
) -> None:
    (place / "slow").touch()
    controller.start(why="a test", id="r1")
    service = Forgetting(store, controller)
    with controller.at_work():
        until(lambda: controller.runs.read("r1").step("retrain"))
        erase_one(store, place)
        (place / "slow").unlink()
        deadline = time.monotonic() + 60
        while controller.runs.read("r1").attempt == 1:
            assert time.monotonic() < deadline
            service.step(NOW)
        until(lambda: not controller.runs.open())
    run = controller.runs.read("r1")
    assert (run.state, run.attempt) == ("done", 2)
    step = run.step("retrain")
    assert step is not None
    assert (Path(step.folder) / "labels").read_text() == f"sound of {TWO}\n"


def test_a_run_that_a_person_stopped_stays_stopped(
    store: Store, controller: Controller, place: Path
) -> None:
    (place / "slow").touch()
    controller.start(why="a test", id="r1")
    with controller.at_work():
        until(lambda: controller.runs.read("r1").step("retrain"))
        controller.cancel("r1", by="ann")
        until(lambda: not controller.runs.open())
    erase_one(store, place)
    assert forget(store, controller, now_ms=NOW).begun_anew == ()
    run = controller.runs.read("r1")
    assert run.state == "cancelled" and left(controller, run) == set()
    assert not list(controller.settings.folder.glob("results/*/*.work"))


def test_what_is_too_old_goes_from_runs_that_are_over_and_leaves_others_in_peace(
    store: Store, controller: Controller, place: Path
) -> None:
    over = done(controller, "r1")
    (place / "slow").touch()
    with controller.at_work():
        time.sleep(0.01)  # until another millisecond: a gather of its own
        controller.start(why="a test", id="r2", slice="others")
        until(lambda: controller.runs.read("r2").step("retrain"))
        with store.begin() as db:
            old = schema.segments.c.id == ONE
            db.execute(update(schema.segments).where(old).values(expires_ms=NOW + 1))
        assert expire(store, now_ms=NOW + 1) == 1
        found = forget(store, controller, now_ms=NOW)
        assert (found.stopping, found.begun_anew) == ((), ())
        (place / "slow").unlink()
        until(lambda: not controller.runs.open())
    assert controller.runs.read("r2").state == "done"
    forget(store, controller, now_ms=NOW)
    for run in (over, controller.runs.read("r2")):
        assert left(controller, run) == {"bundle", "calibrate", "publish"}


def test_a_deletion_that_was_cut_off_is_finished_wherever_that_was(
    store: Store, controller: Controller, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = done(controller)
    erase_one(store, place)
    for begun in range(1, 5):  # each try gets so far: a folder is put aside, and not deleted
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(shutil, "rmtree", _cut_off)
            forget(store, controller, now_ms=NOW)
        aside = list(controller.settings.folder.glob("results/*/*.gone"))
        assert len(aside) == 1, begun
        shutil.rmtree(aside[0])
    forget(store, controller, now_ms=NOW)
    assert left(controller, run) == {"bundle", "calibrate", "publish"}


def _cut_off(path: Path) -> None:
    raise KeyboardInterrupt
