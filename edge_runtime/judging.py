"""What a recogniser made of a recording, beside what was said.

finals = recognise(recognizer, source.blocks())
judged = judge("the cat sat", finals)
judged.counts, judged.right                 # word errors; for each word found, was it right?
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from edge_runtime.events import Final, Word
from edge_runtime.metrics import ErrorCounts, align
from edge_runtime.recognizer import Recognizer


def recognise(recognizer: Recognizer, blocks: Iterable[NDArray[np.float32]]) -> list[Final]:
    """The finals of one recording, heard as a stream."""
    stream = recognizer.stream()
    events = [event for block in blocks for event in stream.push(block)]
    return [event for event in (*events, *stream.finish()) if isinstance(event, Final)]


@dataclass(frozen=True, slots=True)
class Judged:
    """The words of a recording against its reference."""

    counts: ErrorCounts
    words: tuple[Word, ...]
    right: tuple[bool, ...]  # of each word: aligned with itself; inserted words are wrong

    @property
    def text(self) -> str:
        return " ".join(word.word for word in self.words)


def judge(reference: str, finals: Iterable[Final]) -> Judged:
    """Aligns all words of the finals with the reference."""
    words = tuple(chain.from_iterable(final.words for final in finals))
    alignment = align(reference.split(), [word.word for word in words])
    right = tuple(expected == word for expected, word in alignment.pairs if word is not None)
    return Judged(alignment.counts, words, right)
