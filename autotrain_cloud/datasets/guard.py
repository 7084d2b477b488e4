"""Guard sets: what a candidate is judged by, and therefore what nothing may be trained on.

Only what a person or the source of the text says; pseudo-labels judge nothing.  A voice belongs to
the guard set or to training, for ever: by a hash of the speaker, or of the device where speakers
are not known.  `after_ms` also keeps the past and the present apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autotrain_cloud.datasets.manifest import Row
from autotrain_cloud.datasets.rows import drawn, row_of, voice
from autotrain_cloud.labels.records import Label
from edge_runtime.errors import ConfigError

# A gate at 5 % with 30,000 words of 200 speakers sees 5 % relative at 12 % WER four times of five.
_WORDS, _SEEN = 30_000, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """Who guards, and how much is enough."""

    share: float = 0.1  # of the voices
    salt: str = "guard"
    after_ms: int = 0  # recorded no earlier, since 1970
    min_words: int = 1000
    min_voices: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share: {self.share} (expected more than 0, at most 1)")


def guards(device: str, speaker: str, settings: GuardSettings) -> bool:
    """Does this voice belong to the guard set?"""
    return drawn(voice(device, speaker), settings.salt) < settings.share


def guard_rows(labels: Iterable[Label], settings: GuardSettings) -> list[Row]:
    """The rows of a guard set.

    Raises ConfigError if they are too few, with the difference that they could detect.
    """
    rows = [
        row_of(label, "guard", f"{label.source} label of a guarding voice")
        for label in labels
        if label.source in ("human", "source")
        and label.decision == "keep"
        and label.segment.captured_ms >= settings.after_ms
        and guards(label.segment.device, label.segment.speaker, settings)
    ]
    words = sum(len(row.text.split()) for row in rows)
    voices = len({voice(row.device, row.speaker) for row in rows})
    if words < settings.min_words or voices < settings.min_voices:
        detail = (
            f"; it could detect a change of about {detectable(words):.0%} relative" if words else ""
        )
        raise ConfigError(
            f"the guard set is too small: {words} words of {voices} voices, labelled by people or "
            f"sources (expected {settings.min_words} of {settings.min_voices}){detail}; have more "
            "segments reviewed, or let more voices guard"
        )
    return rows


def detectable(words: int) -> float:
    """Relative change of WER that a gate on so many words sees: an order of magnitude."""
    return _SEEN * float(np.sqrt(_WORDS / max(1, words)))


@dataclass(frozen=True, slots=True)
class Leak:
    """Something in training that the guard set also has."""

    guard: str  # segment
    training: str  # segment
    kind: str  # audio, voice or text


def leaks(
    guard: Sequence[Row], training: Sequence[Row], *, min_text: float = 0.9, min_words: int = 5
) -> list[Leak]:
    """What training rows share with a guard set.

    The same audio, the same voice, or nearly the same text: of at least `min_words` words, because
    everybody says "turn the light on".
    """
    found = []
    audio = {row.audio_sha256: row for row in training if row.audio_sha256}
    voices = {voice(row.device, row.speaker): row for row in training}
    for row in guard:
        if row.audio_sha256 in audio:
            found.append(Leak(row.segment_id, audio[row.audio_sha256].segment_id, "audio"))
        if (key := voice(row.device, row.speaker)) in voices:
            found.append(Leak(row.segment_id, voices[key].segment_id, "voice"))
    return found + _texts(guard, training, min_text, min_words)


def _texts(
    guard: Sequence[Row], training: Sequence[Row], min_text: float, min_words: int
) -> list[Leak]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    asked = [row for row in guard if len(row.text.split()) >= min_words]
    others = [row for row in training if len(row.text.split()) >= min_words]
    if not asked or not others:
        return []
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    known = vectorizer.fit_transform([row.text for row in others])
    found = []
    for start in range(0, len(asked), 256):
        some = asked[start : start + 256]
        alike = vectorizer.transform([row.text for row in some]) @ known.T  # cosines, sparse
        best = alike.argmax(axis=1)
        for index, row in enumerate(some):
            at = int(np.asarray(best).ravel()[index])
            if alike[index, at] >= min_text:
                found.append(Leak(row.segment_id, others[at].segment_id, "text"))
    return found
