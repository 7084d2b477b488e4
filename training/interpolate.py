"""Between an old model and its fine-tuned successor: as much of the new as costs nothing old.

Weights on the straight line between a model and what fine-tuning made of it keep most of what
either can do (WiSE-FT, arXiv:2109.01903).  `choose` walks along that line and takes the point with
the fewest errors on what is to be learnt, among those that make hardly more errors than the old
model on anything that is to be kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError
from edge_runtime.metrics import ErrorCounts, word_errors
from training.evaluate import decode_features, greedy_ids
from training.feature_augment import FeatureAugmentConfig, FeatureAugmenter
from training.model import Encoder
from training.store import FeatureStore
from training.tokenizer import Tokenizer

CHUNK = 8  # tokens of 40 ms: the 320 ms that devices run by default
_FLOOR = 1e-3  # below this error rate, differences are too few words to divide by it
_HARDER = 1.1  # times as many errors: from here on noise is something to be learnt
_MANY_WORDS = 300  # a target of fewer weighs less: a word more or less is too much of its rate

Rates: TypeAlias = Mapping[str, float]  # store -> word error rate


@torch.no_grad()
def interpolate(old: Encoder, new: Encoder, alpha: float) -> Encoder:
    """(1 - alpha) old + alpha new, in eval mode.

    Raises ConfigError if the two have not the same shape.
    """
    if old.config != new.config:
        raise ConfigError(
            f"the checkpoints hold different encoders: {old.config} and {new.config}; "
            "only a model and its own fine-tuned successor have a line between them"
        )
    between = Encoder(old.config).eval()
    mine, theirs = dict(old.named_parameters()), dict(new.named_parameters())
    for name, parameter in between.named_parameters():
        parameter.copy_(torch.lerp(mine[name].double(), theirs[name].double(), alpha))
    return between


def under_noise(store: FeatureStore, noise: Sequence[NDArray[np.floating]]) -> FeatureStore:
    """The same speech with clips of a fleet's noise under it, each at the ratio it was heard at.

    Args:
        noise: log-mel [frames, 80], as loud as beside speech of SPEECH_POWER.
    """
    config = FeatureAugmentConfig(field=1.0, field_snr_db=(0.0, 0.0)).scaled(0.0)
    augment, rng = FeatureAugmenter(config, noise), np.random.default_rng(0)
    return store.altered([augment(features, rng) for features, _ in store])


def hard_under_noise(
    old: Encoder,
    stores: Mapping[str, FeatureStore],
    noise: Sequence[NDArray[np.floating]],
    tokenizer: Tokenizer,
) -> dict[str, FeatureStore]:
    """Those that the old model understands worse under the noise, and under it, as NAME "in noise".

    Noise that it hears through is nothing to learn: as a target it would only say that nothing was.
    """
    found = {}
    for name, store in stores.items():
        noisy = under_noise(store, noise)
        rates = (word_error_rate(old, one, tokenizer) for one in (store, noisy))
        clean, heard = (max(rate, _FLOOR) for rate in rates)
        if heard > _HARDER * clean:
            found[f"{name} in noise"] = noisy
    return found


def word_error_rate(encoder: Encoder, store: FeatureStore, tokenizer: Tokenizer) -> float:
    """Greedy decoding of a feature store under the mask of the default chunk size."""
    features = [frames for frames, _ in store]
    counts = ErrorCounts()
    for index, log_probs in decode_features(encoder, features, CHUNK):
        counts += word_errors(store.texts[index], tokenizer.decode(greedy_ids(log_probs)))
    return counts.rate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place on the line, and what was measured there."""

    alpha: float
    target: Rates
    guard: Rates
    words: Mapping[str, int]  # of each target's texts

    def gain(self, old: Point) -> float:
        """How much lower the error rates of the targets are than the old model's: 0.3 is 30 %."""
        weights = {name: min(max(count, 1), _MANY_WORDS) for name, count in self.words.items()}
        left = (
            weights[name] * rate / max(old.target[name], _FLOOR)
            for name, rate in self.target.items()
        )
        return 1 - sum(left) / sum(weights.values())

    def worst_loss(self, old: Point) -> float:
        """By how much the error rate of the worst guard rose, relative to the old model's."""
        return max((self.guard[n] / max(old.guard[n], _FLOOR) - 1 for n in old.guard), default=0.0)

    def to_json(self, old: Point) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self),
            "gain": round(self.gain(old), 4),
            "worst_loss": round(self.worst_loss(old), 4),
        }


def choose(points: Sequence[Point], *, tolerance: float) -> Point:
    """The point of the largest gain whose worst loss is within `tolerance`; the first is alpha 0.

    The first point itself, which loses nothing and gains nothing, when no other will do.
    """
    old = points[0]
    allowed = [point for point in points if point.worst_loss(old) <= tolerance]
    return max(allowed, key=lambda point: (point.gain(old), -point.alpha))


def walk(
    old: Encoder,
    new: Encoder,
    alphas: Sequence[float],
    *,
    target: Mapping[str, FeatureStore],
    guard: Mapping[str, FeatureStore],
    tokenizer: Tokenizer,
    progress: Callable[[Point], object] = lambda point: None,
) -> list[Point]:
    """Measures the old model and every alpha, in rising order."""
    points = []
    words = {n: sum(len(text.split()) for text in store.texts) for n, store in target.items()}
    for alpha in sorted({0.0, *alphas}):
        encoder = interpolate(old, new, alpha)

        def rates(stores: Mapping[str, FeatureStore], encoder: Encoder = encoder) -> Rates:
            return {n: word_error_rate(encoder, store, tokenizer) for n, store in stores.items()}

        point = Point(alpha=alpha, target=rates(target), guard=rates(guard), words=words)
        points.append(point)
        progress(point)
    return points
