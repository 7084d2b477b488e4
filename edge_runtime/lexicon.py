"""Which words there are and how common each is, in a few hundred kilobytes.

    lexicon = Lexicon.of({"the": -2.9, "ship": -9.1})
    lexicon.logprob("ship")                             # -9.1
    lexicon.logprob("shipp")                            # None: no such word

What the word pieces of a greedy search spell need not be a word; where it is none, it is wrong. A
word is looked up by its CRC-32 in a sorted table, little-endian:

    magic    8 bytes    VCLEXIC1
    count    u32
    hashes   u32[count] CRC-32 of the words' UTF-8, ascending, no two alike
    rarity   u8[count]  -ln p in tenths of a nat, 25.5 at most

What is no word is taken for one once in 2^32 / count times: with 77 thousand words, in 56 thousand.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from zlib import crc32

import numpy as np

from edge_runtime.errors import BundleError

MAGIC = b"VCLEXIC1"
RAREST = -14.0  # ln p that a word has at least, and that what is no word has
RARE = -10.0  # ln p of a word that is known from elsewhere; about once in 20 000 words
_HEAD = struct.Struct("<8sI")
_REMEDY = "export the bundle again"


class Lexicon:
    """Immutable."""

    def __init__(
        self, hashes: array[int], rarity: bytes, more: Mapping[str, float] | None = None
    ) -> None:
        self._hashes = hashes  # u32, ascending
        self._rarity = rarity
        self._more = dict(more or {})

    @classmethod
    def of(cls, words: Mapping[str, float]) -> Lexicon:
        """From ln p of each word."""
        rarity: dict[int, int] = {}
        for word, logprob in words.items():
            key, tenths = crc32(word.encode()), round(10 * min(25.5, max(0.0, -logprob)))
            rarity[key] = min(tenths, rarity.get(key, 255))  # two words of one hash: the commoner
        hashes = sorted(rarity)
        return cls(array("I", hashes), bytes(rarity[key] for key in hashes))

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Raises BundleError naming the file."""
        try:
            return cls.parse(path.read_bytes(), file=str(path))
        except OSError as error:
            raise BundleError("cannot be read", file=str(path), remedy=_REMEDY) from error

    @classmethod
    def parse(cls, data: bytes, *, file: str = "lexicon.bin") -> Lexicon:
        """Raises BundleError naming `file`."""
        magic, count = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0)
        if magic != MAGIC or len(data) != _HEAD.size + 5 * count:
            raise BundleError(
                "is no lexicon", file=file, expected=f"{MAGIC.decode()} and its tables",
                remedy=_REMEDY,
            )  # fmt: skip
        hashes = np.frombuffer(data, "<u4", count, _HEAD.size)
        if not (hashes[1:] > hashes[:-1]).all():
            raise BundleError("is not in order", file=file, field="hashes", remedy=_REMEDY)
        native = hashes.astype("=u4").tobytes()
        return cls(array("I", native), data[_HEAD.size + hashes.nbytes :])

    def to_bytes(self) -> bytes:
        """The content of its file; what `knowing` added is not in it."""
        hashes = np.array(self._hashes, "<u4")
        return _HEAD.pack(MAGIC, len(hashes)) + hashes.tobytes() + self._rarity

    def knowing(self, words: Iterable[str]) -> Lexicon:
        """The same with these words, which are rare where it has them not."""
        more = {word: RARE for word in words if self.logprob(word) is None}
        return Lexicon(self._hashes, self._rarity, {**self._more, **more})

    def __len__(self) -> int:
        return len(self._hashes) + len(self._more)

    def logprob(self, word: str) -> float | None:
        """ln p of a word on its own, None for what is no word."""
        key = crc32(word.encode())
        at = bisect_left(self._hashes, key)
        if at < len(self._hashes) and self._hashes[at] == key:
            return max(RAREST, self._rarity[at] / -10)
        return self._more.get(word)
