"""Fit a bundle's confidence map: recognise development data, see which words were right.

The map belongs to one model and is fitted on speech that the model was not trained on, clean and
altered, because a map fitted on clean speech alone is too sure of itself in noise.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime import judging
from edge_runtime.audio import open_audio
from edge_runtime.confidence import ConfidenceMap, WordFeatures
from edge_runtime.confidence_fit import fit_confidence
from edge_runtime.confidence_metrics import summary
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import Utterance
from edge_runtime.recognizer import Recognizer
from training.augment import AUGMENTATIONS, Augmenter

HELD_BACK = 0.2  # share of recordings that judge the map instead of making it


class _Recorder:
    """Takes the place of a map: keeps the features of a word and answers with their number."""

    def __init__(self) -> None:
        self.words: list[WordFeatures] = []

    def __call__(self, features: WordFeatures) -> float:
        self.words.append(features)
        return float(len(self.words) - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class JudgedWords:
    """Words of one recording and whether they were right."""

    features: tuple[WordFeatures, ...]
    right: tuple[bool, ...]


def judge(
    bundle: Path,
    utterances: Sequence[Utterance],
    *,
    chunk_ms: int | None = None,
    augment: str = "none",
    seed: int = 0,
) -> list[JudgedWords]:
    """Recognise each utterance, as recorded and (unless `augment` is "none") once altered.

    A word is right if it is aligned with itself; substituted and inserted words are wrong.
    """
    recorder = _Recorder()
    recognizer = dataclasses.replace(
        Recognizer.open(bundle, chunk_ms=chunk_ms, precision="float32"),
        confidence=recorder,  # type: ignore[arg-type]
    )
    augmenter = Augmenter(AUGMENTATIONS[augment]) if augment != "none" else None
    found = []
    babble: list[NDArray[np.float32]] = []
    for number, utterance in enumerate(utterances):
        with open_audio(utterance.audio_filepath) as source:
            samples = np.concatenate([np.zeros(0, np.float32), *source.blocks()])
        versions = [samples]
        if augmenter is not None and len(samples):
            rng = np.random.default_rng([seed, number])
            versions.append(augmenter(samples, rng, babble=babble))
        babble = [samples] if len(samples) else []
        for version in versions:
            judged = judging.judge(utterance.text, judging.recognise(recognizer, [version]))
            features = tuple(recorder.words[int(word.confidence)] for word in judged.words)
            found.append(JudgedWords(features, judged.right))
            recorder.words.clear()
    return found


def fit(judged: Sequence[JudgedWords], *, fitted_on: str, seed: int = 0) -> ConfidenceMap:
    """The map of all recordings, with the metrics of one that did not see a fifth of them.

    Raises:
        ConfigError: too few words, or all of them right.
    """
    shuffled = list(judged)
    random.Random(seed).shuffle(shuffled)
    held = max(1, round(HELD_BACK * len(shuffled)))
    try:
        trial = fit_confidence(*_flat(shuffled[held:]))
        words, right = _flat(shuffled[:held])
        metrics = summary([trial(word) for word in words], right)
        return fit_confidence(
            *_flat(shuffled),
            fitted_on=fitted_on,
            metrics={k: round(v, 4) for k, v in metrics.items() if np.isfinite(v)},
        )
    except ValueError as error:
        raise ConfigError(f"cannot fit a confidence map: {error}; give more recordings") from error


def _flat(judged: Sequence[JudgedWords]) -> tuple[list[WordFeatures], list[bool]]:
    words = [word for recording in judged for word in recording.features]
    return words, [right for recording in judged for right in recording.right]
