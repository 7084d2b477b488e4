"""An ARPA file read without a library: what kenlm answers, for devices without a compiler.

    model = ArpaModel.load(Path("lm.arpa"))
    logprob, state = model.score(model.start(), "ship")

An n-gram is found by the place of its first n - 1 words in the table before and its last word, one
number of 64 bits, in a sorted table. A state is where the last one, two, … words of the history
are in their tables, so a word costs one look-up per order. Tables take 16 bytes per n-gram.

The format is that of Doug Paul's ARPA tools, as written by SRILM, KenLM and `training.ngram`: log10
probabilities, back-off weights that may be left out, every context of an n-gram listed itself.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError

LN10 = math.log(10)
START, END, UNKNOWN = "<s>", "</s>", "<unk>"  # of a sentence; a word
NOT_LISTED = -1
_SPECIAL = (START, END, UNKNOWN)
_MAX_ORDER = 10
_COUNT = re.compile(rb"ngram (\d+)\s*=\s*(\d+)")

State = tuple[int, ...]  # by length, where the last words are in their tables, or NOT_LISTED


class _Table:
    """The n-grams of one order, sorted by key; scores are natural logs."""

    __slots__ = ("backoffs", "keys", "logprobs")

    def __init__(
        self, keys: NDArray[np.uint64], logprobs: NDArray[np.float32], backoffs: NDArray[np.float32]
    ) -> None:
        self.keys = array("Q", keys.tobytes())
        self.logprobs = array("f", logprobs.tobytes())
        self.backoffs = array("f", backoffs.tobytes())

    def find(self, context: int, word: int) -> int:
        """Where the n-gram is that ends in `word` after the (n - 1)-gram at `context`."""
        key = context << 32 | word
        at = bisect_left(self.keys, key)
        return at if at < len(self.keys) and self.keys[at] == key else NOT_LISTED


class ArpaModel:
    """`edge_runtime.decoding.ngram.NgramModel`; immutable, shared by all streams."""

    def __init__(self, words: dict[str, int], tables: list[_Table]) -> None:
        self._words = words  # -> their places in the unigrams
        self._unigrams, *self._longer = tables
        self._nothing: State = (NOT_LISTED,) * len(self._longer)

    @classmethod
    def load(cls, path: Path) -> ArpaModel:
        """Raises ConfigError naming the file and what is wrong with it."""
        try:
            with path.open("rb") as lines:
                return cls(*_parse(lines))
        except OSError as error:
            raise ConfigError(f"language model {path}: {error.strerror}") from error
        except ValueError as error:  # UnicodeDecodeError too
            raise ConfigError(f"language model {path}: cannot be read: {error}") from error

    def start(self) -> State:
        """The state at the start of a sentence."""
        return self._after(self._words.get(START, NOT_LISTED), self._nothing)

    def score(self, state: State, word: str) -> tuple[float | None, State]:
        """ln p(word | state), None for a word the model does not know, and the state after it."""
        at = self._words.get(word, NOT_LISTED)
        if at == NOT_LISTED or word in _SPECIAL:
            return None, self._after(self._words.get(UNKNOWN, NOT_LISTED), state)
        return self._score(state, at)

    def end(self, state: State) -> float:
        """ln p(end of sentence | state)."""
        return self._score(state, self._words[END])[0]

    def _score(self, state: State, word: int) -> tuple[float, State]:
        found = word
        logprob = self._unigrams.logprobs[word]
        after = []
        shorter = self._unigrams  # the table of the context
        for table, context in zip(self._longer, state, strict=True):
            after.append(found)
            if context == NOT_LISTED:
                found = NOT_LISTED
            elif (found := table.find(context, word)) != NOT_LISTED:
                logprob = table.logprobs[found]
            else:
                logprob += shorter.backoffs[context]
            shorter = table
        return logprob, tuple(after)

    def _after(self, word: int, state: State) -> State:
        """The state after a word of which no score is wanted."""
        if word == NOT_LISTED or not state:
            return self._nothing
        return self._score(state, word)[1]


def _parse(lines: Iterator[bytes]) -> tuple[dict[str, int], list[_Table]]:
    """Raises ValueError."""
    words: dict[bytes, int] = {}
    tables: list[_Table] = []
    keys: list[NDArray[np.uint64]] = []  # of the tables so far
    for n, count in enumerate(_counts(lines), start=1):
        _expect(b"\\%d-grams:" % n, lines)
        logprobs, backoffs, ids = _rows(islice(lines, count), n, words)
        if len(ids) != count:
            raise ValueError(f"{n}-grams: expected {count}, not {len(ids)}")
        found = _keys(ids, keys)
        order = np.argsort(found)
        keys.append(found[order])
        if (keys[-1][1:] == keys[-1][:-1]).any():
            raise ValueError(f"{n}-grams: one of them is listed twice")
        tables.append(_Table(keys[-1], logprobs[order], backoffs[order]))
    _expect(b"\\end\\", lines)
    if END.encode() not in words:
        raise ValueError(f"1-grams: expected {END}")
    return {word.decode(): at for word, at in words.items()}, tables


def _expect(header: bytes, lines: Iterator[bytes]) -> None:
    """The next line that is not empty."""
    line = next(filter(bytes.strip, lines), b"the end of the file").strip()
    if line != header:
        raise ValueError(f"expected {header.decode()}, not {line[:60]!r}")


def _counts(lines: Iterator[bytes]) -> list[int]:
    for line in islice(lines, 100):  # comments may come before
        if line.strip() == b"\\data\\":
            break
    else:
        raise ValueError("is no ARPA file: there is no \\data\\")
    counts: list[int] = []
    for line in lines:
        if not (found := _COUNT.fullmatch(line.strip())):
            break
        if int(found[1]) != len(counts) + 1 or len(counts) == _MAX_ORDER:
            raise ValueError(f"\\data\\: expected orders from 1 to at most {_MAX_ORDER}")
        counts.append(int(found[2]))
    if not counts or max(counts) >= 1 << 31:
        raise ValueError("\\data\\: expected how many n-grams there are")
    return counts


def _rows(
    lines: Iterator[bytes], n: int, words: dict[bytes, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint64]]:
    """-> ln p, ln of the back-off weight, the words' numbers [N, n]; unigrams number the words."""
    logprobs, backoffs, ids = array("d"), array("d"), array("Q")
    for line in lines:
        row = line.split()
        if not n < len(row) < n + 3:
            raise ValueError(f"{n}-grams: expected {n} words between numbers, not {line[:60]!r}")
        if n == 1:
            words.setdefault(row[1], len(words))
        try:
            logprobs.append(float(row[0]))
            backoffs.append(float(row[n + 1]) if len(row) == n + 2 else 0.0)
            ids.extend([words[word] for word in row[1 : n + 1]])
        except KeyError as error:
            raise ValueError(f"{n}-grams: {error.args[0]!r} is no word of the 1-grams") from None
    return _natural(logprobs), _natural(backoffs), np.array(ids, np.uint64).reshape(-1, n)


def _natural(log10: array[float]) -> NDArray[np.float32]:
    values = np.array(log10) * LN10
    if np.isnan(values).any() or (values > 1e30).any():
        raise ValueError("holds a number that is none")
    return np.asarray(np.maximum(values, -1e30), np.float32)


def _keys(ids: NDArray[np.uint64], keys: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Of n-grams, [N, n]: where the context is in the table before, and the last word."""
    found = ids[:, 0]
    for k in range(1, ids.shape[1]):
        context = found if k == 1 else _places(found, keys[k - 1])
        found = context << np.uint64(32) | ids[:, k]
    return found


def _places(wanted: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    at = np.searchsorted(keys, wanted)
    if not (at < len(keys)).all() or (keys[at] != wanted).any():
        raise ValueError("the context of an n-gram is not listed")
    return at.astype(np.uint64)
