"""Fit a bundle's confidence map: recognise development data, see which words were right.

The map belongs to one model and is fitted on speech that the model was not trained on, clean and
altered, because a map fitted on clean speech alone is too sure of itself in noise; and on what a
beam search makes of it where the bundle has a language model, since words that this overruled the
acoustics for look unlikely and are often right.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime import judging
from edge_runtime.audio import open_audio
from edge_runtime.confidence import ConfidenceMap, WordFeatures
from edge_runtime.confidence_fit import DEFAULT_FEATURES, WITH_LEXICON, fit_confidence
from edge_runtime.confidence_metrics import summary
from edge_runtime.decoding import DecoderConfig
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
    """Words heard in one recording, in one version of it, and whether they were right."""

    recording: str
    features: tuple[WordFeatures, ...]
    right: tuple[bool, ...]


def judge(
    bundle: Path,
    utterances: Sequence[Utterance],
    *,
    decoder: DecoderConfig | None = None,
    chunk_ms: int | None = None,
    augment: str = "none",
    seed: int = 0,
) -> list[JudgedWords]:
    """Recognise each utterance, as recorded and (unless `augment` is "none") once altered.

    A word is right if it is aligned with itself; substituted and inserted words are wrong.
    """
    recorder = _Recorder()
    recognizer = dataclasses.replace(
        Recognizer.open(bundle, chunk_ms=chunk_ms, decoder=decoder, precision="float32"),
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
            found.append(JudgedWords(str(utterance.audio_filepath), features, judged.right))
            recorder.words.clear()
    return found


def fit(
    judged: Sequence[JudgedWords], *, lexicon: bool = False, fitted_on: str, seed: int = 0
) -> ConfidenceMap:
    """The map of all recordings, with the metrics of one that did not see a fifth of them.

    `lexicon`: the bundle has one, so its features count.

    Raises:
        ConfigError: too few words, or all of them right.
    """
    features = WITH_LEXICON if lexicon else DEFAULT_FEATURES
    recordings = sorted({one.recording for one in judged})
    random.Random(seed).shuffle(recordings)
    held = set(recordings[: max(1, round(HELD_BACK * len(recordings)))])
    try:
        trial = fit_confidence(*_flat(judged, lambda one: one not in held), features=features)
        words, right = _flat(judged, lambda one: one in held)
        metrics = summary([trial(word) for word in words], right)
        return fit_confidence(
            *_flat(judged),
            features=features,
            fitted_on=fitted_on,
            metrics={k: round(v, 4) for k, v in metrics.items() if np.isfinite(v)},
        )
    except ValueError as error:
        raise ConfigError(f"cannot fit a confidence map: {error}; give more recordings") from error


def _flat(
    judged: Sequence[JudgedWords], wanted: Callable[[str], bool] = lambda recording: True
) -> tuple[list[WordFeatures], list[bool]]:
    some = [one for one in judged if wanted(one.recording)]
    words = [word for one in some for word in one.features]
    return words, [right for one in some for right in one.right]
