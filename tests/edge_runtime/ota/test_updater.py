"""The whole life of an update, as an agent sees it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from datetime import time as clock
from pathlib import Path

import pytest

from edge_runtime.contract.codec import decode, encode
from edge_runtime.errors import ConfigError
from edge_runtime.ota.fs import RealFs
from edge_runtime.ota.health import Health
from edge_runtime.ota.record import RecordStore
from edge_runtime.ota.settings import Hours
from edge_runtime.ota.update import State
from edge_runtime.ota.updater import Updater
from tests.edge_runtime.ota.device import GOOD, Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    with made.server:
        yield made


def run_to_commit(place: Place, updater: Updater[int], release: int) -> None:
    assert updater.check().kind == "switched"
    assert updater.changed() == release
    place.clock += 600
    updater.observe(GOOD)


def test_a_release_is_taken_tried_run_and_kept_and_every_step_is_told(place: Place) -> None:
    with place.device() as updater:
        assert updater.start(background=False) == 3
        assert updater.check().kind == "current"
        place.publish(4)
        assert updater.changed() is None
        assert updater.check().kind == "switched"
        assert place.states() == ["downloading", "staging", "testing", "probation"]
        assert updater.changed() == 4 and updater.changed() is None
        updater.observe(GOOD)
        assert updater.check().kind == "probation"
        assert "0 of 10 min" in updater.status()["probation"]
        place.clock += 600
        updater.observe(GOOD)
        assert place.states()[-1] == "committed"
        assert updater.check().kind == "current"
        status = updater.status()
        assert (status["running"]["release"], status["floor"], status["state"]) == (4, 4, "idle")
    assert place.loaded.count(4) == 1  # an engine is built once
    assert [entry["what"] for entry in place.audit()] == place.states()
    assert len({report.attempt for report in place.reports}) == 1
    assert [report.sequence for report in place.reports] == list(range(5))
    assert place.reports[2].running.release_counter == 3  # type: ignore[union-attr]
    assert place.reports[-1].running.release_counter == 4  # type: ignore[union-attr]
    assert all(decode(encode(report)) == report for report in place.reports)


def test_live_health_on_probation_decides_and_the_model_before_runs_again(place: Place) -> None:
    place.publish(4)
    worse = dataclasses.replace(GOOD, confidence=0.5)
    with place.device() as updater:
        updater.start(background=False)
        updater.observe(GOOD)  # of the model before: what the new one is compared with
        updater.check()
        updater.observe(worse)  # still that of the old model, whose stream is not over
        assert place.states()[-1] == "probation"
        assert updater.changed() == 4
        updater.observe(worse)
        assert place.states()[-1] == "rolled-back"
        assert "0.50 over 50 utterances, 0.90 with the model before" in place.reports[-1].error
        assert place.reports[-1].running.release_counter == 3  # type: ignore[union-attr]
        assert updater.changed() == 3
        outcome = updater.check()
        assert outcome.kind == "current" and "has failed here" in outcome.detail
        place.publish(5)
        run_to_commit(place, updater, 5)
    assert place.states()[-1] == "committed"


@pytest.mark.parametrize(
    ("health", "why"),
    [
        (Health(crashes=1), "failed 1 times"),
        (Health(audio_s=100, busy_s=95), "0.95 s for a second of audio"),
        (dataclasses.replace(GOOD, memory_bytes=10**9), "1000 MB"),
    ],
)
def test_crashes_slowness_and_memory_end_probation(place: Place, health: Health, why: str) -> None:
    place.publish(4)
    probation = dataclasses.replace(place.settings().probation, most_memory_bytes=5 * 10**8)
    with place.device(probation=probation) as updater:
        updater.start(background=False)
        updater.check()
        assert updater.changed() == 4
        updater.observe(health)
        assert place.states()[-1] == "rolled-back" and why in place.reports[-1].error
        assert updater.changed() == 3


def test_a_restart_goes_on_with_probation_and_its_baseline(place: Place) -> None:
    place.publish(4)
    with place.device() as updater:
        updater.start(background=False)
        updater.observe(GOOD)
        updater.check()
    for _ in range(5):  # orderly ends are not held against it
        with place.device() as updater:
            assert updater.start(background=False) == 4
    with place.device() as updater:
        assert updater.start(background=False) == 4
        updater.observe(dataclasses.replace(GOOD, confidence=0.3))
        assert updater.changed() == 3


def test_ends_that_are_no_ends_are_held_against_what_was_on_probation(place: Place) -> None:
    place.publish(4)
    with place.device() as updater:
        updater.start(background=False)
        updater.check()
    starts = []
    for _ in range(4):
        with place.device() as updater:
            starts.append(updater.start(background=False))
            updater._slots = None  # as a kill leaves it: nothing is said at the end
    assert starts == [4, 4, 4, 3]
    assert place.states()[-1] == "rolled-back"
    assert place.audit()[-1]["what"] == "rolled-back"


@pytest.mark.parametrize("way", ["sick", "bad"])
def test_what_does_not_load_or_fails_its_test_never_runs_and_is_not_tried_again(
    place: Place, way: str
) -> None:
    getattr(place, way).add(4)
    place.publish(4)
    with place.device() as updater:
        assert updater.start(background=False) == 3
        assert updater.check().kind == "failed"
        assert updater.changed() is None and place.states()[-1] == "failed"
        asked = len(place.server.asked)
        assert updater.check().kind == "current"
        assert not any("targets/" in path for path in place.server.asked[asked:])


def test_an_error_of_any_kind_in_a_new_model_is_held_against_it(place: Place) -> None:
    place.publish(4)
    with place.device() as updater:
        updater.start(background=False)
        updater._test = lambda model: 1 / 0
        outcome = updater.check()
        assert outcome.kind == "failed" and "ZeroDivisionError" in outcome.detail


def test_what_is_withdrawn_or_replaced_before_it_runs_is_let_go(place: Place) -> None:
    place.publish(4)
    with place.device() as updater:
        updater.start(background=False)

        def cut(path: str) -> None:
            place.server.cut_after = 500 if "encoder" in path else 0

        place.server.on_request = cut
        assert updater.check().kind == "unreachable"
        place.repository().revoke("en")
        assert updater.check().kind == "current"
        assert place.states()[-1] == "failed" and "withdrawn" in place.reports[-1].error
        place.publish(5)
        place.server.on_request = lambda path: updater.cancel() if "encoder" in path else None
        assert updater.check().kind == "stopped"
        place.server.on_request = lambda path: None
        place.publish(6)
        assert updater.check().kind == "switched" and updater.changed() == 6
    assert not RecordStore(RealFs(place.folder / "device")).load(3).failed


def test_what_is_all_here_is_finished_without_a_network(place: Place) -> None:
    place.publish(4)
    with place.device() as updater:
        updater.start(background=False)
        slots = updater._slots
        assert slots is not None
        slots.stage = lambda: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # type: ignore[method-assign]
        outcome = updater.check()
        assert outcome.kind == "failed" and "No space left" in outcome.detail
        assert slots.record.state is State.STAGING
    place.server.folder = place.folder / "nowhere"
    with place.device() as updater:
        updater.start(background=False)
        assert updater.check().kind == "switched"


def test_releases_are_fetched_and_tried_in_the_hours_of_the_device(place: Place) -> None:
    place.publish(4)
    noon = time.mktime((2026, 12, 1, 12, 0, 0, 0, 0, -1))
    now = [noon]
    hours = Hours(start=clock(22), end=clock(5))
    with place.device(hours=hours, now=lambda: now[0]) as updater:
        updater.start(background=False)
        for hour, kind in ((0, "stopped"), (9.9, "stopped"), (10.1, "switched")):
            now[0] = noon + hour * 3600
            # Metadata is of the real time: that of the device is only its clock on the wall here.
            updater._trust._now = time.time
            assert updater.check().kind == kind, hour
    assert hours.cover(clock(4, 59)) and not hours.cover(clock(5))


def test_a_device_that_is_assigned_its_releases_waits_for_a_word_that_is_not_an_old_one(
    place: Place,
) -> None:
    place.publish(4)
    with place.device(assigned=True) as updater:
        updater.start(background=False)
        assert "not assigned" in updater.check().detail
        updater.assign(7, 3)
        assert "not assigned" in updater.check().detail
        updater.assign(6, 4)
        assert "not assigned" in updater.check().detail
        updater.assign(8, 4)
        assert updater.check().kind == "switched"


def test_an_operator_goes_back_and_the_release_is_not_taken_again(place: Place) -> None:
    place.publish(4)
    with place.device() as updater:
        updater.start(background=False)
        run_to_commit(place, updater, 4)
        assert updater.rollback("says nonsense in the kitchen") == 3 == updater.changed()
        assert place.states()[-1] == "rolled-back"
        assert (place.reports[-1].target_counter, place.audit()[-1]["release"]) == (4, 4)
        assert updater.check().kind == "current"
        assert updater.status()["floor"] == 4
        place.publish(5)
        assert updater.check().kind == "switched"


def test_one_process_at_a_time(place: Place) -> None:
    with place.device(), pytest.raises(ConfigError, match=r"in the hands of process \d+"):
        place.device().__enter__()
    with place.device():
        pass


def test_a_device_that_lost_its_record_runs_golden_and_says_why(place: Place) -> None:
    place.publish(4)
    with place.device() as updater:
        updater.start(background=False)
        run_to_commit(place, updater, 4)
    for name in ("record.0", "record.1"):
        (place.folder / "device" / name).write_bytes(b"rust")
    with place.device() as updater:
        assert updater.start() == 3
        assert updater.check().kind == "failed"
        assert "is damaged" in updater.status()["problem"]
        updater.observe(GOOD)
        assert updater.changed() is None


def test_nothing_is_written_by_a_look_that_finds_nothing_new(place: Place) -> None:
    with place.device() as updater:
        updater.start(background=False)
        updater.check()
        state = place.folder / "device"
        before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
        for _ in range(3):
            assert updater.check("poll").kind == "current"
        assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before


def test_the_thread_looks_by_itself_follows_hints_and_ends_when_it_is_told(place: Place) -> None:
    place.clock = 0.0
    with place.device(hint_spread_s=0.0, poll_minutes=100_000.0) as updater:
        updater._monotonic = time.monotonic
        assert updater.start() == 3
        for release in (4, 5):
            if release == 5:  # it is not time yet, but somebody says that there is something
                place.publish(5)
                updater.hint("retained message of yesterday")
            else:
                place.publish(4)
                updater.hint()
            deadline = time.monotonic() + 20
            while (model := updater.changed()) is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert model == release
            updater._began = time.monotonic() - 601
            updater.observe(GOOD)
            while updater.status()["floor"] != release and time.monotonic() < deadline:
                time.sleep(0.01)
            assert updater.status()["floor"] == release
    assert "updates" not in [thread.name for thread in threading.enumerate()]
    assert any(entry.get("cause", "").startswith("hint") for entry in place.audit())
