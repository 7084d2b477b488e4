"""Texts as points: TF-IDF of words and pairs of words, reduced by SVD (latent semantic analysis).

No model is downloaded: the space is fitted on the texts at hand, and is the same for the same texts
and seed.  Texts of one topic lie close, near-duplicates closer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

DIMENSIONS = 128


@dataclass(frozen=True, slots=True)
class Space:
    """A fitted space."""

    _vectorizer: Any
    _svd: Any  # None: too few texts to reduce

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, d] of unit length; a text without a known word is zero."""
        if not texts:
            return np.zeros((0, DIMENSIONS), np.float32)
        sparse = self._vectorizer.transform(texts)
        points = sparse.toarray() if self._svd is None else self._svd.transform(sparse)
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        return np.asarray(points / np.maximum(lengths, 1e-9), np.float32)

    def terms(self, texts: Sequence[str], count: int = 4) -> list[str]:
        """The words that weigh most in these texts together."""
        weights = np.asarray(self._vectorizer.transform(texts).sum(axis=0)).ravel()
        names = self._vectorizer.get_feature_names_out()
        return [str(names[index]) for index in np.argsort(-weights, kind="stable")[:count]]


def fit_space(texts: Sequence[str], *, seed: int = 0) -> Space:
    """From the texts that are to be told apart."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(texts) > 50 else 1,
        max_features=100_000, token_pattern=r"[^\s]+",
    )  # fmt: skip
    sparse = vectorizer.fit_transform(texts if any(t.strip() for t in texts) else ["nothing"])
    if min(sparse.shape) <= DIMENSIONS + 1:
        return Space(vectorizer, None)
    svd = TruncatedSVD(DIMENSIONS, random_state=seed, n_iter=4)
    svd.fit(sparse)
    return Space(vectorizer, svd)
