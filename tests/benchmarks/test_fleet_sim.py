"""A small fleet against the real broker and the real ingest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fleet_sim
from benchmarks.fleet_ingest import CloudIngest
from benchmarks.fleet_sim import Plan
from tests.deploy.client import NOT_AUTHORIZED, SUCCESS, Client

SMALL = Plan(devices=50, minutes=0.08, period_s=2, ramp_s=1)


def simulated(plan: Plan, folder: Path) -> dict[str, Any]:
    with fleet_sim.broker_for(plan, folder) as broker:
        ingest = CloudIngest(folder, broker, fleet_sim.names(plan))
        ingest.start()
        try:
            return fleet_sim.simulate(plan, broker, ingest)
        finally:
            ingest.close()


@pytest.mark.parametrize("tls", [False, True])
def test_what_fifty_devices_make_is_in_the_store_once(tmp_path: Path, tls: bool) -> None:
    found = simulated(dataclasses.replace(SMALL, tls=tls), tmp_path)
    assert found["connected_at_end"] == found["devices"] == 50
    assert found["rows"] == found["made"] == found["delivered"] > 50
    assert found["lost"] == found["doubled"] == found["waiting_at_end"] == 0
    assert found["latencies"] > 0 and found["latency_s"]["p50"] > 0
    assert found["dead"] == {} and found["warnings"] == {}
    assert set(found["memory_mb"]) == {"devices", "broker", "ingest"}
    rows = fleet_sim.table(found)
    assert all(len(row) == 2 for row in rows)


def test_devices_without_tls_are_under_the_same_rules(tmp_path: Path) -> None:
    with (
        fleet_sim.broker_for(SMALL, tmp_path) as broker,
        Client(broker, None, username="device-1") as device,
    ):
        assert device.publish("fl/v1/device-1/up/segment") == SUCCESS
        assert device.publish("fl/v1/device-2/up/segment") == NOT_AUTHORIZED


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_broker_and_ingest_are_killed(tmp_path: Path) -> None:
    plan = dataclasses.replace(SMALL, devices=20, minutes=0.6, chaos=True, seed=3)
    found = simulated(plan, tmp_path)
    assert sum(found["kills"].values()) > 0
    assert found["rows"] == found["made"] == found["delivered"]
    assert found["lost"] == found["doubled"] == 0
