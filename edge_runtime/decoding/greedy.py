"""Greedy CTC: the best token of every frame, repetitions merged, blanks dropped.

The last frame's token is carried from block to block, so a token that spans a border is one token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.decoding import Candidate, Token
from edge_runtime.frame_stats import BEST, LOG_BEST, LOG_BLANK


class GreedyDecoder:
    """One stream; see `edge_runtime.decoding.Decoder`."""

    def __init__(self, blank_id: int) -> None:
        self._blank = blank_id
        self.reset()

    def reset(self) -> None:
        self._frames = 0
        self._last = self._blank  # id of the last frame
        self._spoken_until = 0  # end of the last token, also of one that was split off
        self._tokens: list[Token] = []

    @property
    def frames(self) -> int:
        return self._frames

    @property
    def trailing_blank_frames(self) -> int:
        return self._frames - self._spoken_until

    def advance(
        self, logprobs: NDArray[np.float32], stats: list[list[float]] | None = None
    ) -> bool:
        if not len(logprobs):
            return False
        blank = self._blank
        ids: list[int]  # T'
        if stats is None:
            ids = logprobs.argmax(axis=1).tolist()
        else:
            ids = [blank if f[LOG_BLANK] > f[LOG_BEST] else int(f[BEST]) for f in stats]
        first = self._frames
        self._frames += len(ids)
        if ids.count(blank) == len(ids):
            self._last = blank
            return False
        tokens, last, changed = self._tokens, self._last, False
        for t, i in enumerate(ids):
            if i != blank:
                frame = first + t
                logprob = float(logprobs[t, i]) if stats is None else stats[t][LOG_BEST]
                if i != last:
                    tokens.append(Token(i, frame, frame + 1, logprob))
                    changed = True
                elif tokens:  # else it goes on a token that was split off already
                    token = tokens[-1]
                    best = max(token.logprob, logprob)
                    tokens[-1] = Token(i, token.start_frame, frame + 1, best)
                self._spoken_until = frame + 1
            last = i
        self._last = last
        return changed

    def tokens(self) -> Sequence[Token]:
        return self._tokens

    def nbest(self, n: int, *, before: int | None = None, ended: bool = True) -> list[Candidate]:
        """The one hypothesis; its score is the sum of its tokens' log-probabilities."""
        tokens = self._tokens if before is None else self._tokens[: self._count(before)]
        return [Candidate(tuple(tokens), sum(token.logprob for token in tokens))][:n]

    def split(self, frame: int, *, ended: bool = True) -> tuple[Token, ...]:
        count = self._count(frame)
        done = tuple(self._tokens[:count])
        del self._tokens[:count]
        return done

    def _count(self, frame: int) -> int:
        return sum(token.start_frame < frame for token in self._tokens)
