"""Reports through the ingest and the store become alarms, whatever is read twice or cut off."""

from __future__ import annotations

import pytest

from autotrain_cloud.monitor.settings import MonitorSettings
from autotrain_cloud.service import journal, watch
from autotrain_cloud.service.watch import Watch
from autotrain_cloud.store import Store
from tests.autotrain_cloud.fleet import new_ingest, packet, telemetry
from tests.autotrain_cloud.monitor.reports import a_report

MINUTE = 60_000
SETTINGS = MonitorSettings(look_ms=MINUTE, warmup_utterances=20, warmup_looks=3)
DEVICES = ("kitchen-1", "kitchen-2", "hall-1", "hall-2")


def live(store: Store, looks: range, confidence: dict[str, float], watcher: Watch) -> None:
    """A minute each, in which every device reports twice, and everything is taken in twice."""
    ingest = new_ingest(store)
    for number in looks:
        now = (number + 1) * MINUTE
        for sequence in (2 * number, 2 * number + 1):
            packets = [
                packet(a_report(10, confidence[name], sequence=sequence), name) for name in DEVICES
            ]
            ingest.commit(packets + packets, now_ms=now - 1000)
        watcher.step(now)
        watcher.step(now)


def test_a_slice_that_hears_worse_raises_one_alarm_and_says_so(store: Store) -> None:
    with store.begin() as db:
        for name in DEVICES:
            watch.set_slice(db, name, name.split("-")[0])
    usual = dict.fromkeys(DEVICES, 0.8)
    watcher = Watch(store, SETTINGS)
    live(store, range(8), usual, watcher)
    assert not any(state.ignored for state in watcher.devices.values())  # nothing was read twice
    with store.read() as db:
        assert watch.open_alarms(db) == []
    worse = usual | {"kitchen-1": 0.5, "kitchen-2": 0.5}
    live(store, range(8, 20), worse, Watch(store, SETTINGS))  # after a restart
    with store.read() as db:
        alarms = watch.open_alarms(db)
        events = journal.since(db, 0)
    levels = {(alarm.level, alarm.name) for alarm in alarms}
    assert ("slice", "kitchen") in levels
    assert not any(name.startswith("hall") for _, name in levels)
    told = [event for event in events if event.kind == "alarm"]
    assert {event.facts["alarm"] for event in told} >= {
        alarm.id for alarm in alarms if alarm.may_retrain
    }
    assert any("Slice kitchen" in event.text for event in told)
    assert len({event.facts["alarm"] for event in told}) == len(told)


def test_a_report_that_the_store_gave_back_is_the_report(store: Store) -> None:
    sent = telemetry(3, vetoed={"budget": 2}, crashes=1)
    new_ingest(store).commit([packet(sent)], now_ms=1)
    with store.read() as db:
        (row,) = watch._arrived(db, -1)
        assert watch.report_of(row) == sent


def test_a_step_that_is_cut_off_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watch(store, SETTINGS)
    live(store, range(3), dict.fromkeys(DEVICES, 0.8), watcher)
    before = watcher.fleet, dict(watcher.devices)

    def cut(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autotrain_cloud.service.watch._keep", cut)
        with pytest.raises(KeyboardInterrupt):
            watcher.step(10 * MINUTE)
    assert (watcher.fleet, dict(watcher.devices)) == before
    again = Watch(store, SETTINGS)
    assert (again.fleet, dict(again.devices)) == before
