"""Block bootstrap, Holm and power, against what they must be whatever the numbers are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_cloud.gate.compare import Blocks, compare, effective_blocks, holm
from autotrain_cloud.gate.power import Assumptions, detectable
from benchmarks.gate import simulate
from edge_runtime.metrics import ErrorCounts


def blocks(words: list[float], champion: list[float], challenger: list[float]) -> Blocks:
    return Blocks(
        names=tuple(map(str, range(len(words)))),
        words=np.array(words, float),
        champion=np.array(champion, float),
        challenger=np.array(challenger, float),
    )


some_blocks = st.lists(
    st.tuples(st.integers(1, 200), st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=12
).map(lambda rows: blocks(*map(list, zip(*rows, strict=True))))  # type: ignore[arg-type]


def test_utterances_are_summed_over_their_speakers() -> None:
    found = Blocks.of(
        [
            ("b", ErrorCounts(hits=9, deletions=1), ErrorCounts(hits=10)),
            ("a", ErrorCounts(hits=4, insertions=2), ErrorCounts(hits=3, substitutions=1)),
            ("b", ErrorCounts(hits=5), ErrorCounts(hits=4, substitutions=1)),
        ]
    )
    assert found.names == ("a", "b")
    assert found.words.tolist() == [4, 15]
    assert found.champion.tolist() == [2, 1] and found.challenger.tolist() == [1, 1]
    assert found.wer == (3 / 19, 2 / 19)


@settings(max_examples=60)
@given(some_blocks, st.sampled_from([0.01, 0.05, 0.2]))
def test_a_test_passes_exactly_where_its_bound_is_below_zero(one: Blocks, level: float) -> None:
    found = compare(one, level=level, draws=999)
    assert found.low <= found.difference <= found.high or math.isinf(found.high)
    # (beyond + 1) / (draws + 1) and a quantile may disagree by one draw
    if found.passed:
        assert found.high <= 1e-12
    if found.high < -1e-12:
        assert found.p < level + 2 / 999


@settings(max_examples=30)
@given(some_blocks)
def test_the_other_way_round_everything_has_the_other_sign(one: Blocks) -> None:
    turned = Blocks(
        names=one.names, words=one.words, champion=one.challenger, challenger=one.champion
    )
    there, back = compare(one, draws=400), compare(turned, draws=400)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == pytest.approx(back.worse_p)
    assert not (there.passed and back.passed)


@settings(max_examples=30)
@given(some_blocks)
def test_a_margin_only_makes_it_easier(one: Blocks) -> None:
    strict, lenient = (compare(one, margin=margin, draws=400) for margin in (0.0, 0.5))
    assert strict.difference == lenient.difference
    if one.champion.all():
        assert lenient.p <= 1.0 and (not strict.passed or lenient.difference < 0)


def test_the_same_errors_are_no_better_and_within_every_margin() -> None:
    same = blocks([100] * 8, [10, 12, 9, 14, 8, 11, 10, 12], [10, 12, 9, 14, 8, 11, 10, 12])
    assert compare(same).p == 1.0
    assert compare(same, margin=0.02).passed
    perfect = blocks([100] * 8, [0] * 8, [0] * 8)
    assert not compare(perfect).passed and compare(perfect, margin=0.02).passed


def test_one_speaker_who_gains_much_is_no_proof() -> None:
    one = blocks([100] * 12, [20] * 12, [20] * 11 + [0])
    found = compare(one)
    assert found.difference < 0 and not found.passed
    all_of_them = blocks([100] * 12, [20] * 12, [18, 19, 17, 18, 16, 19, 18, 17, 18, 19, 18, 17])
    assert compare(all_of_them).passed


def test_the_bound_agrees_with_a_plain_loop_over_resampled_speakers() -> None:
    rng = np.random.default_rng(3)
    one = simulate(rng, 60, 0.15, False, -0.05)
    change, words = one.challenger - one.champion, one.words
    drawn = []
    for _ in range(3000):
        at = rng.integers(60, size=60)
        drawn.append(change[at].sum() / words[at].sum())
    found = compare(one)
    assert found.high == pytest.approx(np.quantile(drawn, 0.95), abs=0.2 * np.std(drawn))
    assert found.low == pytest.approx(np.quantile(drawn, 0.05), abs=0.2 * np.std(drawn))


def test_what_is_no_better_is_seldom_promoted_even_with_few_unequal_speakers() -> None:
    rng = np.random.default_rng(0)
    passed = [compare(simulate(rng, 10, 0.3, True, 0.0), draws=400).passed for _ in range(600)]
    assert np.mean(passed) < 0.085  # 5.1 % in benchmarks/gate.py, and four standard errors


def test_unequal_speakers_count_as_fewer() -> None:
    assert effective_blocks(np.full(10, 100.0)) == 10
    assert effective_blocks(np.array([1000.0, *[1.0] * 9])) == pytest.approx(1, abs=0.05)


def test_a_comparison_needs_two_speakers_and_words() -> None:
    with pytest.raises(ValueError, match="two speakers"):
        compare(blocks([100], [1], [0]))
    with pytest.raises(ValueError, match="two speakers"):
        compare(blocks([0, 0], [1, 0], [0, 0]))


def test_many_speakers_are_resampled_in_parts_with_the_same_result() -> None:
    one = simulate(np.random.default_rng(1), 3000, 0.1, True, -0.05)
    found = compare(one, draws=2000)  # more weights than are held at once
    assert found.passed and found.high < 0


def test_holm_tests_the_smallest_p_hardest_and_stops() -> None:
    levels = holm({"a": 0.04, "b": 0.001, "c": 0.02}, 0.06)
    assert levels == {"b": 0.02, "c": 0.03, "a": 0.06}
    stopped = holm({"a": 0.03, "b": 0.03, "c": 0.001}, 0.05)
    assert stopped["c"] == pytest.approx(0.05 / 3) and 0.0 in (stopped["a"], stopped["b"])
    assert holm({}, 0.05) == {}


def test_more_speakers_detect_less_and_an_earlier_pair_replaces_assumptions() -> None:
    small, large = (detectable(np.full(n, 150.0), np.full(n, 18.0)).detectable for n in (10, 200))
    assert large < small / 3
    certain = detectable(
        np.full(50, 150.0), np.full(50, 18.0), assumptions=Assumptions(churn=0.1, effect=0.0)
    )
    noisy = detectable(np.full(50, 150.0), np.full(50, 18.0))
    assert certain.detectable < noisy.detectable
    pair = simulate(np.random.default_rng(0), 50, 0.15, False, 0.0)
    measured = detectable(pair.words, pair.champion, before=pair)
    assert measured.detectable == pytest.approx(
        detectable(pair.words, pair.champion).detectable, rel=0.4
    )
    assert detectable([100.0], [10.0]).detectable == math.inf
    assert detectable([100.0, 100.0], [0.0, 0.0]).to_json()["detectable"] is None
