"""The fit finds the map it should, and only from data that can have one."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.confidence import FEATURES, ConfidenceMap, WordFeatures
from edge_runtime.confidence_fit import DEFAULT_FEATURES, fit_confidence
from edge_runtime.confidence_metrics import auroc, ece, nce


def _words(count: int, seed: int = 0) -> tuple[list[WordFeatures], np.ndarray]:
    """Words whose chance of being right depends on two of the features, and how."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, len(FEATURES)))
    z = 1.0 + 2.0 * x[:, FEATURES.index("margin_min")] - 1.0 * x[:, FEATURES.index("tokens")]
    right = rng.random(count) < 1 / (1 + np.exp(-z))
    return [WordFeatures(*row) for row in x.tolist()], right


def test_the_fit_finds_the_weights_the_data_were_made_with() -> None:
    words, right = _words(20_000)
    fitted = fit_confidence(words, right.tolist(), features=("margin_min", "tokens", "chars"))
    weights = np.array(fitted.weights) / np.array(fitted.scale)
    assert weights == pytest.approx([2.0, -1.0, 0.0], abs=0.1)
    origin = WordFeatures(*[0.0] * len(FEATURES))
    assert fitted(origin) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.02)


def test_a_fitted_map_is_calibrated_on_words_it_has_not_seen() -> None:
    words, right = _words(5_000)
    fitted = fit_confidence(words, right.tolist())
    new_words, new_right = _words(5_000, seed=1)
    confidence = [fitted(word) for word in new_words]
    assert ece(confidence, new_right) < 0.03
    assert auroc(confidence, new_right) > 0.85
    assert nce(confidence, new_right) > 0.3


def test_the_fit_is_at_the_minimum_of_the_penalised_likelihood() -> None:
    words, right = _words(300)
    fitted = fit_confidence(words, right.tolist(), penalty=3.0)

    def loss(weights: np.ndarray, bias: float) -> float:
        moved = ConfidenceMap(
            features=fitted.features,
            mean=fitted.mean,
            scale=fitted.scale,
            weights=tuple(weights.tolist()),
            bias=bias,
        )
        p = np.array([moved(word) for word in words])
        likelihood = np.where(right, np.log(p), np.log1p(-p)).sum()
        return float(-likelihood + 1.5 * (weights**2).sum())

    weights = np.array(fitted.weights)
    least = loss(weights, fitted.bias)
    for k in range(len(weights)):
        for step in (-0.01, 0.01):
            moved = weights.copy()
            moved[k] += step
            assert loss(moved, fitted.bias) > least
    assert min(loss(weights, fitted.bias + step) for step in (-0.01, 0.01)) > least


def test_separable_and_constant_data_still_give_a_finite_map() -> None:
    rng = np.random.default_rng(0)
    rows = np.ones((50, len(FEATURES)))
    rows[:, FEATURES.index("margin_min")] = rng.normal(size=50)
    words = [WordFeatures(*row) for row in rows.tolist()]
    right = [word.margin_min > 0 for word in words]
    fitted = fit_confidence(words, right, penalty=1e-6)
    assert all((fitted(word) > 0.5) == label for word, label in zip(words, right, strict=True))


def test_the_map_records_what_it_was_fitted_on() -> None:
    words, right = _words(100)
    fitted = fit_confidence(words, right.tolist(), fitted_on="dev", metrics={"ece": 0.01})
    assert fitted.features == DEFAULT_FEATURES
    assert ConfidenceMap.parse(fitted.to_json()) == fitted
    assert (fitted.fitted_on, fitted.metrics) == ("dev", {"ece": 0.01})


def test_labels_without_errors_have_no_map() -> None:
    words, _ = _words(10)
    with pytest.raises(ValueError, match="right words and wrong ones"):
        fit_confidence(words, [True] * 10)
    with pytest.raises(ValueError, match="10 words but 9 labels"):
        fit_confidence(words, [True] * 9)
