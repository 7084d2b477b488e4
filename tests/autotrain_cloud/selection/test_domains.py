"""Domains by example sentences: few of them, and a background that holds the domain, mislead."""

from __future__ import annotations

import random

import numpy as np
import pytest

from autotrain_cloud.selection.domains import Chances, probabilities

SAILING = "ship sail wind harbour anchor wave".split()
COOKING = "boil fry bake soup bread onion".split()
CLOCKS = "spring wheel hour pendulum tick brass".split()


def sentences(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["the " + " ".join(rng.choices(words, k=6)) for _ in range(count)]


def invented(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        "".join(rng.choice(kind) for kind in ["bdfgklmnprstv", "aeiou"] * 3) for _ in range(count)
    ]


def test_words_said_beside_those_of_the_examples_become_words_of_the_domain() -> None:
    known, unknown, elsewhere = invented(30, 1), invented(30, 2), invented(300, 3)
    mixed, new = sentences(known + unknown, 60, 4), sentences(unknown, 20, 5)
    texts = [*mixed, *new, *sentences(elsewhere, 400, 6)]
    found = probabilities(texts, {"sea": sentences(known, 40, 7)})["sea"]
    # To a discriminator that takes all of the background at its word they are the least likely.
    assert np.median(found.of[60:80]) > np.quantile(found.of[80:], 0.95)
    assert np.median(found.of[:60]) > np.median(found.of[60:80])


@pytest.mark.parametrize("seed", range(4))
def test_examples_that_halves_contradict_are_still_likelier_than_what_is_unlike_them(
    seed: int,
) -> None:
    """Every other sentence is of another subject, and the background is mostly of the second."""
    one, other = sentences(COOKING, 10, seed), sentences(CLOCKS, 10, seed + 10)
    examples = [sentence for pair in zip(one, other, strict=True) for sentence in pair]
    texts = [*one, *sentences(CLOCKS, 200, seed + 20), *sentences(SAILING, 200, seed + 30)]
    found = probabilities(texts, {"both": examples})["both"]
    assert found.of[:10].min() > np.median(found.of[210:])


def test_a_typical_example_has_all_of_its_odds_and_likelier_texts_have_more() -> None:
    found = Chances(np.array([0.1, 0.5, 0.8, 0.9]), 0.8)
    assert found.parts[2] == pytest.approx(1) and found.parts[1] == pytest.approx(0.25)
    assert (np.diff(found.parts) > 0).all()
    assert np.isfinite(Chances(np.array([0.0, 1.0]), 1.0).parts).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_handful_of_texts_is_judged_too(count: int) -> None:
    found = probabilities(sentences(COOKING, count, 1), {"sea": sentences(SAILING, 20, 2)})["sea"]
    assert found.of.shape == (count,) and ((found.of >= 0) & (found.of <= 1)).all()


def test_examples_that_share_no_piece_of_a_word_with_any_text_are_no_error() -> None:
    rng = random.Random(1)
    examples = [
        " ".join("".join(rng.choices("gjmqvwxz", k=4)) for _ in range(5)) for _ in range(20)
    ]
    found = probabilities(sentences(COOKING, 40, 2), {"sea": examples})["sea"]
    assert ((found.of >= 0) & (found.of <= 1)).all() and 0 < found.typical < 1
