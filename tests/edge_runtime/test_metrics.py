"""Error rates against brute force and against jiwer."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.metrics import (
    ErrorCounts,
    align,
    char_errors,
    corpus_char_errors,
    corpus_rate,
    corpus_word_errors,
    paired_difference,
    word_errors,
)

sentences = st.lists(st.sampled_from(["a", "b", "c", "dd", "it's"]), max_size=12).map(" ".join)


def best(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int]:
    """(fewest edits, most hits with that many), by the definition."""

    @functools.cache
    def score(i: int, j: int) -> tuple[int, int]:
        if i == 0 or j == 0:
            return i + j, 0
        hit = reference[i - 1] == hypothesis[j - 1]
        edits, hits = score(i - 1, j - 1)
        options = [(edits + (not hit), hits - hit)]
        for edits, hits in (score(i - 1, j), score(i, j - 1)):
            options.append((edits + 1, hits))
        return min(options)

    edits, hits = score(len(reference), len(hypothesis))
    return edits, -hits


@given(sentences, sentences)
def test_the_alignment_has_the_fewest_edits_and_then_the_most_hits(ref: str, hyp: str) -> None:
    counts = word_errors(ref, hyp)
    assert (counts.errors, counts.hits) == best(ref.split(), hyp.split())


@given(sentences, sentences)
def test_an_alignment_holds_every_token_of_both_sides_in_order(ref: str, hyp: str) -> None:
    alignment = align(ref.split(), hyp.split())
    assert [r for r, _ in alignment.pairs if r is not None] == ref.split()
    assert [h for _, h in alignment.pairs if h is not None] == hyp.split()
    assert (None, None) not in alignment.pairs
    counts = alignment.counts
    assert counts.reference_length == len(ref.split())
    assert counts.hits + counts.substitutions + counts.insertions == len(hyp.split())


@given(sentences.filter(bool), sentences)
def test_rates_equal_those_of_jiwer(ref: str, hyp: str) -> None:
    assert word_errors(ref, hyp).rate == pytest.approx(jiwer.wer(ref, hyp))
    assert char_errors(ref, hyp).rate == pytest.approx(jiwer.cer(ref, hyp))


@given(st.lists(st.tuples(sentences.filter(bool), sentences), min_size=1, max_size=6))
def test_a_corpus_is_pooled_as_jiwer_pools_it(texts: list[tuple[str, str]]) -> None:
    refs, hyps = (list(side) for side in zip(*texts, strict=True))
    assert corpus_word_errors(texts).rate == pytest.approx(jiwer.wer(refs, hyps))
    assert corpus_char_errors(texts).rate == pytest.approx(jiwer.cer(refs, hyps))


def test_the_four_counts_of_a_known_pair() -> None:
    counts = word_errors("the cat sat on the mat", "the cat sit the old mat")
    assert counts == ErrorCounts(hits=4, substitutions=1, deletions=1, insertions=1)
    assert counts.rate == pytest.approx(3 / 6)
    assert align(["a", "b"], ["b", "c"]).pairs == (("a", None), ("b", "b"), (None, "c"))


def test_nothing_against_nothing_is_no_error_and_words_out_of_nowhere_are_infinitely_many() -> None:
    assert word_errors("", "").rate == 0
    assert word_errors("  ", "\n").rate == 0
    assert math.isinf(word_errors("", "uh").rate)
    assert word_errors("uh", "").rate == 1


def test_a_difference_of_pairs_is_that_of_the_rates_and_its_interval_knows_the_pairs() -> None:
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 9, 200)  # errors that both make
    before = [ErrorCounts(10 - n, n) for n in map(int, hard)]
    after = [ErrorCounts(10 - n - 1, n + 1) for n in map(int, hard)]
    found = paired_difference(list(zip(before, after, strict=True)))
    assert found.value == pytest.approx(corpus_rate(after) - corpus_rate(before))
    # One more error in every recording, however hard: nothing is left to chance.
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
    shuffled = [after[i] for i in rng.permutation(200)]
    apart = paired_difference(list(zip(before, shuffled, strict=True)))
    assert apart.value == pytest.approx(found.value) and apart.high - apart.low > 0.05


def test_a_difference_without_any_reference_is_not_a_number() -> None:
    assert math.isnan(paired_difference([(ErrorCounts(), ErrorCounts(insertions=1))]).value)
    assert math.isnan(paired_difference([]).low)
