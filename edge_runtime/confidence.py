"""How sure is the recogniser: per frame, per word, per utterance.

Per frame the measure is the Tsallis entropy of the output distribution, which finds wrong words of
CTC models better than the greatest probability (Laptev & Ginsburg, arXiv:2212.08703), with alpha =
1/3: sum(p^alpha) is one exp of a third of the log-probabilities.

    H      = (1 - sum(p^alpha)) / (alpha - 1)          Hmax = (V^(1 - alpha) - 1) / (1 - alpha)
    exp    = (e^-H - e^-Hmax) / (1 - e^-Hmax)          linear = 1 - H / Hmax

Both normalisations rank frames alike. `exp` spreads the sure ones; `linear` spreads the unsure
ones and is the one a person can read.

A word's features are taken over the frames that say its tokens: blanks between them are always
sure of themselves. Beside them stands whether the word exists and how common it is, where the
bundle has a lexicon. They rank words well but are no probabilities, so a logistic map fitted on
development data (`confidence_fit`) turns them into the probability that the word is right. It
belongs to one model and travels in its bundle. Without a map the confidence is the least `linear`
of the word.

An utterance is as sure as its words, weighted by their letters. What it cannot show is words that
are missing; `deletion_score` looks for those where blanks were emitted over speech.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.decoding import Token
from edge_runtime.errors import BundleError, BundleIncompatible
from edge_runtime.events import Word
from edge_runtime.frame_stats import (
    ALPHA,
    FLOOR,
    LOG_BLANK,
    POWER_SUM,
    FrameStats,
    greatest_entropy,
    power_sums,
)
from edge_runtime.lexicon import RAREST, Lexicon

Array = NDArray[np.float32]

SCHEMA_VERSION = 1
CLIP = 4.0  # standard deviations; beyond what was seen when fitting a map must not extrapolate
_REMEDY = "fit the confidence map again and write a new bundle"


def tsallis(logprobs: Array, *, linear: bool = False) -> Array:
    """Confidence of every frame in the `exp` or `linear` norm: [T', V] -> [T'], 0..1."""
    entropy = (power_sums(logprobs) - 1) * np.float32(1 / (1 - ALPHA))
    greatest = greatest_entropy(logprobs.shape[1])
    if linear:
        norm = 1 - entropy / np.float32(greatest)
    else:
        least = math.exp(-greatest)
        norm = (np.exp(-entropy) - np.float32(least)) / np.float32(1 - least)
    return np.asarray(np.maximum(norm, 0), np.float32)


_PER_POWER = 1 / (1 - ALPHA)


def _entropy(power_sum: float) -> float:
    return (power_sum - 1) * _PER_POWER


class WordFeatures(NamedTuple):
    """What is known about a word. `min` and `mean` go over the frames of its tokens."""

    tsallis_min: float
    tsallis_mean: float
    tsallis_linear_min: float
    tsallis_linear_mean: float
    log_max_prob_min: float
    log_max_prob_mean: float
    margin_min: float  # probability of the best minus that of the second best
    margin_mean: float
    token_logprob_min: float  # below log_max_prob_min where a beam overruled the acoustics
    span_tsallis_linear_mean: float  # over all frames from first to last token, blanks too
    seconds_per_char: float
    tokens: float
    chars: float
    known: float = 0.0  # 1 for a word of the lexicon
    word_logprob: float = RAREST  # of the word on its own, by the lexicon


FEATURES = WordFeatures._fields
LEXICAL = ("known", "word_logprob")  # features that need a lexicon


def word_features(
    stats: FrameStats,
    tokens: Sequence[Token],
    word: str,
    frame_s: float,
    lexicon: Lexicon | None = None,
) -> WordFeatures | None:
    """Features of a word and its tokens; None where its frames are no longer kept."""
    first, stop = tokens[0].start_frame, tokens[-1].end_frame
    span = stats.rows(first, stop)
    rows = span
    if len(tokens) > 1:
        offset = max(first, stats.first)  # frame of span[0]
        rows = []
        for token in tokens:
            rows += span[max(token.start_frame - offset, 0) : max(token.end_frame - offset, 0)]
    if not rows:
        return None
    # One plain loop: words are built for every partial, and this is most of what they cost.
    power_total = power_most = certainty = log_total = margin_total = 0.0
    log_least, margin_least = 0.0, 1.0
    for power_sum, blank, best, following, _ in rows:
        power_total += power_sum
        if power_sum > power_most:
            power_most = power_sum
        certainty += math.exp((1 - power_sum) * _PER_POWER)  # e^-entropy
        if best > blank:
            top, second = best, blank if blank > following else following
        else:
            top, second = blank, best
        log_total += top
        if top < log_least:
            log_least = top
        margin = math.exp(top) - math.exp(second)
        margin_total += margin
        if margin < margin_least:
            margin_least = margin
    count = len(rows)
    span_total = power_total if rows is span else sum([row[POWER_SUM] for row in span])
    greatest = stats.greatest_entropy
    least = math.exp(-greatest)
    entropy_most = _entropy(power_most)
    chars = len(word) or 1
    listed = None if lexicon is None else lexicon.logprob(word)
    return WordFeatures(  # in the order of its fields
        max(0.0, (math.exp(-entropy_most) - least) / (1 - least)),
        max(0.0, (certainty / count - least) / (1 - least)),
        max(0.0, 1 - entropy_most / greatest),
        max(0.0, 1 - _entropy(power_total / count) / greatest),
        log_least,
        log_total / count,
        margin_least,
        margin_total / count,
        max(FLOOR, min([token.logprob for token in tokens])),
        max(0.0, 1 - _entropy(span_total / len(span)) / greatest),
        (stop - first) * frame_s / chars,
        float(len(tokens)),
        float(chars),
        0.0 if listed is None else 1.0,
        RAREST if listed is None else listed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceMap:
    """Logistic regression on standardised word features.

    P(right) = sigmoid(bias + sum(weight * clip((x - mean) / scale, -4, 4)))
    """

    features: tuple[str, ...]  # names out of FEATURES
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    fitted_on: str = ""  # what data, for people
    metrics: Mapping[str, Any] = field(default_factory=dict)  # measured where, how good
    _terms: tuple[tuple[int, float, float, float], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features or len(set(self.features)) != len(self.features):
            raise ValueError(f"features: expected distinct names of word features, got {unknown}")
        for name in ("mean", "scale", "weights"):
            values = getattr(self, name)
            if len(values) != len(self.features):
                raise ValueError(f"{name}: expected {len(self.features)} numbers")
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name}: expected finite numbers")
        if not all(scale > 0 for scale in self.scale):
            raise ValueError("scale: expected positive numbers")
        if not math.isfinite(self.bias):
            raise ValueError("bias: expected a finite number")
        columns = [FEATURES.index(name) for name in self.features]
        terms = zip(columns, self.mean, self.scale, self.weights, strict=True)
        object.__setattr__(self, "_terms", tuple(terms))

    @property
    def lexical(self) -> tuple[str, ...]:
        """Which of its features need a lexicon."""
        return tuple(name for name in self.features if name in LEXICAL)

    def __call__(self, features: WordFeatures) -> float:
        """The probability that the word is right."""
        z = self.bias
        for column, mean, scale, weight in self._terms:
            x = (features[column] - mean) / scale
            z += weight * (CLIP if x > CLIP else -CLIP if x < -CLIP else x)
        return sigmoid(z)

    @classmethod
    def load(cls, path: Path | str) -> ConfidenceMap:
        """Reads `confidence.json`. Raises BundleError naming file and field."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError("cannot be read", file=str(path), remedy=_REMEDY) from error
        return cls.parse(text, file=str(path))

    @classmethod
    def parse(cls, text: str, *, file: str = "confidence.json") -> ConfidenceMap:
        """The content of `confidence.json`. Raises BundleError naming `file` and the field."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError("is not JSON", file=file, remedy=_REMEDY) from error
        if not isinstance(data, dict):
            raise BundleError("is not a JSON object", file=file, remedy=_REMEDY)
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleIncompatible(
                f"unknown version {version!r}",
                file=file,
                field="schema_version",
                expected=str(SCHEMA_VERSION),
                remedy="update the runtime or take an older bundle",
            )
        try:
            return cls(
                features=_list(data, "features", str),
                mean=_list(data, "mean", float),
                scale=_list(data, "scale", float),
                weights=_list(data, "weights", float),
                bias=_list({"bias": [data.get("bias")]}, "bias", float)[0],
                fitted_on=str(data.get("fitted_on", "")),
                metrics=data["metrics"] if isinstance(data.get("metrics"), dict) else {},
            )
        except ValueError as error:
            name, _, problem = str(error).partition(": ")
            raise BundleError(problem, file=file, field=name, remedy=_REMEDY) from error

    def to_json(self) -> str:
        """The content of `confidence.json`."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "features": self.features,
            "mean": self.mean,
            "scale": self.scale,
            "weights": self.weights,
            "bias": self.bias,
            "fitted_on": self.fitted_on,
            "metrics": dict(self.metrics),
        }
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _list(data: Mapping[str, Any], name: str, kind: type) -> tuple[Any, ...]:
    values = data.get(name)
    accepted = (int, float) if kind is float else kind
    if not isinstance(values, list) or not all(
        isinstance(value, accepted) and not isinstance(value, bool) for value in values
    ):
        what = "numbers" if kind is float else "strings"
        raise ValueError(
            f"{name}: expected a list of {what}" if name != "bias" else "bias: expected a number"
        )
    try:
        return tuple(kind(value) for value in values)
    except OverflowError:
        raise ValueError(f"{name}: expected finite numbers") from None


def sigmoid(z: float) -> float:
    """1 / (1 + e^-z) without overflow."""
    if z >= 0:
        return 1 / (1 + math.exp(-z))
    power = math.exp(z)
    return power / (1 + power)


class WordConfidence:
    """Confidence of words of one stream, for `edge_runtime.decoding.words`."""

    def __init__(
        self,
        stats: FrameStats,
        frame_s: float,
        confidence_map: ConfidenceMap | None = None,
        lexicon: Lexicon | None = None,
    ) -> None:
        self._stats = stats
        self._frame_s = frame_s
        self._map = confidence_map
        self._lexicon = lexicon

    def __call__(self, tokens: Sequence[Token], word: str) -> float:
        """0..1."""
        features = word_features(self._stats, tokens, word, self._frame_s, self._lexicon)
        if features is None:  # an utterance longer than the statistics reach: a rough value
            return math.exp(min(token.logprob for token in tokens))
        return features.tsallis_linear_min if self._map is None else self._map(features)


def utterance_confidence(words: Sequence[Word], deletion_score: float = 0.0) -> float:
    """Mean of the words' confidences, weighted by letters.

    Where nothing was recognised, the confidence that nothing was said: 1 - `deletion_score`.
    """
    if not words:
        return 1.0 - deletion_score
    letters, total = 0, 0.0
    for word in words:
        size = len(word.word)
        letters += size
        total += size * word.confidence
    return total / letters


def deletion_score(
    stats: FrameStats,
    tokens: Sequence[Token],
    first: int,
    stop: int,
    energy: NDArray[np.floating[Any]] | None = None,
) -> float:
    """Suspicion that words spoken in frames [first, stop) are missing from `tokens`, 0..1.

    The greatest probability of "not blank" in a frame that no token covers. The frames beside a
    token do not count, a token's flanks are no words. Nor do, where `energy` is given ([stop -
    first], log of the signal's power per frame), frames without speech energy.
    """
    rows = stats.rows(first, stop)
    kept = stop - len(rows)  # the first frame that is
    is_open = [True] * len(rows)
    if energy is not None:
        is_open = speech_frames(energy)[kept - first :].tolist()
    for token in tokens:
        for frame in range(max(token.start_frame - 1, kept), min(token.end_frame + 1, stop)):
            is_open[frame - kept] = False
    blanks = [row[LOG_BLANK] for row, counts in zip(rows, is_open, strict=True) if counts]
    return -math.expm1(min(blanks)) if blanks else 0.0


def speech_frames(energy: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which frames are loud enough for speech: the upper half of the range above the noise floor.

    `energy`: natural log of the power per frame. Floor and peak are the 10th and 95th percentiles;
    a frame must be at least 5 dB above the floor, so steady noise has no speech in it.
    """
    if not len(energy):
        return np.zeros(0, np.bool_)
    floor, peak = np.percentile(energy, (10, 95))
    return np.asarray(energy > floor + max(1.15, (peak - floor) / 2), np.bool_)
