"""A plan, and reports as devices send them."""

from __future__ import annotations

from typing import Any

from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.plan import Plan, Release
from edge_runtime.contract.messages import UpdateReport
from edge_runtime.contract.records import Model

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
RELEASE = Release(version="0.5.0", counter=8)
PREVIOUS = Release(version="0.4.0", counter=7)
BACK = Release(version="0.4.0", counter=9)


def a_plan(**changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "id": "r1", "release": RELEASE, "previous": PREVIOUS, "author": "alice",
        "devices_per_minute": 1000.0,
    }  # fmt: skip
    return Plan(**{**usual, **changes})


def names(count: int) -> dict[str, str]:
    return {f"device-{i:04}": "UTC" for i in range(count)}


def started(plan: Plan, devices: dict[str, str], now_ms: int = 0) -> Rollout:
    rollout = Rollout(plan)
    rollout.join(devices, now_ms)
    rollout.submit(plan.author, now_ms)
    for i in range(plan.approvals):
        rollout.approve(f"person-{i}", now_ms)
    return rollout


def a_report(
    state: str = "committed",
    *,
    counter: int = RELEASE.counter,
    sequence: int = 1,
    session: int = 1,
    running: int | None = None,
    error: str = "",
) -> UpdateReport:
    model = None
    if running is not None:
        model = Model(name="m", version="1", release_counter=running, manifest_sha256=b"0" * 32,
                      precision="int8")  # fmt: skip
    return UpdateReport(
        session=session, sequence=sequence, attempt="0" * 32, target="x", target_counter=counter,
        state=state,  # type: ignore[arg-type]
        running=model, error=error, at_ms=0,
    )  # fmt: skip
