"""Every measure against a value worked out by hand and against its definition, word by word."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.confidence_metrics import auc_nt, auroc, brier, ece, nce, summary

CONFIDENCE = [0.9, 0.8, 0.7, 0.6]
RIGHT = [1, 1, 0, 1]

# Few distinct values, so that ties are common.
SCORED = st.lists(st.tuples(st.integers(0, 10).map(lambda k: k / 10), st.booleans()), max_size=40)


def test_auroc_by_hand() -> None:
    assert auroc(CONFIDENCE, RIGHT) == pytest.approx(2 / 3)  # 0.9 and 0.8 beat 0.7, 0.6 does not
    assert auroc([0.5, 0.5], [1, 0]) == 0.5
    assert auroc([0.2, 0.9], [0, 1]) == 1.0


@given(SCORED)
@settings(deadline=None)
def test_auroc_is_the_share_of_pairs_in_the_right_order(scored: list[tuple[float, bool]]) -> None:
    pairs = [
        (a > b) + (a == b) / 2
        for (a, right_a), (b, right_b) in itertools.product(scored, repeat=2)
        if right_a and not right_b
    ]
    value = auroc([c for c, _ in scored], [r for _, r in scored])
    assert value == pytest.approx(sum(pairs) / len(pairs)) if pairs else math.isnan(value)


def test_auc_nt_by_hand() -> None:
    # From the least confident: right, wrong (precision 1/2 at recall 1).
    assert auc_nt(CONFIDENCE, RIGHT) == pytest.approx(1 / 2)
    assert auc_nt([0.1, 0.9], [0, 1]) == 1.0
    # wrong (1/1), right, wrong (2/3)
    assert auc_nt([0.1, 0.2, 0.3], [0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)


@given(SCORED)
@settings(deadline=None)
def test_auc_nt_is_the_mean_precision_at_the_errors(scored: list[tuple[float, bool]]) -> None:
    precisions = []
    for confidence, right in scored:
        if not right:
            flagged = [r for c, r in scored if c <= confidence]
            precisions.append(flagged.count(False) / len(flagged))
    value = auc_nt([c for c, _ in scored], [r for _, r in scored])
    if precisions:
        assert value == pytest.approx(sum(precisions) / len(precisions))
    else:
        assert math.isnan(value)


def test_nce_by_hand() -> None:
    # Always saying the share of right words explains nothing.
    assert nce([0.75] * 4, RIGHT) == pytest.approx(0.0)
    assert nce([1.0, 1.0, 0.0, 1.0], RIGHT) == pytest.approx(1.0, abs=1e-9)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    cross = -(math.log(0.9) + math.log(0.8) + math.log(0.3) + math.log(0.6)) / 4
    assert nce(CONFIDENCE, RIGHT) == pytest.approx((entropy - cross) / entropy)
    assert nce([0.01] * 4, RIGHT) < 0


def test_brier_by_hand() -> None:
    assert brier(CONFIDENCE, RIGHT) == pytest.approx((0.01 + 0.04 + 0.49 + 0.16) / 4)


def test_ece_by_hand() -> None:
    # Bins {0.6, 0.7} with 1 of 2 right and {0.8, 0.9} with 2 of 2.
    assert ece(CONFIDENCE, RIGHT, bins=2) == pytest.approx((0.15 + 0.15) / 2)
    assert ece(CONFIDENCE, RIGHT, bins=1) == pytest.approx(0.0)
    # More bins than words: every word is its own bin.
    assert ece(CONFIDENCE, RIGHT) == pytest.approx((0.1 + 0.2 + 0.7 + 0.4) / 4)


@given(SCORED.filter(bool), st.integers(1, 20))
@settings(deadline=None)
def test_ece_follows_its_definition_bin_by_bin(scored: list[tuple[float, bool]], bins: int) -> None:
    # A word's outcome is the mean over the words of its confidence, so ties have no order.
    words = sorted(scored)
    outcomes = []
    for confidence, _ in words:
        tied = [right for c, right in words if c == confidence]
        outcomes.append((confidence, sum(tied) / len(tied)))
    size, longer = divmod(len(words), bins)
    total, first = 0.0, 0
    for k in range(bins):
        stop = first + size + (k < longer)
        part = outcomes[first:stop]
        total += abs(sum(c for c, _ in part) - sum(y for _, y in part))
        first = stop
    value = ece([c for c, _ in scored], [r for _, r in scored], bins=bins)
    assert value == pytest.approx(total / len(words))


def test_calibrated_confidences_have_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    right = rng.random(200_000) < p
    assert ece(p, right) < 0.005
    assert ece(p**2, right) > 0.1
    assert auroc(p, right) == pytest.approx(auroc(p**2, right))  # ranking alone sees no difference


@given(SCORED, st.randoms())
@settings(deadline=None)
def test_no_measure_depends_on_the_order_of_the_words(
    scored: list[tuple[float, bool]], random: Random
) -> None:
    shuffled = list(scored)
    random.shuffle(shuffled)
    first = summary([c for c, _ in scored], [r for _, r in scored])
    second = summary([c for c, _ in shuffled], [r for _, r in shuffled])
    assert first == pytest.approx(second, nan_ok=True)


@pytest.mark.parametrize("measure", [auroc, auc_nt, nce, ece, brier])
def test_what_cannot_be_measured_is_nan(measure: Callable[..., float]) -> None:
    assert math.isnan(measure([], []))
    if measure in (auroc, nce):
        assert math.isnan(measure([0.5, 0.6], [1, 1]))
        assert math.isnan(measure([0.5, 0.6], [0, 0]))


@pytest.mark.parametrize("measure", [auroc, auc_nt, nce, ece, brier])
@pytest.mark.parametrize(
    ("confidence", "right", "complaint"),
    [
        ([0.5], [1, 0], "equally long"),
        ([1.5], [1], "within 0..1"),
        ([math.nan], [1], "within 0..1"),
    ],
)
def test_nonsense_is_refused(
    measure: Callable[..., float], confidence: list[float], right: list[int], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        measure(confidence, right)
