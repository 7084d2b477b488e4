"""What a beam search knows besides the acoustics: hotwords and a language model, as one score.

A `Context` maps a prefix of tokens to a state and a bonus in nats, incrementally. Both depend on
the prefix alone, never on frames, so the search computes them once per prefix.

A word is scored by the language model when the next word starts, because only then it is known to
be complete; `final` scores the last one, and the end of the sentence. A prefix without words is
not a sentence, and gets neither.

Until then the letters spelt so far earn what the likeliest word they begin would earn on its own
(language model look-ahead, Ortmanns et al. 1996), or what an unknown word does. A search without it
favours hypotheses that have not finished a word, and ends up with words run together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from edge_runtime.decoding.hotwords import HotwordGraph
from edge_runtime.decoding.ngram import NgramModel
from edge_runtime.lexicon import RARE
from edge_runtime.tokens import WORD_START, Vocabulary


class ContextState(NamedTuple):  # not a dataclass: one is made per prefix the search tries
    """After some prefix. `bonus` is what the whole prefix has earned."""

    bonus: float  # nats
    hotword: int  # state of the hotword graph
    ngram: Any  # language model state after the complete words
    word: str  # the letters of the word that is being spelled
    ahead: float  # what those have earned already, in nats
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
        unknown_logprob: float = -20.0,
        letter_logprob: float = 0.0,
        beginnings: Mapping[str, float] | None = None,
        known: Iterable[str] = (),
    ) -> None:
        """Of one recogniser.

        `beginnings`: see `decoding.ngram.word_beginnings`; without them nothing looks ahead.
        `known`: words that the language model need not know: they are merely rare, not unknown.
        """
        self.vocabulary = vocabulary
        self.has_ngram = ngram is not None
        self.empty = hotwords is None and ngram is None  # every bonus is 0
        self._hotwords = hotwords
        self._ngram = ngram
        self._lm_weight = lm_weight
        self._word_bonus = word_bonus
        self._unknown = unknown_logprob
        self._letter = letter_logprob
        self._known = frozenset(known)
        self._beginnings = dict(beginnings or {})
        self._closed: tuple[ContextState | None, tuple[float, Any]] = None, (0.0, None)
        for word in self._known if beginnings else ():
            for end in range(1, len(word) + 1):
                self._beginnings.setdefault(word[:end], RARE)

    def start(self, ngram: Any = None) -> ContextState:
        """At a word boundary; `ngram` continues a sentence, None starts one."""
        if ngram is None and self._ngram is not None:
            ngram = self._ngram.start()
        hotword = self._hotwords.start if self._hotwords is not None else 0
        return ContextState(0.0, hotword, ngram, "", 0.0, False)

    def advance(self, state: ContextState, token: int) -> ContextState:
        """After one more token."""
        bonus, hotword, ngram = state.bonus, state.hotword, state.ngram
        if self._hotwords is not None:
            hotword, earned = self._hotwords.advance(hotword, token)
            bonus += earned
        if self._ngram is None:
            return ContextState(bonus, hotword, None, "", 0.0, False)
        piece = self.vocabulary.pieces[token]
        if self.vocabulary.word_starts[token]:
            earned, ngram = self.close(state)
            bonus += earned
            word, words = piece[len(WORD_START) :], state.words or bool(state.word)
        else:
            bonus -= state.ahead
            word, words = state.word + piece, state.words
        ahead = self._ahead(word)
        return ContextState(bonus + ahead, hotword, ngram, word, ahead, words)

    def _ahead(self, word: str) -> float:
        """What the letters of an unfinished word earn."""
        if not self._beginnings or not word:
            return 0.0
        logprob = self._beginnings.get(word)
        return self._lm_weight * (self._unknown_word(word) if logprob is None else logprob)

    def _unknown_word(self, word: str) -> float:
        return self._unknown + self._letter * len(word)

    def close(self, state: ContextState) -> tuple[float, Any]:
        """What the word in progress earns besides if it is complete, and the state after it."""
        if self._ngram is None or not state.word:
            return -state.ahead, state.ngram
        last, found = self._closed
        if last is state:  # every token that may begin a word after it asks the same
            return found
        logprob, after = self._ngram.score(state.ngram, state.word)
        if logprob is None:
            known = state.word in self._known
            logprob = RARE if known else self._unknown_word(state.word)
        found = self._lm_weight * logprob + self._word_bonus - state.ahead, after
        self._closed = state, found
        return found

    def future(self, state: ContextState) -> Hashable:
        """What all later bonuses depend on: prefixes that agree in it will earn the same."""
        return state.hotword, state.ngram, state.words, state.word

    def final(self, state: ContextState) -> float:
        """The bonus of the whole prefix if nothing follows."""
        bonus = state.bonus
        if self._hotwords is not None:
            bonus += self._hotwords.final(state.hotword)
        if self._ngram is not None and (state.words or state.word):
            earned, ngram = self.close(state)
            bonus += earned + self._lm_weight * self._ngram.end(ngram)
        return bonus
