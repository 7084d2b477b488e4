"""Bets that cannot be won without a change, and are won soon with one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_cloud.monitor.evidence import SHARES, EDetector, e_bh, log_factors, log_mean


@pytest.mark.parametrize("means", [(0.5, 0.5), (0.3, 0.7), (0.45, 0.55)])
def test_a_look_is_fair_if_the_null_holds_on_average(means: tuple[float, float]) -> None:
    """Two devices, each one or zero with its own mean; held against a mean of a half."""
    expected = np.zeros(len(SHARES))
    for outcome in itertools.product((0, 1), repeat=2):
        chance = math.prod(m if y else 1 - m for m, y in zip(means, outcome, strict=True))
        factors = log_factors([0.5 - y for y in outcome], [0.5, 0.5], [1.0, 1.0])
        expected += chance * np.exp(factors)
    assert np.all(expected <= 1 + 1e-12)
    if means == (0.5, 0.5):
        assert expected == pytest.approx(1)


def test_an_observation_above_its_bound_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="above its bound"):
        log_factors([-0.6], [0.5], [1.0])
    assert log_factors([], [], []) == log_factors([0.1], [0.5], [0.0]) == (0.0,) * len(SHARES)


def test_false_alarms_are_as_rare_as_promised_right_at_the_null() -> None:
    """At most one alarm in 1/alpha looks on average, whatever the stopping."""
    rng, alpha, looks, runs = np.random.default_rng(3), 0.002, 100, 400
    alarms = 0
    for _ in range(runs):
        detector = EDetector()
        for look in range(looks):
            gaps = 0.75 - rng.beta(4.5, 1.5, 10)  # of mean 0.75
            detector = detector.after(log_factors(gaps, [0.25] * 10, [1.0] * 10), look)
            if detector.log_evidence >= -math.log(alpha):
                alarms += 1
                break
    assert 0 < alarms / runs <= alpha * looks


def test_a_change_is_found_and_dated() -> None:
    rng, detector = np.random.default_rng(4), EDetector()
    for look in range(40):
        gaps = 0.7 - rng.beta(4.5, 1.5, 10) * (1 if look < 30 else 0.8)
        detector = detector.after(log_factors(gaps, [0.3] * 10, [1.0] * 10), look)
        if look == 29:
            assert detector.log_evidence < math.log(100)
    assert detector.log_evidence > math.log(10_000)
    assert 28 <= detector.change <= 32


def test_a_thousand_bad_looks_do_not_overflow_and_a_thousand_good_ones_leave_it_alert() -> None:
    bad, good = log_factors([0.2] * 500, [0.3] * 500, [1.0] * 500), (-5.0,) * len(SHARES)
    detector = EDetector()
    assert detector.log_evidence == -math.inf
    for look in range(1000):
        detector = detector.after(bad, look)
    assert math.isfinite(detector.log_evidence) and detector.change == 0
    detector = EDetector()
    for look in range(1000):
        detector = detector.after(good, look)
    for look in range(1000, 1003):
        detector = detector.after((5.0,) * len(SHARES), look)
    assert detector.log_evidence > 14 and detector.change == 1000


@given(st.lists(st.floats(-5, 15), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_e_bh_chooses_the_largest_set_that_its_definition_allows(
    logs: list[float], alpha: float
) -> None:
    streams = {str(i): log for i, log in enumerate(logs)}
    chosen = e_bh(streams, alpha)

    def allowed(k: int) -> bool:
        return sorted(logs)[-k] >= math.log(len(logs) / (alpha * k))

    assert len(chosen) == max((k for k in range(1, len(logs) + 1) if allowed(k)), default=0)
    rest = [log for name, log in streams.items() if name not in chosen]
    assert all(streams[name] >= other for name in chosen for other in rest)


def test_the_mean_of_evidence() -> None:
    assert log_mean([0.0, math.log(3)]) == pytest.approx(math.log(2))
    assert log_mean([-math.inf, -math.inf]) == -math.inf
