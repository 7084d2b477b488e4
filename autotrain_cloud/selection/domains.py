"""Domains: what the speech is about, by example sentences or as it falls.

Twenty to three hundred sentences define a domain.  A logistic discriminator tells them from all
that devices sent, in the space of `embedding`.  That background also holds speech of the domain,
which lowers every probability by one factor: what examples that were held out get (Elkan & Noto,
KDD 2008).  It is divided out.
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


def probabilities(
    space: Space, points: Vectors, examples: Mapping[str, Sequence[str]], *, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """P(domain) of every point, per domain; examples and background weigh the same."""
    found = {}
    for name, sentences in sorted(examples.items()):
        positive = space.embed(checked_examples(sentences, f"domain {name!r}"))
        held_out = _fit(positive[::2], points, seed).predict_proba(positive[1::2])[:, 1]
        raw = _fit(positive, points, seed).predict_proba(points)[:, 1]
        found[name] = np.minimum(1.0, raw / max(float(held_out.mean()), 1e-3))
    return found


def _fit(positive: Vectors, background: Vectors, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([positive, background])
    y = np.repeat([1, 0], [len(positive), len(background)])
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=300, random_state=seed)
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
