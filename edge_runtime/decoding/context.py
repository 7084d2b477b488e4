"""What a beam search knows besides the acoustics: hotwords and a language model, as one score.

A `Context` maps a prefix of tokens to a state and a bonus in nats, incrementally. Both depend on
the prefix alone, never on frames, so the search computes them once per prefix.

A word is scored by the language model when the next word starts, because only then it is known to
be complete; `final` scores the last one, and the end of the sentence. A prefix without words is
not a sentence, and gets neither.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from edge_runtime.decoding.hotwords import HotwordGraph
from edge_runtime.decoding.ngram import NgramModel
from edge_runtime.tokens import WORD_START, Vocabulary


class ContextState(NamedTuple):  # not a dataclass: one is made per prefix the search tries
    """After some prefix. `bonus` is what the whole prefix has earned."""

    bonus: float  # nats
    hotword: int  # state of the hotword graph
    ngram: Any  # language model state after the complete words
    word: str  # the letters of the word that is being spelled
    words: bool  # are there complete words before it?


class Context:
    """Immutable but for its caches; shared by all streams of a recogniser."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        hotwords: HotwordGraph | None = None,
        ngram: NgramModel | None = None,
        lm_weight: float = 0.5,
        word_bonus: float = 1.0,
        unknown_logprob: float = -12.0,
    ) -> None:
        self.vocabulary = vocabulary
        self.empty = hotwords is None and ngram is None  # every bonus is 0
        self._hotwords = hotwords
        self._ngram = ngram
        self._lm_weight = lm_weight
        self._word_bonus = word_bonus
        self._unknown = unknown_logprob

    def start(self, ngram: Any = None) -> ContextState:
        """At a word boundary; `ngram` continues a sentence, None starts one."""
        if ngram is None and self._ngram is not None:
            ngram = self._ngram.start()
        hotword = self._hotwords.start if self._hotwords is not None else 0
        return ContextState(0.0, hotword, ngram, "", False)

    def advance(self, state: ContextState, token: int) -> ContextState:
        """After one more token."""
        bonus, hotword, ngram = state.bonus, state.hotword, state.ngram
        if self._hotwords is not None:
            hotword, earned = self._hotwords.advance(hotword, token)
            bonus += earned
        if self._ngram is None:
            return ContextState(bonus, hotword, None, "", False)
        piece = self.vocabulary.pieces[token]
        if not self.vocabulary.word_starts[token]:
            return ContextState(bonus, hotword, ngram, state.word + piece, state.words)
        earned, ngram = self.close(state)
        words = state.words or bool(state.word)
        return ContextState(bonus + earned, hotword, ngram, piece[len(WORD_START) :], words)

    def close(self, state: ContextState) -> tuple[float, Any]:
        """What the word in progress earns if it is complete, and the model's state after it."""
        if self._ngram is None or not state.word:
            return 0.0, state.ngram
        logprob, after = self._ngram.score(state.ngram, state.word)
        if logprob is None:
            logprob = self._unknown
        return self._lm_weight * logprob + self._word_bonus, after

    def final(self, state: ContextState) -> float:
        """The bonus of the whole prefix if nothing follows."""
        bonus = state.bonus
        if self._hotwords is not None:
            bonus += self._hotwords.final(state.hotword)
        if self._ngram is not None and (state.words or state.word):
            earned, ngram = self.close(state)
            bonus += earned + self._lm_weight * self._ngram.end(ngram)
        return bonus
