"""How good are confidences: do they rank right words above wrong ones, and are they probabilities?

All functions take `confidence` [N] in 0..1 and `right` [N] (1: the word was right). Ties count as
ties: no result depends on the order of equally confident words. Where a measure does not exist, as
a ranking of right words only, it is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
_EPSILON = 1e-12

Array = NDArray[np.float64]


def auroc(confidence: ArrayLike, right: ArrayLike) -> float:
    """The probability that a right word is more confident than a wrong one (ties: one half)."""
    values, counts, hits = _ties(confidence, right)
    misses = counts - hits
    pairs = hits.sum() * misses.sum()
    if not len(values) or not pairs:
        return math.nan
    below = np.cumsum(misses) - misses  # wrong words of lower confidence
    return float((hits * (below + misses / 2)).sum() / pairs)


def auc_nt(confidence: ArrayLike, right: ArrayLike) -> float:
    """Average precision of finding the wrong words by low confidence.

    The area under precision and recall with errors as the positives: unlike the AUROC it does not
    look good merely because almost every word is right (arXiv:2212.08703).
    """
    _, counts, hits = _ties(confidence, right)
    misses = counts - hits
    if not misses.sum():
        return math.nan
    precision = np.cumsum(misses) / np.cumsum(counts)
    return float((precision * misses).sum() / misses.sum())


def nce(confidence: ArrayLike, right: ArrayLike) -> float:
    """Normalised cross entropy: the share of the labels' entropy that the confidences explain.

    1: perfect; 0: no better than knowing the share of right words; negative: worse. Confidences are
    kept 1e-12 away from 0 and 1.
    """
    p, y = _pair(confidence, right)
    share = y.mean() if len(y) else 0.0
    if not 0 < share < 1:
        return math.nan
    p = np.clip(p, _EPSILON, 1 - _EPSILON)
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    cross = -float(np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))
    return (entropy - cross) / entropy


def ece(confidence: ArrayLike, right: ArrayLike, *, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and share of right words over bins.

    Bins of equal mass (to within one word): bins of equal width would put nearly all words of a
    good recogniser into the last one.
    """
    values, counts, hits = _ties(confidence, right)
    if not len(values):
        return math.nan
    p = np.repeat(values, counts)  # ascending
    y = np.repeat(hits / counts, counts)  # equal confidences share their outcomes
    parts = zip(np.array_split(p, bins), np.array_split(y, bins), strict=True)
    return float(sum(abs(a.sum() - b.sum()) for a, b in parts) / len(p))


def brier(confidence: ArrayLike, right: ArrayLike) -> float:
    """Mean squared distance of the confidences to the labels."""
    p, y = _pair(confidence, right)
    return float(np.mean((p - y) ** 2)) if len(p) else math.nan


def summary(confidence: Sequence[float], right: Sequence[bool]) -> dict[str, float]:
    """All of them by name, with the number of words and the share of right ones."""
    _, y = _pair(confidence, right)
    return {
        "words": len(y),
        "right": float(y.mean()) if len(y) else math.nan,
        "auroc": auroc(confidence, right),
        "auc_nt": auc_nt(confidence, right),
        "nce": nce(confidence, right),
        "ece": ece(confidence, right),
        "brier": brier(confidence, right),
    }


def _pair(confidence: ArrayLike, right: ArrayLike) -> tuple[Array, Array]:
    p = np.asarray(confidence, np.float64)
    y = np.asarray(right, np.float64)
    if p.ndim != 1 or p.shape != y.shape:
        raise ValueError(f"confidence {p.shape} and right {y.shape} must be equally long vectors")
    if len(p) and not (p.min() >= 0 and p.max() <= 1):  # false for NaN too
        raise ValueError("confidences must be within 0..1")
    return p, y


def _ties(confidence: ArrayLike, right: ArrayLike) -> tuple[Array, NDArray[np.intp], Array]:
    """Distinct confidences ascending, how many words have each, how many of them are right."""
    p, y = _pair(confidence, right)
    values, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    hits = np.bincount(inverse, weights=y, minlength=len(values)).astype(np.float64)
    return values, counts, hits
