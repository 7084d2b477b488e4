"""Tokens to words with times and confidences, for partials that come several times a second.

Only what changed is built anew: words whose tokens are those of the call before, and after which
another word has begun, are taken over. A partial of a long utterance costs what its last word
costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_runtime.decoding import Token
from edge_runtime.events import Word
from edge_runtime.tokens import Vocabulary


class WordAssembler:
    """Words of one stream; `' '.join` of them is the vocabulary's text of the tokens."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        frame_time: Callable[[int], float],
        confidence: Callable[[Sequence[Token], str], float],
    ) -> None:
        """`frame_time(t)`: start of frame t in seconds. `confidence(tokens, word)`: 0..1."""
        self._vocabulary = vocabulary
        self._frame_time = frame_time
        self._confidence = confidence
        self._tokens: list[Token] = []
        self._words: list[Word] = []
        self._stops: list[int] = []  # per word, the index after its last token

    def words(self, tokens: Sequence[Token]) -> tuple[Word, ...]:
        """The words of the best hypothesis, reusing those of the call before."""
        same = _common(self._tokens, tokens)
        if same == len(tokens) == len(self._tokens):
            return tuple(self._words)
        # A word stays if it was not the last one and the token that ended it is still there.
        keep = max(len(self._stops) - 1, 0)
        while keep and self._stops[keep - 1] >= same:
            keep -= 1
        first = self._stops[keep - 1] if keep else 0
        old = list(zip(self._stops[keep:], self._words[keep:], strict=True))
        del self._words[keep:], self._stops[keep:]
        for text, start, stop in self._vocabulary.words([token.id for token in tokens[first:]]):
            # The last one may turn out to be complete: it is the same word then.
            if old and old[0][0] == first + stop <= same and not self._stops[keep:]:
                word = old[0][1]
            else:
                word = self._word(text, tokens[first + start : first + stop])
            self._words.append(word)
            self._stops.append(first + stop)
        self._tokens = list(tokens)
        return tuple(self._words)

    def assemble(self, tokens: Sequence[Token]) -> tuple[Word, ...]:
        """The words of any other hypothesis."""
        spans = self._vocabulary.words([token.id for token in tokens])
        return tuple(self._word(text, tokens[start:stop]) for text, start, stop in spans)

    def _word(self, text: str, tokens: Sequence[Token]) -> Word:
        start = self._frame_time(tokens[0].start_frame)
        end = self._frame_time(tokens[-1].end_frame)
        return Word(text, start, end, self._confidence(tokens, text))


def _common(old: list[Token], new: Sequence[Token]) -> int:
    """Length of the common prefix. Comparing slices of the same objects is a pointer comparison."""
    size = min(len(old), len(new))
    if old[:size] == list(new[:size]):
        return size
    low, high = 0, size  # old[:low] agrees, old[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if old[low:middle] == list(new[low:middle]):
            low = middle
        else:
            high = middle
    return low
