"""Domains: what the speech is about, by example sentences or as it falls.

Twenty to three hundred sentences define a domain.  A logistic discriminator tells them from all
that devices sent, by words and pieces of words: names and style are what sets a domain apart, and
the 128 dimensions of `embedding` no longer have them.  Scores become probabilities by a logistic
map on sentences that were held out (Platt).  The background also holds speech of the domain, which
lowers every probability by one factor: what held-out examples get, `typical` (Elkan & Noto, KDD
2008).  So a text belongs to the domain as likely as not at half of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.labels.text import plain
from autotrain_cloud.selection.embedding import Space, Vectors
from edge_runtime.errors import ConfigError

MIN_EXAMPLES, MAX_EXAMPLES = 20, 300


def read_examples(path: Path) -> tuple[str, ...]:
    """A file of sentences, one a line, # starts a comment.  Raises ConfigError: too few."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: example sentences cannot be read: {error}") from error
    found = tuple(text for line in lines if (text := plain(line.partition("#")[0])))
    return checked_examples(found, str(path))


def checked_examples(examples: Sequence[str], where: str) -> tuple[str, ...]:
    """Raises ConfigError unless there are enough; more than enough are thinned evenly."""
    different = tuple(dict.fromkeys(examples))
    if len(different) < MIN_EXAMPLES:
        raise ConfigError(
            f"{where}: {len(different)} different example sentences (expected {MIN_EXAMPLES} to "
            f"{MAX_EXAMPLES})"
        )
    step = max(1.0, len(different) / MAX_EXAMPLES)
    return tuple(different[int(i * step)] for i in range(min(len(different), MAX_EXAMPLES)))


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely texts are of one domain."""

    of: NDArray[np.float64]  # [n] 0..1; examples and background weigh the same
    typical: float  # of examples that were held out


def probabilities(
    texts: Sequence[str], examples: Mapping[str, Sequence[str]], *, seed: int = 0
) -> dict[str, Chances]:
    """The chances of every text, per domain."""
    if not examples:
        return {}
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    space = FeatureUnion([
        ("words", TfidfVectorizer(sublinear_tf=True, token_pattern=r"[^\s]+", max_features=50_000)),
        ("pieces", TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5),
                                   max_features=100_000)),
    ])  # fmt: skip
    background = space.fit_transform(texts)
    found = {}
    for name, sentences in sorted(examples.items()):
        positive = space.transform(checked_examples(sentences, f"domain {name!r}"))
        # Halves by turns: texts come best first, and sentences in the order of a file.
        half = _fit(positive[::2], background[::2], seed)
        held_out = half.decision_function(positive[1::2])
        others = half.decision_function(background[1::2]) if len(texts) > 1 else np.zeros(1)
        platt = _fit(held_out[:, None], others[:, None], seed, strength=1e3)
        scores = _fit(positive, background, seed).decision_function(background)
        share = float(platt.predict_proba(held_out[:, None])[:, 1].mean())
        found[name] = Chances(platt.predict_proba(scores[:, None])[:, 1], share)
    return found


def _fit(positive: Any, background: Any, seed: int, strength: float = 0.1) -> Any:
    from scipy.sparse import issparse, vstack
    from sklearn.linear_model import LogisticRegression

    both = [positive, background]
    x = vstack(both).tocsr() if issparse(positive) else np.concatenate(both)
    y = np.repeat([1, 0], [positive.shape[0], background.shape[0]])
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300, random_state=seed)
    return model.fit(x, y)


@dataclass(frozen=True, slots=True)
class Discovered:
    """Clusters, named by their top terms."""

    names: tuple[str, ...]
    of: NDArray[np.int64]  # [n] cluster of every point


def discover(
    space: Space, points: Vectors, texts: Sequence[str], count: int, *, seed: int = 0
) -> Discovered:
    """`count` domains at most, as the texts fall."""
    from sklearn.cluster import MiniBatchKMeans

    count = max(1, min(count, len(texts)))
    model = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=1024)
    of = np.asarray(model.fit_predict(points), np.int64)
    names = []
    for cluster in range(count):
        members = [text for text, place in zip(texts, of, strict=True) if place == cluster]
        names.append(" ".join(space.terms(members)) if members else f"empty {cluster}")
    return Discovered(tuple(names), of)
