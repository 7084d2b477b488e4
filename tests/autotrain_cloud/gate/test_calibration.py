"""Confidences are compared by what they are worth, not by how easy the errors were to find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autotrain_cloud.gate.calibration import MEASURES, Worsening, worsenings
from autotrain_cloud.gate.evaluate import Outcome
from autotrain_cloud.gate.settings import Bounds
from edge_runtime import confidence_metrics

SPEAKERS, EACH, WORDS = 8, 10, 30
ALLOWED = {name: getattr(Bounds(), name) for name in MEASURES}


def outcomes(words_of: Callable[[np.random.Generator], tuple[float, bool]]) -> list[Outcome]:
    """Recordings of words, each with its confidence and whether it is right."""
    found = []
    for number in range(SPEAKERS * EACH):
        rng = np.random.default_rng(number)
        words = tuple(("la", *words_of(rng)) for _ in range(WORDS))
        wrong = sum(not right for _, _, right in words)
        found.append(
            Outcome(
                text="la " * WORDS,
                hits=WORDS - wrong,
                substitutions=wrong,
                deletions=0,
                insertions=0,
                confidence=0.8,
                words=words,
                audio_s=6.0,
                cpu_s=0.06,
            )
        )
    return found


def compared(champion: list[Outcome], challenger: list[Outcome]) -> dict[str, Worsening]:
    blocks = [str(number // EACH) for number in range(SPEAKERS * EACH)]
    return worsenings(blocks, champion, challenger, ALLOWED)


def is_worse(found: dict[str, Worsening]) -> set[str]:
    return {name for name, one in found.items() if one.value > ALLOWED[name] and one.low > 0}


def with_easy_errors(rng: np.random.Generator) -> tuple[float, bool]:
    """Three words in ten are none, and known to be none; the others as in `without_them`."""
    return (0.02, False) if rng.random() < 0.3 else without_them(rng)


def without_them(rng: np.random.Generator) -> tuple[float, bool]:
    """Every second word is hard; confidences are what they say."""
    sure = 0.95 if rng.random() < 0.5 else 0.6
    return sure, bool(rng.random() < sure)


def of_no_use(rng: np.random.Generator) -> tuple[float, bool]:
    """Always as sure as it is right in the mean."""
    return 0.56, bool(rng.random() < 0.56)


def auroc(some: list[Outcome]) -> float:
    words = [word for one in some for word in one.words]
    return confidence_metrics.auroc([sure for _, sure, _ in words], [right for *_, right in words])


def test_a_model_that_no_longer_makes_its_easy_errors_is_not_worse_for_it() -> None:
    champion, challenger = outcomes(with_easy_errors), outcomes(without_them)
    assert auroc(challenger) < auroc(champion) - 0.15  # what is left is harder to find
    assert is_worse(compared(champion, challenger)) == set()


def test_confidences_that_tell_no_word_from_another_are_worse() -> None:
    found = compared(outcomes(with_easy_errors), outcomes(of_no_use))
    assert is_worse(found) == {"nce"}
    assert found["nce"].challenger == pytest.approx(0.0, abs=0.01)


def test_being_surer_than_right_is_worse() -> None:
    def surer(rng: np.random.Generator) -> tuple[float, bool]:
        sure, right = without_them(rng)
        return min(1.0, sure + 0.3), right

    found = compared(outcomes(without_them), outcomes(surer))
    assert {"ece", "overconfidence"} <= is_worse(found)
    assert found["overconfidence"].value == pytest.approx(0.5 * 0.05 + 0.5 * 0.3, abs=0.03)


def test_the_same_confidences_are_no_worse_and_are_not_resampled() -> None:
    found = compared(outcomes(without_them), outcomes(without_them))
    assert all(one.value == 0 and np.isnan(one.low) for one in found.values())
