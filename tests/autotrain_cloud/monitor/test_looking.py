"""Fleets that hear worse, as a whole, in a slice, or one device alone; and fleets that do not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from autotrain_cloud.monitor.alarms import Alarm, Closed
from autotrain_cloud.monitor.blocks import Block, DeviceState
from autotrain_cloud.monitor.looking import due, look
from autotrain_cloud.monitor.settings import DAY_MS, MonitorSettings
from autotrain_cloud.monitor.streams import FleetState
from autotrain_cloud.plain import from_json, to_json
from edge_runtime.errors import ConfigError

SETTINGS = MonitorSettings()
WARMUP = SETTINGS.warmup_looks
PER_LOOK = (8, 8, 8, 8, 8)  # utterances in blocks

Fall = Callable[[int, int], float]  # day, number of the device -> by how much confidences fall


class Fleet:
    """Simulated devices in three slices; number % 3 is the slice."""

    def __init__(self, count: int = 60, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.mean = self.rng.uniform(0.6, 0.8, count)
        self.day = 0
        self.state = FleetState()
        self.devices = {
            self.name(i): DeviceState(model="m 1 int8", since=(1, 1)) for i in range(count)
        }
        self.opened: list[tuple[int, Alarm]] = []
        self.closed: list[tuple[int, Closed]] = []

    @staticmethod
    def name(number: int) -> str:
        return f"device-{number:03}"

    @staticmethod
    def slice_of(name: str) -> str:
        return f"room-{int(name[-3:]) % 3}"

    def run(
        self, days: int, fall: Fall = lambda day, number: 0.0, *, silent: range = range(0)
    ) -> list[Alarm]:
        """-> what was opened in these days"""
        before = len(self.opened)
        for _ in range(days):
            now_ms = (self.day + 1) * DAY_MS
            for i in range(len(self.mean)):
                if i not in silent:
                    self._utter(i, fall(self.day, i), now_ms)
            outcome = look(
                self.state, self.devices, self.slice_of, settings=SETTINGS, now_ms=now_ms
            )
            self.state, self.devices = outcome.fleet, outcome.devices
            self.opened += [(self.day, alarm) for alarm in outcome.opened]
            self.closed += [(self.day, closed) for closed in outcome.closed]
            self.day += 1
        return [alarm for _, alarm in self.opened[before:]]

    def _utter(self, number: int, fall: float, now_ms: int) -> None:
        values = [
            np.clip(self.rng.normal(self.mean[number] - fall, 0.12, n), 0, 1) for n in PER_LOOK
        ]
        blocks = tuple(Block(len(v), float(v.sum()), float((v < 0.45).sum())) for v in values)
        name = self.name(number)
        self.devices[name] = dataclasses.replace(self.devices[name], blocks=blocks, seen_ms=now_ms)


def test_no_drift_no_alarm_whoever_reports() -> None:
    fleet = Fleet()
    assert fleet.run(25) == []
    # Only the worst devices report: another composition is not another performance.
    best = fleet.mean > 0.7
    fleet.mean[best] = fleet.mean[best]
    order = np.argsort(-fleet.mean)
    silent = {int(i) for i in order[:20]}
    opened = [fleet.run(1, silent=silent) for _ in range(3)]  # type: ignore[arg-type]
    assert opened == [[], [], []]


def test_a_slice_that_falls_is_found_explained_and_may_retrain() -> None:
    fleet = Fleet(150)
    fleet.run(WARMUP + 3)
    alarms = fleet.run(6, lambda day, i: 0.06 if i % 3 == 1 else 0.0)
    named = {alarm.name for alarm in alarms if alarm.level == "slice"}
    assert named == {"room-1"}
    alarm = next(alarm for alarm in alarms if alarm.level == "slice")
    assert alarm.may_retrain and alarm.model == "m 1 int8"
    assert alarm.usual - alarm.now == pytest.approx(0.06, abs=0.015)
    assert abs(alarm.change_ms - (WARMUP + 3) * DAY_MS) <= DAY_MS
    assert alarm.log_evidence >= alarm.log_threshold
    assert alarm.devices == 50 and alarm.utterances == alarm.looks * 50 * 40
    for part in ("Slice room-1", "mean confidence fell from 0.", "50 devices", "Evidence 10^",
                 "4 streams", "May start a retraining"):  # fmt: skip
        assert part in alarm.text
    assert not [alarm for alarm in alarms if alarm.level == "device"]


def test_a_fleet_that_falls_is_found_as_a_fleet() -> None:
    fleet = Fleet()
    fleet.run(WARMUP + 2)
    alarms = fleet.run(5, lambda day, i: 0.08)
    assert "fleet" in {alarm.level for alarm in alarms}
    assert not [alarm for alarm in alarms if alarm.level == "device"]
    # Each is told once.
    assert fleet.run(5, lambda day, i: 0.08) == []


def test_one_device_is_a_ticket_and_never_a_retraining() -> None:
    fleet = Fleet()
    fleet.run(WARMUP + 1)
    alarms = fleet.run(20, lambda day, i: 0.25 if i == 7 else 0.0)
    assert [(alarm.level, alarm.name) for alarm in alarms] == [("device", "device-007")]
    assert not alarms[0].may_retrain
    assert "device-007" in alarms[0].text and "no retraining" in alarms[0].text


def test_what_is_tolerated_is_no_alarm() -> None:
    fleet = Fleet(150)
    fleet.run(WARMUP + 1)
    assert fleet.run(20, lambda day, i: 0.01) == []


def test_a_device_that_falls_silent_gets_a_ticket_until_it_speaks() -> None:
    fleet = Fleet(6)
    fleet.run(WARMUP + 1)
    alarms = fleet.run(5, silent=range(2, 3))
    assert [(alarm.name, alarm.statistic) for alarm in alarms] == [("device-002", "silence")]
    fleet.run(1)
    assert [closed.reason for _, closed in fleet.closed] == ["the device reports again"]


def test_an_alarm_is_over_when_it_is_as_it_was_and_can_come_again() -> None:
    fleet = Fleet(150)
    fleet.run(WARMUP + 1)
    assert fleet.run(4, lambda day, i: 0.08)
    fleet.run(SETTINGS.calm_looks + 1)
    assert not fleet.state.alarms
    assert {closed.reason for _, closed in fleet.closed} == {"it is as it was"}
    assert fleet.run(4, lambda day, i: 0.08)


def test_a_promotion_closes_alarms_and_everything_is_learnt_anew() -> None:
    fleet = Fleet(150)
    fleet.run(WARMUP + 1)
    assert fleet.run(4, lambda day, i: 0.08)
    fleet.devices = {name: DeviceState(model="m 2 int8", since=(2, 1)) for name in fleet.devices}
    fleet.mean -= 0.15  # a model with other confidences is no drift
    assert fleet.run(15) == []
    assert not fleet.state.alarms
    assert {closed.reason for _, closed in fleet.closed} == {"the model was replaced"}
    assert fleet.run(4, lambda day, i: 0.08)[0].model == "m 2 int8"


def test_nothing_is_said_before_there_is_a_baseline() -> None:
    fleet = Fleet()
    assert fleet.run(WARMUP, lambda day, i: 0.05 * day) == []
    assert all(state.baseline is not None for state in fleet.devices.values())
    assert not fleet.state.streams


def test_state_that_went_through_the_store_goes_on_the_same() -> None:
    fleets = Fleet(30, seed=5), Fleet(30, seed=5)
    for fleet in fleets:
        fleet.run(WARMUP + 2)
    fleet = fleets[1]
    fleet.state = from_json(FleetState, json.loads(json.dumps(to_json(fleet.state))))
    fleet.devices = {
        name: from_json(DeviceState, json.loads(json.dumps(to_json(state))))
        for name, state in fleet.devices.items()
    }
    for fleet in fleets:
        fleet.run(4, lambda day, i: 0.1)
    assert fleets[0].opened and fleets[0].opened == fleets[1].opened
    assert fleets[0].state == fleets[1].state and fleets[0].devices == fleets[1].devices


def test_looks_are_due_once_a_day_and_a_clock_that_goes_back_delays_none() -> None:
    fleet = FleetState(since_ms=10 * DAY_MS)
    assert not due(fleet, 10 * DAY_MS + 1, SETTINGS)
    assert due(fleet, 11 * DAY_MS, SETTINGS)
    assert due(fleet, 9 * DAY_MS, SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("false_alarms", 0.0), ("confidence_tolerance", -1.0), ("warmup_looks", 1), ("look_ms", 0)],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        MonitorSettings(**{name: value})  # type: ignore[arg-type]
