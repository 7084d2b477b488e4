"""Fits a `ConfidenceMap` to words of which it is known whether they were right.

Logistic regression with a quadratic penalty on the weights, by Newton's method (iteratively
reweighted least squares). The problem is convex and small: a dozen features, some thousand words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.confidence import CLIP, FEATURES, LEXICAL, ConfidenceMap, WordFeatures

# What a map uses unless told otherwise, and the lexicon's features where there is one.
DEFAULT_FEATURES = (
    "tsallis_min",
    "tsallis_linear_min",
    "tsallis_linear_mean",
    "log_max_prob_min",
    "log_max_prob_mean",
    "margin_min",
    "token_logprob_min",
    "span_tsallis_linear_mean",
    "seconds_per_char",
    "tokens",
    "chars",
)
WITH_LEXICON = (*DEFAULT_FEATURES, *LEXICAL)
MAX_STEPS = 100


def fit_confidence(
    words: Sequence[WordFeatures],
    right: Sequence[bool],
    *,
    features: Sequence[str] = DEFAULT_FEATURES,
    penalty: float = 1.0,
    fitted_on: str = "",
    metrics: Mapping[str, Any] | None = None,
) -> ConfidenceMap:
    """The map that makes the labels `right` most probable.

    `penalty` weighs |weights|^2 / 2 against the summed negative log-likelihood of the words; the
    bias is free. Raises ValueError unless there are right words and wrong ones.
    """
    labels = np.asarray(right, np.float64)
    if len(words) != len(labels):
        raise ValueError(f"{len(words)} words but {len(labels)} labels")
    if not 0 < labels.sum() < len(labels):
        raise ValueError("a map needs right words and wrong ones to be fitted on")
    columns = [FEATURES.index(name) for name in features]
    raw = np.asarray(words, np.float64)[:, columns]  # (N, F)
    mean = raw.mean(axis=0)
    spread = raw.std(axis=0)
    scale = np.where(spread > 1e-9, spread, 1.0)  # a constant feature says nothing, at any scale
    x = np.clip((raw - mean) / scale, -CLIP, CLIP)
    x = np.column_stack([x, np.ones(len(x))])  # (N, F + 1), the bias last
    ridge = np.full(x.shape[1], penalty)
    ridge[-1] = 1e-9  # only so that the system never is singular
    theta = _newton(x, labels, ridge)
    return ConfidenceMap(
        features=tuple(features),
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(theta[:-1].tolist()),
        bias=float(theta[-1]),
        fitted_on=fitted_on,
        metrics=metrics or {},
    )


def _newton(
    x: NDArray[np.float64], labels: NDArray[np.float64], ridge: NDArray[np.float64]
) -> NDArray[np.float64]:
    theta = np.zeros(x.shape[1])
    loss = _loss(x, labels, ridge, theta)
    for _ in range(MAX_STEPS):
        p = 0.5 * (1 + np.tanh(0.5 * (x @ theta)))  # sigmoid without overflow
        gradient = x.T @ (p - labels) + ridge * theta
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (after := _loss(x, labels, ridge, theta - size * step)) > loss and size > 1e-6:
            size /= 2  # Newton's step is too long where the labels are almost separable
        if after > loss:
            break
        theta = theta - size * step
        if loss - after < 1e-10 * (1 + abs(loss)):
            break
        loss = after
    return theta


def _loss(
    x: NDArray[np.float64],
    labels: NDArray[np.float64],
    ridge: NDArray[np.float64],
    theta: NDArray[np.float64],
) -> float:
    z = x @ theta
    likelihood = np.logaddexp(0, z) - labels * z
    return float(likelihood.sum() + 0.5 * (ridge * theta * theta).sum())
