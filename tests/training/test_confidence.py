"""A confidence map is judged by recordings that it was not fitted on, in any version of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_runtime.confidence import FEATURES, LEXICAL, ConfidenceMap, WordFeatures
from edge_runtime.confidence_fit import fit_confidence
from edge_runtime.errors import ConfigError
from training import confidence
from training.confidence import JudgedWords, fit

RECORDINGS, VERSIONS, WORDS = 20, 4, 6


def _judged(seed: int = 0) -> list[JudgedWords]:
    """Words of which the known ones are right nine times in ten; `chars` says whose they are."""
    rng = np.random.default_rng(seed)
    found = []
    for recording in range(RECORDINGS):
        for _ in range(VERSIONS):
            features, right = [], []
            for _ in range(WORDS):
                known = float(rng.random() < 0.6)
                values = dict(zip(FEATURES, rng.normal(size=len(FEATURES)), strict=True))
                features.append(WordFeatures(**{**values, "known": known, "chars": recording}))
                right.append(bool(rng.random() < (0.9 if known else 0.1)))
            found.append(JudgedWords(f"{recording}.wav", tuple(features), tuple(right)))
    return found


def test_no_version_of_a_recording_judges_a_map_that_saw_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[set[float]] = []

    def spy(words: Sequence[WordFeatures], right: Sequence[bool], **options: Any) -> ConfidenceMap:
        seen.append({word.chars for word in words})
        return fit_confidence(words, right, **options)

    monkeypatch.setattr(confidence, "fit_confidence", spy)
    found = fit(_judged(), fitted_on="noise")
    trial, whole = seen
    assert len(whole) == RECORDINGS and len(trial) == RECORDINGS * 4 // 5
    assert found.metrics["words"] == (RECORDINGS - len(trial)) * VERSIONS * WORDS


def test_a_lexicon_counts_where_there_is_one() -> None:
    plain, lexical = (fit(_judged(), lexicon=with_it, fitted_on="") for with_it in (False, True))
    assert plain.lexical == () and lexical.lexical == LEXICAL
    assert lexical.metrics["auroc"] > 0.85 > 0.7 > plain.metrics["auroc"]


def test_words_that_are_all_right_fit_no_map() -> None:
    right = [JudgedWords(one.recording, one.features, (True,) * WORDS) for one in _judged()]
    with pytest.raises(ConfigError, match="right words and wrong ones"):
        fit(right, fitted_on="")
