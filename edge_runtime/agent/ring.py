"""The last minute of a stream's sound, to cut utterances from. Holds blocks, copies none."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class AudioRing:
    """What was heard last, at most `seconds` and a block."""

    def __init__(self, seconds: float, sample_rate: int) -> None:
        self._capacity = round(seconds * sample_rate)
        self._rate = sample_rate
        self._blocks: deque[Samples] = deque()
        self._held = 0  # samples in them
        self._end = 0  # samples heard since the stream began

    @property
    def end_s(self) -> float:
        """Seconds heard since the stream began."""
        return self._end / self._rate

    def push(self, block: Samples) -> None:
        """f32 [n]; the caller does not change it afterwards."""
        self._blocks.append(block)
        self._held += len(block)
        self._end += len(block)
        while self._held - len(self._blocks[0]) >= self._capacity:
            self._held -= len(self._blocks.popleft())

    def cut(self, start_s: float, end_s: float) -> tuple[list[Samples], float]:
        """What is still held of [start_s, end_s), in pieces, and the time it really starts."""
        first = self._end - self._held
        start = min(max(first, round(start_s * self._rate)), self._end)
        end = min(max(start, round(end_s * self._rate)), self._end)
        pieces = []
        at = first
        for block in self._blocks:
            piece = block[max(0, start - at) : max(0, end - at)]
            if len(piece):
                pieces.append(piece)
            at += len(block)
        return pieces, start / self._rate

    def level(self, seconds: float) -> float:
        """Root mean square of the last stretch of this length."""
        pieces, _ = self.cut(self.end_s - seconds, self.end_s)
        count = sum(len(piece) for piece in pieces)
        power = sum(float(np.dot(piece, piece)) for piece in pieces)
        return float(np.sqrt(power / count)) if count else 0.0
