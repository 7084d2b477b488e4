"""From an alarm to a run, and from its bundle to a rollout, with commands that copy one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotrain_cloud.gate.ledger import read_ledger
from autotrain_cloud.monitor.alarms import Alarm
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.plain import to_json
from autotrain_cloud.rollout.plan import Release
from autotrain_cloud.service import journal
from autotrain_cloud.service.learn import Learn, republisher
from autotrain_cloud.service.roll import Rolling
from autotrain_cloud.settings import RolloutSettings
from autotrain_cloud.store import Store
from autotrain_cloud.store.schema import alarms
from edge_runtime.bundle import Bundle, write_bundle
from tests.autotrain_cloud.pipeline.test_controller import finish, write_settings

BUNDLE = Path(__file__).parents[3] / "bundles" / "en-demo"
ALARM = Alarm(
    id="a1", level="slice", name="kitchen", model="en-demo", statistic="confidence",
    change_ms=500, opened_ms=900, text="the kitchen hears worse",
)  # fmt: skip
ROLLOUT = RolloutSettings(approvals=0)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    champion = Bundle.open(BUNDLE)
    manifest = dataclasses.replace(
        champion.manifest, release_counter=champion.manifest.release_counter + 1, files={}
    )
    files: dict[str, Path | bytes] = {n: champion.file(n) for n in champion.manifest.files}
    write_bundle(tmp_path / "trained", manifest, files)
    settings = write_settings(
        tmp_path,
        commands=f"""
calibrate = "cp -r {tmp_path}/trained {{out}}/bundle"
publish = "test -f {{calibrate}}/bundle/manifest.json"
""",
        tail=f'champion = "{BUNDLE}"\n[policy]\nmin_new_minutes = 0.0',
    )
    (tmp_path / "weights").write_text("w\n")
    found = Controller.open(settings)
    yield found
    found.close()


def learning(store: Store, controller: Controller) -> Learn:
    """As a process of its own would begin."""
    return Learn(store, controller, Rolling(store, lambda bundle, above: above), ROLLOUT)


def raise_alarm(store: Store, alarm: Alarm = ALARM) -> None:
    row = {
        "id": alarm.id, "level": alarm.level, "name": alarm.name, "model": alarm.model,
        "statistic": alarm.statistic, "change_ms": alarm.change_ms, "opened_ms": alarm.opened_ms,
        "closed_ms": None, "closed_reason": "", "text": alarm.text, "facts": to_json(alarm),
        "run": "",
    }  # fmt: skip
    with store.begin() as db:
        db.execute(alarms.insert(), row)


def told(store: Store, kind: str) -> list[str]:
    with store.read() as db:
        return [event.text for event in journal.since(db, 0) if event.kind == kind]


def test_an_alarm_of_a_slice_starts_one_run_however_often_it_is_asked(
    store: Store, controller: Controller
) -> None:
    raise_alarm(store)
    for now_ms in (1000, 2000, 3000):
        learning(store, controller).answer_alarms(now_ms)
    (run,) = controller.runs.open()
    with store.read() as db:
        assert db.scalar(alarms.select().with_only_columns(alarms.c.run)) == run.id
    assert len(told(store, "retraining")) == 1


def test_going_back_publishes_the_model_of_before_above_the_bad_one_and_is_in_the_ledger_once(
    tmp_path: Path,
) -> None:
    published: list[Bundle] = []
    again = republisher(published.append, tmp_path / "republished", tmp_path / "ledger.jsonl")
    bad = Release(version="9.0", counter=7)
    assert again(BUNDLE, bad) == again(BUNDLE, bad)  # after a crash
    before = Bundle.open(BUNDLE).manifest
    assert {(b.manifest.version, b.manifest.release_counter) for b in published} == {
        (before.version, 8)
    }
    assert published[0].manifest.files == before.files
    (entry,) = read_ledger(tmp_path / "ledger.jsonl").entries
    assert (entry.kind, entry.body["release_counter"]) == ("rollback", 8)
    assert entry.body["reason"] == "release 7 was taken back"


def test_an_alarm_of_one_device_starts_nothing(store: Store, controller: Controller) -> None:
    raise_alarm(store, dataclasses.replace(ALARM, level="device"))
    learning(store, controller).answer_alarms(1000)
    assert not controller.runs.ids() and not told(store, "retraining")


def test_what_a_run_published_is_rolled_out_once_however_often_its_process_is_killed(
    store: Store, controller: Controller
) -> None:
    raise_alarm(store)
    learn = learning(store, controller)
    learn.answer_alarms(1000)
    learn.follow_runs(1000)
    finish(controller)
    for _ in range(3):
        learning(store, controller).follow_runs(2000)
    assert [text for text in told(store, "run") if text == "done"] == ["done"]
    assert [text.split(":")[0] for text in told(store, "rollout")] == ["submitted", "started"]


def test_a_run_that_ended_while_nobody_looked_is_still_handed_over(
    store: Store, controller: Controller
) -> None:
    raise_alarm(store)
    learning(store, controller).answer_alarms(1000)
    finish(controller)
    learning(store, controller).follow_runs(2000)  # the first to look
    assert told(store, "run") == ["done"]
    assert len(told(store, "rollout")) == 2  # submitted, started


def test_while_a_rollout_is_under_way_no_alarm_starts_another_run(
    store: Store, controller: Controller
) -> None:
    raise_alarm(store)
    learn = learning(store, controller)
    learn.answer_alarms(1000)
    finish(controller)
    learn.follow_runs(2000)
    raise_alarm(store, dataclasses.replace(ALARM, id="a2", level="fleet", name=""))
    learn.answer_alarms(2000)
    (first,) = controller.runs.ids()
    assert told(store, "retraining")[-1] == f"later: rollout {first} is not over"
