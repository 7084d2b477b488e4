"""The language model is a probability distribution, pruned or not, and KenLM reads the same one."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from edge_runtime.decoding.ngram import open_ngram
from edge_runtime.errors import ConfigError
from training.ngram import END, START, UNKNOWN, NgramLM, estimate

WORDS = "the a cat dog sat ran on under mat house red old and then again".split()


def text(seed: int = 0, sentences: int = 400) -> list[str]:
    """A bigram language of sorts: some pairs are much more frequent than others."""
    rng = random.Random(seed)
    made = []
    for _ in range(sentences):
        words = [rng.choice(WORDS)]
        for _ in range(rng.randrange(1, 9)):
            after = (WORDS.index(words[-1]) * 3 + rng.choice((1, 1, 1, 2, 5))) % len(WORDS)
            words.append(WORDS[after])
        made.append(" ".join(words))
    return made


def contexts(model: NgramLM) -> list[tuple[str, ...]]:
    seen = {(START, "cat"), ("never", "heard"), ("the",), ()}
    for table in model.probabilities[1:]:
        seen |= {ngram[:-1] for ngram in table}
    return sorted(seen)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("threshold", [0.0, 1e-4, 1e-3, 1.0])
def test_probabilities_sum_to_one_in_every_context(order: int, threshold: float) -> None:
    model = estimate(text(), order)
    if threshold:
        model = model.pruned(threshold)
    outcomes = [*WORDS, END, UNKNOWN]
    for history in contexts(model):
        total = sum(model.probability(history, word) for word in outcomes)
        assert total == pytest.approx(1.0, abs=1e-9), history


def test_a_longer_memory_predicts_better_and_pruning_costs_something() -> None:
    model = {order: estimate(text(1), order) for order in (1, 2)}
    new = text(2)
    assert model[2].perplexity(new) < 0.6 * model[1].perplexity(new)
    whole = estimate(text(1), 3)
    small, smaller = whole.pruned(2e-4), whole.pruned(2e-3)
    assert whole.size > small.size > smaller.size
    assert small.perplexity(text(1)) < smaller.perplexity(text(1))


def test_pruning_everything_leaves_the_unigrams() -> None:
    whole = estimate(text(), 3)
    assert [len(table) for table in whole.pruned(math.inf).probabilities] == [
        len(whole.probabilities[0]), 0, 0,
    ]  # fmt: skip


def test_the_context_of_an_ngram_that_is_kept_is_kept() -> None:
    model = estimate(text(), 4).pruned(5e-4)
    for shorter, longer in zip(model.probabilities, model.probabilities[1:], strict=False):
        assert all(ngram[:-1] in shorter for ngram in longer)


@pytest.mark.parametrize("threshold", [0.0, 5e-4])
def test_kenlm_scores_as_the_estimate_does(tmp_path: Path, threshold: float) -> None:
    pytest.importorskip("kenlm")
    model = estimate(text(), 3)
    if threshold:
        model = model.pruned(threshold)
    model.write(tmp_path / "lm.arpa")
    read = open_ngram(tmp_path / "lm.arpa")
    for sentence in text(3, 20):
        state, history = read.start(), (START,)
        for word in sentence.split():
            score, state = read.score(state, word)
            assert score == pytest.approx(math.log(model.probability(history, word)), abs=2e-3)
            history = (*history, word)
        assert read.end(state) == pytest.approx(math.log(model.probability(history, END)), abs=2e-3)


def test_a_word_never_seen_is_unlikely_and_not_impossible() -> None:
    model = estimate(text(), 3)
    assert (
        0
        < model.probability((START,), "zebra")
        < min(model.probability((START,), word) for word in WORDS)
    )


@pytest.mark.parametrize("order", [1, 3])
def test_words_of_a_list_are_possible_and_probabilities_still_sum_to_one(order: int) -> None:
    listed = ["zebra", "yak", "the"]
    model = estimate(text(), order, listed).pruned(1e-4)
    assert (("zebra",) in model.probabilities[0]) and ("yak",) in model.probabilities[0]
    for history in contexts(model):
        total = sum(model.probability(history, w) for w in {*WORDS, *listed, END, UNKNOWN})
        assert total == pytest.approx(1.0, abs=1e-9), history
    without = estimate(text(), order)
    assert model.probability((), "the") == pytest.approx(without.probability((), "the"), rel=0.1)
    assert 0 < model.probability((), "zebra") < min(model.probability((), w) for w in WORDS)


def test_no_text_and_odd_orders_are_errors() -> None:
    with pytest.raises(ConfigError, match="not one word"):
        estimate(["", " "])
    with pytest.raises(ConfigError, match="1 to 6, not 0"):
        estimate(text(), 0)
