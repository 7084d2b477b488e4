"""Tuning ends at the best weights along both axes, and asks for nothing twice."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from edge_runtime.decoding import BeamConfig
from edge_runtime.manifest import Utterance
from tests.edge_runtime.tones import say, write_tone_bundle
from training.ngram import estimate
from training.tune import GRID, START, Weights, errors, score, search, tune


def test_the_search_finds_the_bottom_of_a_bowl_and_measures_nothing_twice() -> None:
    asked: list[Weights] = []

    def rate(weights: Weights) -> float:
        asked.append(weights)
        lm, bonus, unknown, letter, blank = weights
        bowl = (lm - 0.6) ** 2 + 0.1 * (bonus + 0.5) ** 2 + 0.1 * lm * bonus
        return bowl + abs(unknown + 16) + abs(letter + 1.5) + (blank - 1.5) ** 2 + 0.1 * blank * lm

    best, tried = search(rate, START)
    assert len(asked) == len(set(asked)) < math.prod(map(len, GRID.values()))
    assert tried[best] == min(tried.values())
    for axis, values in enumerate(GRID.values()):
        for value in values:
            assert rate((*best[:axis], value, *best[axis + 1 :])) >= tried[best]


def test_where_nothing_matters_the_start_stays() -> None:
    assert search(lambda _: 0.5, START)[0] == START


def test_a_bundle_is_tuned_by_what_its_search_gets_wrong(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    words = ["t20", "t35", "t50"]
    model = estimate([" ".join(words)] * 5, 2)
    model.write(tmp_path / "lm.arpa")
    bundle = write_tone_bundle(tmp_path / "bundle", lm=(tmp_path / "lm.arpa").read_text())
    soundfile.write(tmp_path / "a.wav", say(" ".join(words)), 16_000)
    spoken = Utterance(audio_filepath=tmp_path / "a.wav", duration=2.0, text=" ".join(words))
    asked: dict[Weights, float] = {}
    best, tried = tune(bundle.path, {"set": [spoken]}, progress=asked.__setitem__)
    assert asked == tried and tried[best] == 0.0
    scored, vocabulary = score(bundle, [spoken]), bundle.vocabulary()
    untuned = BeamConfig(**{**bundle.decoding(), "word_bonus": 20.0})
    tuned = replace(untuned, **dict(zip(GRID, best, strict=True)))
    assert errors(scored, vocabulary, untuned).errors > 0
    assert errors(scored, vocabulary, tuned).errors == 0
