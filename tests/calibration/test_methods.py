"""What each method does to shapes whose best range is known."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.histogram import Histogram
from calibration.methods import LEVELS, METHODS


def histogram(values: object) -> Histogram:
    found = Histogram()
    found.add(np.asarray(values, np.float32))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_range_is_positive_and_never_beyond_what_was_seen(method: str) -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=5000), rng.exponential(size=5000), [0.5], [1e-6, 1e6]):
        seen = histogram(values)
        assert 0 < METHODS[method](seen) <= seen.greatest * (1 + 1e-6)
    assert METHODS[method](histogram(np.zeros(10))) == 0.0


def test_percentiles_cut_the_share_they_say() -> None:
    values = np.abs(np.random.default_rng(1).normal(size=200_000))
    seen = histogram(values)
    for name, share in (("p99.9", 1e-3), ("p99.99", 1e-4)):
        assert (values > METHODS[name](seen)).mean() <= share
        assert (values > METHODS[name](seen) * 0.95).mean() > share
    assert METHODS["p99.9"](seen) < METHODS["p99.99"](seen) <= METHODS["max"](seen)


def test_the_least_squared_error_is_the_least() -> None:
    rng = np.random.default_rng(2)
    values = rng.laplace(size=100_000)

    def error(limit: float) -> float:
        step = limit / LEVELS
        rounded = np.clip(np.round(values / step), -LEVELS, LEVELS) * step
        return float(((values - rounded) ** 2).mean())

    found = METHODS["mse"](histogram(values))
    assert error(found) <= 1.03 * min(error(limit) for limit in np.linspace(1, 14, 200))


def test_a_lonely_outlier_is_cut_by_all_but_the_greatest() -> None:
    values = np.append(np.random.default_rng(3).normal(size=100_000), 100.0)
    seen = histogram(values)
    assert METHODS["max"](seen) == pytest.approx(100.0)
    for name in ("p99.9", "p99.99", "kl"):
        assert METHODS[name](seen) < 10.0, name
