"""Word and character error rates, with the alignment they come from.

    counts = word_errors("the cat sat", "the cat sat down")
    counts.rate                                   # 0.333…
    corpus_word_errors(pairs).rate                # over a corpus: pooled, not averaged

The alignment has the fewest edits (Levenshtein) and among those the most hits, so that a word that
was recognised is not reported as two substitutions.  Text is compared as it is: lower-casing and
removing punctuation are the caller's decision, because they decide what a number means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """How a hypothesis differs from its reference; adds up over a corpus."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference token; 0 without errors, infinite for insertions into nothing."""
        if self.errors == 0:
            return 0.0
        return self.errors / self.reference_length if self.reference_length else float("inf")


@dataclass(frozen=True, slots=True)
class Alignment:
    """Aligned tokens, `(reference, hypothesis)`, in order; None where one side has no partner."""

    pairs: tuple[tuple[str | None, str | None], ...]

    @property
    def counts(self) -> ErrorCounts:
        hits = sum(r == h for r, h in self.pairs)
        deletions = sum(h is None for _, h in self.pairs)
        insertions = sum(r is None for r, _ in self.pairs)
        substitutions = len(self.pairs) - hits - deletions - insertions
        return ErrorCounts(hits, substitutions, deletions, insertions)


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> Alignment:
    """The best alignment of two token sequences: fewest edits, then most hits."""
    head = 0
    shortest = min(len(reference), len(hypothesis))
    while head < shortest and reference[head] == hypothesis[head]:
        head += 1
    tail = 0
    while tail < shortest - head and reference[-1 - tail] == hypothesis[-1 - tail]:
        tail += 1
    middle = _align(
        reference[head : len(reference) - tail], hypothesis[head : len(hypothesis) - tail]
    )
    start = [(token, token) for token in reference[:head]]
    end = [(token, token) for token in reference[len(reference) - tail :]]
    return Alignment((*start, *middle, *end))


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Word errors of one text; words are what white space separates."""
    return align(reference.split(), hypothesis.split()).counts


def char_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Character errors of one text; runs of white space count as one space."""
    return align(" ".join(reference.split()), " ".join(hypothesis.split())).counts


def corpus_word_errors(texts: Iterable[tuple[str, str]]) -> ErrorCounts:
    """Word errors pooled over `(reference, hypothesis)` texts."""
    return sum((word_errors(ref, hyp) for ref, hyp in texts), ErrorCounts())


def corpus_char_errors(texts: Iterable[tuple[str, str]]) -> ErrorCounts:
    """Character errors pooled over `(reference, hypothesis)` texts."""
    return sum((char_errors(ref, hyp) for ref, hyp in texts), ErrorCounts())


def corpus_rate(counts: Iterable[ErrorCounts]) -> float:
    """The rate of all together: pooled, not averaged."""
    return sum(counts, ErrorCounts()).rate


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two error rates over the same recordings: the second less the first."""

    value: float
    low: float  # of the 95 % interval
    high: float


def paired_difference(
    counts: Sequence[tuple[ErrorCounts, ErrorCounts]], *, draws: int = 2000, seed: int = 0
) -> Difference:
    """By bootstrap over recordings, drawn in pairs: what both find hard cancels.

    Both counts of a pair are against the same reference.  Without any reference all is NaN.
    """
    change = np.array([after.errors - before.errors for before, after in counts], np.float64)
    length = np.array([before.reference_length for before, _ in counts], np.float64)
    if not length.sum():
        return Difference(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(len(length), size=(draws, len(length)))
    totals = np.maximum(length[drawn].sum(axis=1), 1)
    low, high = np.percentile(change[drawn].sum(axis=1) / totals, (2.5, 97.5))
    return Difference(float(change.sum() / length.sum()), float(low), float(high))


def _align(
    reference: Sequence[str], hypothesis: Sequence[str]
) -> list[tuple[str | None, str | None]]:
    rows, columns = len(reference), len(hypothesis)
    if not rows or not columns:
        return [(token, None) for token in reference] + [(None, token) for token in hypothesis]
    ids: dict[str, int] = {}
    ref = [ids.setdefault(token, len(ids)) for token in reference]
    hyp = np.array([ids.setdefault(token, len(ids)) for token in hypothesis])
    edit = min(rows, columns) + 1  # an edit outweighs every hit there could be; a hit costs -1
    cost = _costs(ref, hyp, edit)

    pairs: list[tuple[str | None, str | None]] = []
    i, j = rows, columns
    while i or j:
        here = cost[i, j]
        same = i > 0 and j > 0 and ref[i - 1] == hyp[j - 1]
        if i and j and here == cost[i - 1, j - 1] + (-1 if same else edit):
            i, j = i - 1, j - 1
            pairs.append((reference[i], hypothesis[j]))
        elif i and here == cost[i - 1, j] + edit:
            i -= 1
            pairs.append((reference[i], None))
        else:
            j -= 1
            pairs.append((None, hypothesis[j]))
    return pairs[::-1]


def _costs(ref: Sequence[int], hyp: NDArray[np.int64], edit: int) -> NDArray[np.int64]:
    """cost[i, j] of aligning ref[:i] with hyp[:j].

    A row needs its own left neighbour (an insertion), which looks sequential; but the best chain of
    insertions is a running minimum once `edit · j` is taken off, so a row is five numpy calls.
    """
    steps = edit * np.arange(len(hyp) + 1)
    cost = np.empty((len(ref) + 1, len(hyp) + 1), np.int64)
    cost[0] = steps
    for i, token in enumerate(ref):
        above = cost[i]
        row = above + edit  # deletion
        np.minimum(row[1:], above[:-1] + np.where(hyp == token, -1, edit), out=row[1:])
        cost[i + 1] = np.minimum.accumulate(row - steps) + steps
    return cost
