"""A few numbers per frame, which is all that confidences need of a distribution.

A model of our own computes them in its graph (output `frame_stats`), where they are nearly free;
for others `frame_stats` does.  `FrameStats` keeps those of a stream's recent frames.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

ALPHA = 1 / 3  # of the Tsallis entropy, see `edge_runtime.confidence`
FLOOR = -30.0  # least log-probability that is kept, so that all statistics are finite
# The numbers of a frame: sum(p^alpha); log-probabilities of the blank, of the best token and of the
# next best token; the id of the best token.
POWER_SUM, LOG_BLANK, LOG_BEST, LOG_NEXT, BEST = range(5)


def power_sums(logprobs: Array) -> Array:
    """sum(p^alpha): [T', V] -> [T']; at least 1, because alpha < 1."""
    powers = np.multiply(logprobs, np.float32(ALPHA))
    np.exp(powers, out=powers)
    # Not a product with ones: that would depend, in the last bit, on how many rows there are.
    return np.asarray(np.maximum(np.add.reduce(powers, axis=1), np.float32(1)))


def greatest_entropy(vocabulary: int) -> float:
    """Tsallis entropy of the uniform distribution."""
    return (math.pow(vocabulary, 1 - ALPHA) - 1) / (1 - ALPHA)


def frame_stats(logprobs: Array) -> list[list[float]]:
    """What is kept of every frame: [T', V] with the blank last -> T' x 5, finite."""
    others = logprobs[:, :-1].copy()  # (T', V) -> (T', V - 1)
    if others.shape[1] == 1:  # the only token has no rival
        others = np.insert(others, 1, FLOOR, axis=1)
    ids: list[float] = others.argmax(axis=1).astype(np.float32).tolist()
    others.partition(-2, axis=1)  # the two greatest come last
    sums: list[float] = power_sums(logprobs).tolist()
    blanks: list[float] = logprobs[:, -1].tolist()
    tops: list[list[float]] = others[:, -2:].tolist()
    return bounded(
        [
            [power_sum, blank, best, following, best_id]
            for power_sum, blank, (following, best), best_id in zip(
                sums, blanks, tops, ids, strict=True
            )
        ]
    )


def bounded(rows: list[list[float]]) -> list[list[float]]:
    """The same rows, changed in place where a number is beyond what is kept."""
    for row in rows:
        power_sum, blank, best, following, _ = row
        if power_sum < 1.0:
            row[POWER_SUM] = 1.0
        if following < FLOOR or blank < FLOOR:
            row[LOG_BLANK:BEST] = max(blank, FLOOR), max(best, FLOOR), max(following, FLOOR)
    return rows


class FrameStats:
    """The statistics of a stream's recent frames, by absolute frame; memory is bounded.

    Rows are lists of floats: a word has a handful of frames, and on so few numbers Python is
    several times faster than numpy.

    They are computed when somebody asks, or for `_AT_ONCE` frames together.  Right after the graph
    has run the caches are cold and a call of numpy costs several times what it costs in a loop, and
    most blocks bring no word that would need them.
    """

    _AT_ONCE = 64  # frames

    def __init__(self, *, limit: int = 4096) -> None:
        """`limit`: frames kept at least, more than the longest utterance has."""
        self._limit = limit
        self.greatest_entropy = 1.0  # known from the first block on
        self.reset()

    def reset(self) -> None:
        """A fresh stream: frame 0."""
        self._rows: list[list[float]] = []
        self._computed = 0  # frames that _rows ends before
        self._waiting: list[Array] = []  # blocks from there on
        self.end = 0  # frames seen

    @property
    def first(self) -> int:
        """The oldest frame that is kept."""
        return self._computed - len(self._rows)

    def push(self, logprobs: Array, stats: list[list[float]] | None = None) -> None:
        """The next block, [T', V], and its `frame_stats` from the graph, not yet bounded."""
        if stats is None:
            self._waiting.append(logprobs.copy())  # the caller's buffer is the graph's
            self.end += len(logprobs)
            if self.end - self._computed >= self._AT_ONCE:
                self._compute()
        else:
            self._compute()
            self.end += len(stats)
            self._append(bounded(stats), logprobs.shape[1])

    def _compute(self) -> None:
        if self._waiting:
            blocks, self._waiting = self._waiting, []
            logprobs = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
            self._append(frame_stats(logprobs), logprobs.shape[1])

    def _append(self, rows: list[list[float]], vocabulary: int) -> None:
        if not self._rows:
            self.greatest_entropy = greatest_entropy(vocabulary)
        self._rows += rows
        self._computed = self.end
        if len(self._rows) >= 2 * self._limit:
            del self._rows[: -self._limit]

    def drop(self, before: int) -> None:
        """Forgets the frames before `before`: an utterance ended there."""
        self._compute()
        del self._rows[: max(before - self.first, 0)]

    def rows(self, first: int, stop: int) -> list[list[float]]:
        """The frames of [first, stop) that are kept, five numbers each."""
        self._compute()
        base = self.first
        return self._rows[max(first - base, 0) : max(stop - base, 0)]
