"""Failures and quality: bad releases are found, good ones seldom accused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from autotrain_cloud.plain import from_json, to_json
from autotrain_cloud.rollout import failures, quality
from autotrain_cloud.rollout.plan import Plan, Window
from edge_runtime.contract.messages import Telemetry
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.monitor.reports import a_report
from tests.autotrain_cloud.rollout.fleet import PREVIOUS, RELEASE, a_plan


def test_the_evidence_of_failures_is_fair_at_the_bound() -> None:
    """Its expectation after n updates that fail with just that probability is one."""
    bound, n = 0.02, 40
    mean = sum(
        math.comb(n, k) * bound**k * (1 - bound) ** (n - k)
        * math.exp(failures.log_evidence(n - k, k, bound))
        for k in range(n + 1)
    )  # fmt: skip
    assert mean == pytest.approx(1)


def test_false_halts_by_failures_are_as_rare_as_promised_however_often_one_looks() -> None:
    rng, bound, alpha, runs = np.random.default_rng(1), 0.02, 0.05, 400
    failed = np.cumsum(rng.random((runs, 1500)) < bound, axis=1)
    n = np.arange(1, 1501)
    rates = np.minimum(np.array(failures.TIMES) * bound, (1 + bound) / 2)
    logs = [
        failed * math.log(rate / bound) + (n - failed) * math.log((1 - rate) / (1 - bound))
        for rate in rates
    ]
    evidence = np.logaddexp.reduce(logs) - math.log(len(rates))
    assert evidence[3, 700] == pytest.approx(
        failures.log_evidence(701 - int(failed[3, 700]), int(failed[3, 700]), bound)
    )
    halted = np.mean(evidence.max(axis=1) >= -math.log(alpha))
    assert halted <= alpha + 2 * math.sqrt(alpha / runs)


def _quality(shift: float, seed: int, *, looks: int = 12, name: str = "confidence") -> int | None:
    """-> the look at which it halts"""
    rng = np.random.default_rng(seed)
    wealth = quality.Wealth.nothing().staked(1.0)
    for look in range(looks):
        updated = [{name: x} for x in rng.normal(shift, 0.05, 60).tolist()]
        control = [{name: x} for x in rng.normal(0, 0.05, 200).tolist()]
        factors, shifts = quality.compared(updated, control, {})
        wealth = wealth.after(factors)
        assert shifts[name] == pytest.approx(shift, abs=0.05)
        if wealth.log_evidence >= -math.log(0.01):
            assert wealth.strongest == f"{name}{'-' if shift < 0 else '+'}"
            return look
    return None


@pytest.mark.parametrize(
    ("name", "shift"),
    [("confidence", -0.03), ("confidence", 0.06), ("speed", math.log(1.3)), ("wanted", 0.06),
     ("wanted", -0.08), ("disagreement", 0.05)],
)  # fmt: skip
def test_a_worse_release_is_found_within_a_few_looks(name: str, shift: float) -> None:
    found = [_quality(shift, seed, name=name) for seed in range(10)]
    assert all(look is not None and look <= 8 for look in found), found


@pytest.mark.parametrize("shift", [0.0, -0.01, 0.02])
def test_what_is_tolerated_does_not_halt(shift: float) -> None:
    assert [_quality(shift, seed) for seed in range(50)] == [None] * 50


def test_less_upload_and_faster_are_not_the_same() -> None:
    assert _quality(-0.3, 0, name="speed") is None  # faster is no fault
    assert "speed-" not in quality.SIDES and "wanted-" in quality.SIDES


def test_extreme_values_of_few_devices_prove_nothing() -> None:
    factors, _ = quality.compared([{"confidence": -1.0}], [{"confidence": 1.0}], {})
    assert max(factors["confidence-"]) < math.log(2)
    factors, shifts = quality.compared([{"confidence": math.nan}], [{"confidence": 0.0}], {})
    assert factors == shifts == {}


def _telemetry(**changes: float) -> Telemetry:
    return a_report(10, 0.7, **changes)


def test_what_a_device_reports_becomes_what_is_compared() -> None:
    before = quality.measured([_telemetry(), _telemetry(wanted=2)])
    now = quality.measured([_telemetry(real_time_factor=0.4, crashes=1, wanted=5)])
    assert before is not None and now is not None
    change = quality.change(now, before)
    assert change["confidence"] == pytest.approx(0)
    assert change["wanted"] == pytest.approx(0.5 - 0.1)
    assert change["speed"] == pytest.approx(math.log(2))
    assert change["crashed"] == 1
    assert quality.measured([]) is None


def test_a_plan_that_cannot_work_says_which_field() -> None:
    for changes, words in (
        ({"shares": (0.5, 0.1)}, "shares"),
        ({"shares": (0.1, 0.5)}, "shares"),
        ({"previous": RELEASE, "release": PREVIOUS}, "devices would refuse it"),
        ({"holdback": 0.7}, "holdback"),
        ({"failure_bound": 0.0}, "failure_bound"),
        ({"devices_per_minute": 0.0}, "devices_per_minute"),
    ):
        with pytest.raises(ConfigError, match=words):
            a_plan(**changes)
    with pytest.raises(ConfigError, match="window"):
        Window("25:00", "05:00")


def test_a_plan_comes_back_from_the_store_as_it_was() -> None:
    plan = a_plan(window=Window("01:00", "05:00"), expected={"confidence": 0.02}, approvals=2)
    assert from_json(Plan, json.loads(json.dumps(to_json(plan)))) == plan


def test_buckets_are_even_and_another_rollout_begins_with_others() -> None:
    devices = [f"d{i}" for i in range(4000)]
    one, two = a_plan(id="one"), a_plan(id="two")

    def first(plan: Plan) -> set[str]:
        return {device for device in devices if plan.bucket(device) < 0.05}

    assert 0.04 < len(first(one)) / 4000 < 0.06
    assert len(first(one) & first(two)) < 30
    assert one.limits == (0.01, 0.05, 0.25, 0.95, 1.0)
    assert a_plan(holdback=0.0).limits == (0.01, 0.05, 0.25, 1.0)
