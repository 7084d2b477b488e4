"""What a stream says: partials while somebody speaks, a final when the utterance is over.

A partial may be revised by the next one, a final never. Times are seconds from the start of the
stream, not of the utterance. Confidence is the probability that a word is right, calibrated where
the bundle carries a map (`edge_runtime.confidence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple


class Word(NamedTuple):  # not a dataclass: every partial makes one or two
    """One word; `end` is exclusive."""

    word: str
    start: float  # s
    end: float  # s
    confidence: float  # 0..1

    def to_json(self) -> dict[str, Any]:
        """Plain data with times to the millisecond."""
        return {
            "word": self.word,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "confidence": round(self.confidence, 4),
        }


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One reading of an utterance. Scores (natural log) compare within one n-best list only."""

    text: str
    score: float
    words: tuple[Word, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "score": round(self.score, 4),
            "words": [word.to_json() for word in self.words],
        }


@dataclass(frozen=True, slots=True)
class Partial:
    """The utterance so far."""

    type: ClassVar[Literal["partial"]] = "partial"

    text: str
    start: float  # s
    end: float  # s
    confidence: float  # 0..1
    words: tuple[Word, ...]

    def to_json(self) -> dict[str, Any]:
        """Keys: type, text, start, end, confidence, words."""
        return _common(self)


@dataclass(frozen=True, slots=True)
class Final:
    """The utterance as it stays."""

    type: ClassVar[Literal["final"]] = "final"

    text: str
    start: float  # s
    end: float  # s
    confidence: float  # 0..1
    words: tuple[Word, ...]
    deletion_score: float = 0.0  # 0..1, suspicion that spoken words are missing from the text
    nbest: tuple[Hypothesis, ...] = ()  # best first; empty unless asked for

    def to_json(self) -> dict[str, Any]:
        """Keys of a partial, deletion_score and nbest."""
        return {
            **_common(self),
            "deletion_score": round(self.deletion_score, 4),
            "nbest": [hypothesis.to_json() for hypothesis in self.nbest],
        }


Event = Partial | Final


def _common(event: Event) -> dict[str, Any]:
    return {
        "type": event.type,
        "text": event.text,
        "start": round(event.start, 3),
        "end": round(event.end, 3),
        "confidence": round(event.confidence, 4),
        "words": [word.to_json() for word in event.words],
    }
