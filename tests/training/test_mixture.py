"""A mixture is a probability distribution, and no worse than the best of what it is made from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edge_runtime.decoding.ngram import open_ngram
from edge_runtime.errors import ConfigError
from tests.training.test_ngram import WORDS, contexts, text
from training.mixture import best_weights, mixed
from training.ngram import END, START, UNKNOWN, NgramLM, estimate

OTHERS = "yak zebra ibex gnu".split()


def other(sentences: int = 100) -> list[str]:
    """Sentences of the same words in reverse, and of some more."""
    return [f"{' '.join(reversed(s.split()))} {OTHERS[n % 4]}" for n, s in enumerate(text(5))][
        :sentences
    ]


@pytest.fixture(scope="module")
def models() -> list[NgramLM]:
    words = {*WORDS, *OTHERS}
    return [estimate(text(1), 3, words), estimate(other(), 3, words)]


@pytest.mark.parametrize("threshold", [0.0, 1e-3])
@pytest.mark.parametrize("vocabulary", [{*WORDS, *OTHERS}, set(WORDS), {*WORDS[3:], "gnu"}])
def test_probabilities_sum_to_one_in_every_context(
    models: list[NgramLM], vocabulary: set[str], threshold: float
) -> None:
    model = mixed(models, [0.7, 0.3], vocabulary)
    if threshold:
        model = model.pruned(threshold)
    for history in contexts(model):
        total = sum(model.probability(history, w) for w in {*vocabulary, END, UNKNOWN})
        assert total == pytest.approx(1.0, abs=1e-9), history
    assert {w for (w,) in model.probabilities[0]} == {*vocabulary, START, END, UNKNOWN}


def test_what_is_listed_is_the_weighted_mean(models: list[NgramLM]) -> None:
    model = mixed(models, [0.7, 0.3], {*WORDS, *OTHERS})
    listed = [ngram for table in model.probabilities for ngram in table if ngram != (START,)]
    assert len(listed) > 200
    for *history, word in listed:
        one, two = (m.probability(tuple(history), word) for m in models)
        assert model.probability(tuple(history), word) == pytest.approx(0.7 * one + 0.3 * two)


def test_weights_follow_the_development_text(models: list[NgramLM]) -> None:
    assert best_weights(models, text(2))[0] > 0.9
    assert best_weights(models, other())[1] > 0.9
    both = best_weights(models, [*text(2, 100), *other()])
    assert sum(both) == pytest.approx(1.0) and 0.2 < both[0] < 0.8
    model = mixed(models, both, {*WORDS, *OTHERS})
    new = [*text(3, 100), *other()]
    assert model.perplexity(new) < min(m.perplexity(new) for m in models)


def test_a_mixture_of_one_is_that_one(models: list[NgramLM]) -> None:
    model = mixed(models[:1], [1.0], {*WORDS, *OTHERS})
    assert model.perplexity(text(2)) == pytest.approx(models[0].perplexity(text(2)))
    assert model.pruned(1e-3).size == models[0].pruned(1e-3).size


def test_kenlm_reads_a_mixture(models: list[NgramLM], tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    model = mixed(models, [0.5, 0.5], set(WORDS)).pruned(1e-4)
    model.write(tmp_path / "lm.arpa")
    read = open_ngram(tmp_path / "lm.arpa")
    for sentence in text(3, 20):
        state, history = read.start(), (START,)
        for word in sentence.split():
            score, state = read.score(state, word)
            assert score == pytest.approx(math.log(model.probability(history, word)), abs=2e-3)
            history = (*history, word)
    assert read.score(read.start(), "yak")[0] is None


def test_development_text_without_a_known_word_is_an_error(models: list[NgramLM]) -> None:
    with pytest.raises(ConfigError, match="need development text"):
        best_weights(models, [])
