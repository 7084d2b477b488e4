"""Counts are exact however values arrive, and memory does not grow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.histogram import BINS, Histogram


def filled(*blocks: object) -> Histogram:
    histogram = Histogram()
    for block in blocks:
        histogram.add(np.asarray(block, np.float32))
    return histogram


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=20),
        max_size=12,
    )
)
def test_every_value_is_counted_once_in_the_bin_of_its_magnitude(blocks: list[list[float]]) -> None:
    histogram = filled(*blocks)
    values = np.abs(np.array([v for block in blocks for v in block], np.float32))
    assert histogram.counts.sum() + histogram.zeros == len(values)
    assert histogram.greatest == pytest.approx(float(values.max(initial=0.0)))
    assert len(histogram.counts) == BINS
    if histogram.limit:
        # A value may be one bin off where it lies on an edge, never further.
        place = values.astype(np.float64) * (BINS / histogram.limit)
        seen = histogram.counts.cumsum()
        assert (seen >= [(place < edge - 1e-2).sum() for edge in range(1, BINS + 1)]).all()
        assert (seen <= [(place < edge + 1e-2).sum() for edge in range(1, BINS + 1)]).all()


def test_a_louder_block_joins_bins_and_loses_no_count() -> None:
    quiet = filled(np.linspace(0, 1, 1000))
    before = quiet.counts.copy()
    quiet.add(np.array([3.9], np.float32))
    assert quiet.limit == pytest.approx(4.0, rel=1e-5)
    np.testing.assert_array_equal(quiet.counts[: BINS // 4], before.reshape(-1, 4).sum(axis=1))
    assert quiet.counts.sum() == 1001


def test_silence_before_the_first_sound_is_remembered() -> None:
    histogram = filled(np.zeros(50), np.zeros(0), [2.0])
    assert histogram.counts[0] == 50 and histogram.counts.sum() == 51
    assert (histogram.low, histogram.high) == (0.0, 2.0)


def test_the_share_beyond_a_magnitude_is_that_of_the_values() -> None:
    histogram = filled(np.linspace(-1, 1, 100_001))
    for magnitude in (0.0, 0.25, 0.9, 1.0):
        assert histogram.beyond(magnitude) == pytest.approx(1 - magnitude, abs=2e-3)
    assert Histogram().beyond(0.5) == 0.0
