"""Float and INT8 over the same recordings: what they hear, how sure they are, how long it takes.

Greedy decoding by the recogniser itself, end-pointing included, as a device runs it.  Both take
turns at being first; processor time is that of recognising only, a single pass and so a hint:
`benchmarks/int8.py` measures it properly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.observe import read
from edge_runtime import confidence_metrics
from edge_runtime.bundle import Bundle
from edge_runtime.events import Final
from edge_runtime.features import SAMPLE_RATE
from edge_runtime.manifest import Utterance
from edge_runtime.metrics import (
    Difference,
    ErrorCounts,
    align,
    char_errors,
    corpus_rate,
    paired_difference,
)
from edge_runtime.recognizer import Recognizer

FLOAT = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """What one model made of one recording."""

    text: str
    words: ErrorCounts
    characters: ErrorCounts
    confidences: tuple[float, ...]  # of the words that were heard
    right: tuple[bool, ...]
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One recording, heard by both."""

    utterance: Utterance
    seconds: float
    before: Hearing  # float
    after: Hearing  # INT8


@dataclass(frozen=True, slots=True)
class Side:
    """One model over many recordings."""

    hearings: tuple[Hearing, ...]

    @property
    def wer(self) -> float:
        return corpus_rate(one.words for one in self.hearings)

    @property
    def cer(self) -> float:
        return corpus_rate(one.characters for one in self.hearings)

    @property
    def cpu_s(self) -> float:
        return sum(one.cpu_s for one in self.hearings)

    @property
    def confidences(self) -> list[float]:
        return [value for one in self.hearings for value in one.confidences]

    @property
    def right(self) -> list[bool]:
        return [value for one in self.hearings for value in one.right]

    @property
    def ece(self) -> float:
        return confidence_metrics.ece(self.confidences, self.right)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Some recordings, heard by both at one chunk size."""

    pairs: tuple[Pair, ...]

    @property
    def before(self) -> Side:
        return Side(tuple(pair.before for pair in self.pairs))

    @property
    def after(self) -> Side:
        return Side(tuple(pair.after for pair in self.pairs))

    @property
    def words(self) -> int:
        return sum(pair.before.words.reference_length for pair in self.pairs)

    @property
    def difference(self) -> Difference:
        """Of word error rates, with an interval."""
        counts = [(pair.before.words, pair.after.words) for pair in self.pairs]
        return paired_difference(counts)

    def by_speaker(self, most: int) -> dict[str, Comparison]:
        """The parts, those with the most words first; beyond `most` the rest is one part."""
        parts: dict[str, list[Pair]] = {}
        for pair in self.pairs:
            parts.setdefault(pair.utterance.speaker or "unknown", []).append(pair)
        found = {name: Comparison(tuple(pairs)) for name, pairs in parts.items()}
        order = sorted(found, key=lambda name: (-found[name].words, name))
        kept = {name: found[name] for name in order[: most - 1 if len(order) > most else most]}
        rest = order[len(kept) :]
        if rest:
            others = tuple(pair for name in rest for pair in found[name].pairs)
            kept[f"{len(rest)} others"] = Comparison(others)
        return kept

    def turned(self, count: int) -> list[Pair]:
        """Recordings that INT8 hears otherwise, those where it errs most more than float first."""
        other = [pair for pair in self.pairs if pair.before.text != pair.after.text]
        return sorted(other, key=lambda p: p.before.words.errors - p.after.words.errors)[:count]


def compare_recognition(
    bundle: Bundle,
    precision: str,
    utterances: Sequence[Utterance],
    chunk_ms: int,
    *,
    progress: Callable[[int], object] = lambda done: None,
) -> Comparison:
    """Both models of a bundle.  Raises AudioError naming a file that cannot be read."""
    recognizers = [
        Recognizer.open(bundle.path, chunk_ms=chunk_ms, precision=name)
        for name in (FLOAT, precision)
    ]
    for recognizer in recognizers:  # what is done once is not counted
        _finals(recognizer, np.zeros(SAMPLE_RATE, np.float32))
    pairs = []
    for number, utterance in enumerate(utterances):
        samples = read(utterance)
        turns = (0, 1) if number % 2 == 0 else (1, 0)
        heard = {turn: _hear(recognizers[turn], samples, utterance.text) for turn in turns}
        seconds = len(samples) / SAMPLE_RATE
        pairs.append(Pair(utterance=utterance, seconds=seconds, before=heard[0], after=heard[1]))
        progress(number + 1)
    return Comparison(tuple(pairs))


def _hear(recognizer: Recognizer, samples: NDArray[np.float32], text: str) -> Hearing:
    start = time.process_time()
    finals = _finals(recognizer, samples)
    cpu_s = time.process_time() - start
    words = [word for final in finals for word in final.words]
    alignment = align(text.split(), [word.word for word in words])
    heard = " ".join(word.word for word in words)
    return Hearing(
        text=heard,
        words=alignment.counts,
        characters=char_errors(text, heard),
        confidences=tuple(word.confidence for word in words),
        right=tuple(said == word for said, word in alignment.pairs if word is not None),
        cpu_s=cpu_s,
    )


def _finals(recognizer: Recognizer, samples: NDArray[np.float32]) -> list[Final]:
    stream = recognizer.stream()
    events: Iterable[object] = (*stream.push(samples), *stream.finish())
    return [event for event in events if isinstance(event, Final)]
