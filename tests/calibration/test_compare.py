"""Differences are zero between equals, and the fewest layers are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.compare import compare, divergences, least_kept

BLANK = 3


def distributions(ids: list[int], sure: float = 0.97) -> np.ndarray:
    rest = np.full((len(ids), BLANK + 1), (1 - sure) / BLANK, np.float32)
    rest[np.arange(len(ids)), ids] = sure
    return np.log(rest)


def test_equals_do_not_differ() -> None:
    one = [distributions([0, 0, 3, 1]), distributions([2])]
    found = compare(one, one, BLANK)
    assert (found.divergence, found.frames, found.tokens, found.snr_db) == (0.0, 0.0, 0.0, 200.0)


def test_the_mean_over_sounds_is_the_divergence_of_all_frames() -> None:
    before = [distributions([0, 3, 1]), distributions([2] * 9)]
    after = [distributions([0, 3, 1], sure=0.9), distributions([2] * 9, sure=0.5)]
    each = divergences(before, after)
    assert 0 < each[0] < each[1]
    assert each.mean() == pytest.approx(compare(before, after, BLANK).divergence)


def test_a_changed_token_is_one_edit_and_a_longer_one_is_none() -> None:
    before = [distributions([0, 3, 1, 3, 2])]
    changed = compare(before, [distributions([0, 3, 2, 3, 2])], BLANK)
    assert changed.frames == pytest.approx(1 / 5) and changed.tokens == pytest.approx(1 / 3)
    longer = compare(before, [distributions([0, 0, 1, 3, 2])], BLANK)
    assert longer.frames == pytest.approx(1 / 5) and longer.tokens == 0.0
    assert longer.divergence > 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 12))
def test_the_most_sensitive_layers_are_kept_and_no_more(costs: list[float], budget: float) -> None:
    layers = {f"layer {n}": cost for n, cost in enumerate(costs)}

    def fits(kept: list[str]) -> bool:
        return sum(cost for name, cost in layers.items() if name not in kept) <= budget

    kept = least_kept(layers, layers.__getitem__, fits)
    assert fits(kept)
    assert not kept or not fits(kept[:-1])
    assert kept == sorted(layers, key=layers.__getitem__, reverse=True)[: len(kept)]
