"""Domains: what the speech is about, by example sentences or as it falls.

Twenty to three hundred sentences define a domain.  A logistic discriminator tells them from all
that devices sent, by words and pieces of words: names and style are what sets a domain apart, and
the 128 dimensions of `embedding` no longer have them.  Two things help it with so few examples:

* a term weighs the more, the more its share of what the examples say differs from its share of the
  background (Wang & Manning, ACL 2012), towards which the former is smoothed (Monroe, Colaresi &
  Quinn 2008);
* the background also holds speech of the domain, so the texts that look most like the examples,
  half as many as those, change sides before it is fitted again.

Scores become probabilities by a logistic map on sentences that were held out (Platt).  The share of
the background that is the domain's own is not known, but it divides all odds alike, those of
examples too; so what counts is a text's part of the odds that a held-out example typically has
(after Elkan & Noto, KDD 2008, for samples drawn apart).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.labels.text import plain
from autotrain_cloud.selection.embedding import Space, Vectors
from edge_runtime.errors import ConfigError

MIN_EXAMPLES, MAX_EXAMPLES = 20, 300
_SMOOTHING = 0.3  # terms of the background, per term of the examples
_STRENGTH = 0.03  # C of the discriminator


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
    typical: float  # of examples that were held out, their median

    @property
    def parts(self) -> NDArray[np.float64]:
        """[n] The odds of every text by those of a typical example; 1 is as typical."""
        odds = self.of / np.maximum(1 - self.of, 1e-12)
        return np.asarray(odds * (1 - self.typical) / max(self.typical, 1e-12))


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
        half = _discriminator(positive[::2], background[::2], seed)
        held_out = half(positive[1::2])
        others = half(background[1::2]) if len(texts) > 1 else np.zeros(1)
        platt = _fit(
            np.concatenate([held_out, others])[:, None],
            np.repeat([1, 0], [len(held_out), len(others)]),
            seed,
            1e3,
        )
        # Few examples, by halves, may say the contrary; that is chance, and not to be believed.
        platt.coef_ = np.maximum(platt.coef_, 1e-3)
        scores = _discriminator(positive, background, seed)(background)
        typical = float(np.median(platt.predict_proba(held_out[:, None])[:, 1]))
        found[name] = Chances(platt.predict_proba(scores[:, None])[:, 1], typical)
    return found


def _discriminator(positive: Any, background: Any, seed: int) -> Callable[[Any], Any]:
    """From [n, terms] to [n] scores: above zero rather an example than background."""
    from scipy.sparse import vstack

    count = positive.shape[0]
    both = vstack([positive, background]).tocsr()
    own = np.arange(both.shape[0]) < count
    weights = _weights(both, own)
    scaled = both.multiply(weights).tocsr()
    first = _fit(scaled, own, seed, _STRENGTH).decision_function(scaled[count:])
    # At least one stays background, however few there are.
    alike = np.argsort(-first, kind="stable")[: min(count // 2, len(first) - 1)]
    own[count + alike] = True
    model = _fit(scaled, own, seed, _STRENGTH)
    return lambda points: model.decision_function(points.multiply(weights).tocsr())


def _weights(points: Any, own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[terms] From 0.5: how telling each is, by its share of what the examples say."""
    there = points.astype(bool)
    background = np.asarray(there[~own].sum(axis=0), np.float64).ravel() + 0.1
    background /= background.sum()
    examples = np.asarray(there[own].sum(axis=0), np.float64).ravel()
    share = (examples / max(examples.sum(), 1.0) + _SMOOTHING * background) / (1 + _SMOOTHING)
    telling = np.abs(np.log(share / background))
    return np.asarray(0.5 + 0.5 * telling / max(np.sqrt(np.mean(telling**2)), 1e-9))


def _fit(x: Any, y: NDArray[Any], seed: int, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

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
