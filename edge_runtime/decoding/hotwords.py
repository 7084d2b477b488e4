"""Phrases the user expects, as a context graph that rewards prefixes for spelling them.

The graph is an Aho-Corasick automaton (Commun. ACM 18(6), 1975) over the *characters* of the
spelled text, word starts (`▁`) included, not over pieces: whichever pieces spell a phrase, it
earns the same. A phrase is matched as whole words: it is stored as `▁new▁york▁`, and the last `▁`
is the next word's start or the end of the utterance, so "cat" is not rewarded within "category".
Word starts in a row, which some vocabularies can write, count as one.

What a text has earned is a function of its characters alone:

    sum of the boosts of all phrases completed in it
    + the credit of the longest phrase beginning it is in the middle of

The credit of a beginning is the phrase's boost times the share of its letters that are spelled
(the first `▁` earns nothing, or every word start would be favoured). When a match fails, the
automaton falls back to the longest beginning that is still possible, and the difference in credit
is taken back with it. At the end of the utterance all credit for the unfinished is taken back.

A boost is given in nats per piece: `piece count of the shortest spelling x boost` is what a whole
phrase earns, so that long phrases, which have more pieces to lose, earn more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.errors import ConfigError
from edge_runtime.tokens import WORD_START, Vocabulary

MAX_BOOST = 100.0  # nats per piece; more than any acoustic evidence, and still far from overflow
_MAX_MOVES = 1 << 16  # remembered (state, token) pairs: about 10 MB


@dataclass(frozen=True, slots=True)
class Hotword:
    """A phrase of one or more words and its boost in nats per piece (negative: avoid it)."""

    phrase: str
    boost: float


def parse_hotword(text: str, *, default_boost: float) -> Hotword:
    """`"ada lovelace"` or `"ada lovelace:2.5"`. Raises ConfigError."""
    phrase, colon, number = text.rpartition(":")
    if not colon:
        phrase, boost = text, default_boost
    else:
        try:
            boost = float(number)
        except ValueError:
            raise ConfigError(
                f"hotword {text!r}: {number!r} is not a number; write 'phrase' or 'phrase:boost'"
            ) from None
    phrase = " ".join(phrase.split())
    if not phrase:
        raise ConfigError(f"hotword {text!r}: the phrase is empty")
    if not -MAX_BOOST <= boost <= MAX_BOOST:  # false for NaN too
        raise ConfigError(f"hotword {text!r}: the boost must be within ±{MAX_BOOST:g}")
    return Hotword(phrase, boost)


class HotwordGraph:
    """The automaton. States are ints; `start` is the state at a word boundary."""

    def __init__(self, hotwords: Sequence[Hotword], vocabulary: Vocabulary) -> None:
        """Raises ConfigError for a phrase no pieces of the vocabulary spell."""
        self._next: list[dict[str, int]] = [{}]  # per state, by character
        self._fail: list[int] = [0]
        self._credit: list[float] = [0.0]  # of the beginning this state is
        self._earned: list[float] = [0.0]  # by the phrases that are complete on reaching it
        self._boundary: list[bool] = [False]  # is it reached by a word start?
        boosts: dict[str, float] = {}  # of two entries for one phrase the last counts
        for hotword in hotwords:
            text, pieces = _spell(hotword.phrase, vocabulary)
            boosts[text] = hotword.boost * pieces
        for text, boost in boosts.items():
            self._add(text, boost)
        self._link()
        self._pieces = vocabulary.pieces
        self._moves: dict[tuple[int, int], tuple[int, float]] = {}
        self.start = self._walk(0, WORD_START)[0]

    def advance(self, state: int, token: int) -> tuple[int, float]:
        """The state after the token's piece, and what it earned (or lost), in nats."""
        move = self._moves.get((state, token))
        if move is None:
            if len(self._moves) >= _MAX_MOVES:
                self._moves.clear()
            move = self._moves[state, token] = self._walk(state, self._pieces[token])
        return move

    def final(self, state: int) -> float:
        """What the end of the utterance earns: phrases end here, beginnings earn nothing."""
        end, earned = self._walk(state, WORD_START)
        return earned - self._credit[end]

    def _add(self, text: str, boost: float) -> None:
        """`text` without the closing word start."""
        state = 0
        for depth, character in enumerate(text):
            state = self._child(state, character)
            credit = boost * depth / (len(text) - 1)
            # Phrases that begin alike share the state, which can only promise one of them.
            self._credit[state] = max(self._credit[state], credit)
        self._earned[self._child(state, WORD_START)] += boost

    def _child(self, state: int, character: str) -> int:
        child = self._next[state].get(character)
        if child is None:
            child = self._next[state][character] = len(self._next)
            self._next.append({})
            self._fail.append(0)
            self._credit.append(-math.inf)
            self._earned.append(0.0)
            self._boundary.append(character == WORD_START)
        return child

    def _link(self) -> None:
        """Failure links in breadth-first order, and with them what shorter phrases earn."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._next[state].items():
                fallback = self._fail[state]
                while fallback and character not in self._next[fallback]:
                    fallback = self._fail[fallback]
                self._fail[child] = self._next[fallback].get(character, 0)
                self._earned[child] += self._earned[self._fail[child]]
                queue.append(child)
        for state, credit in enumerate(self._credit):
            # A closing word start ends its phrase: what counts on is the beginning it also is.
            if credit == -math.inf:
                beginning = self._fail[state]
                while not self._next[beginning]:
                    beginning = self._fail[beginning]
                self._credit[state] = self._credit[beginning]

    def _walk(self, state: int, text: str) -> tuple[int, float]:
        earned = -self._credit[state]
        for character in text:
            if character == WORD_START and self._boundary[state]:
                continue
            while state and character not in self._next[state]:
                state = self._fail[state]
            state = self._next[state].get(character, 0)
            earned += self._earned[state]
        return state, earned + self._credit[state]


def _spell(phrase: str, vocabulary: Vocabulary) -> tuple[str, int]:
    """`▁new▁york` and the least number of pieces that spell it.

    The phrase is tried as it is, in lower case and in upper case.
    """
    pieces = set(vocabulary.pieces[: vocabulary.blank_id])
    longest = max(map(len, pieces), default=0)
    for variant in dict.fromkeys((phrase, phrase.lower(), phrase.upper())):
        text = WORD_START + variant.replace(" ", WORD_START)
        fewest: list[int | None] = [0]  # pieces for text[:i]
        for stop in range(1, len(text) + 1):
            counts = [
                before + 1
                for first in range(max(0, stop - longest), stop)
                if (before := fewest[first]) is not None and text[first:stop] in pieces
            ]
            fewest.append(min(counts, default=None))
        if (count := fewest[-1]) is not None:
            return text, count
    known = set("".join(pieces)) | {" "}
    strange = sorted({c for c in phrase if not {c, c.lower(), c.upper()} & known})
    reason = f"it never writes {' '.join(strange)}" if strange else "no pieces of it fit together"
    raise ConfigError(
        f"hotword {phrase!r} cannot be spelled with this model's vocabulary: {reason}"
    )
