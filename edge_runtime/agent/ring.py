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
        at = self._end
        for block in reversed(self._blocks):  # what is asked for is mostly near the end
            if at <= start:
                break
            at -= len(block)
            piece = block[max(0, start - at) : max(0, end - at)]
            if len(piece):
                pieces.append(piece)
        return pieces[::-1], start / self._rate

    def levels(self, each_s: float, over_s: float) -> list[float]:
        """Root mean square of every stretch of `each_s` in the last `over_s`, the newest last.

        What is too short for a stretch counts only where there is nothing else; without any sound
        there is one of 0.
        """
        pieces, _ = self.cut(self.end_s - over_s, self.end_s)
        sound = np.concatenate([np.zeros(0, np.float32), *pieces])
        size = min(round(each_s * self._rate), len(sound))
        if not size:
            return [0.0]
        stretches = sound[len(sound) % size :].reshape(-1, size)
        return [float(level) for level in np.sqrt(np.mean(np.square(stretches), axis=1))]
