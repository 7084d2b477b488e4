"""The units of the CTC head: SentencePiece unigram pieces, and a blank of our own behind them.

    tokenizer = train_tokenizer(texts, Path("tokenizer"))      # tokenizer.model, tokens.txt
    ids = Tokenizer.load(Path("tokenizer")).encode("so it was")

A vocabulary of 256 pieces (the first is `<unk>`, nothing else is special) gives 257 classes: the
blank is the last id, as the exported graphs have it.  SentencePiece itself never sees the blank.
`tokens.txt` is what devices read (`edge_runtime.tokens`).
"""

from __future__ import annotations

import functools
import io
import math
from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically
from edge_runtime.tokens import BLANK, WORD_START, Vocabulary

MODEL, TOKENS = "tokenizer.model", "tokens.txt"


class Tokenizer:
    """Text to unit ids and back.  Pickles as its directory."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path = path
        self._model = model
        self._scores: dict[str, tuple[int, float]] = {  # piece -> id, log probability
            model.id_to_piece(i): (i, model.get_score(i))
            for i in range(model.get_piece_size())
            if not model.is_unknown(i)
        }
        self._longest = max(map(len, self._scores))  # characters

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """The tokenizer in a directory. Raises ConfigError: not there, or not SentencePiece's."""
        import sentencepiece

        path = Path(path)
        try:
            proto = (path / MODEL).read_bytes()
            model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"{path / MODEL}: cannot read this tokenizer; `vitconformer tokenizer` makes one"
            ) from error
        return cls(path, model)

    @property
    def vocab_size(self) -> int:
        """Classes of the CTC head: pieces and the blank."""
        return self.blank_id + 1

    @property
    def blank_id(self) -> int:
        return int(self._model.get_piece_size())

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """What `tokens.txt` holds."""
        pieces = [self._model.id_to_piece(i) for i in range(self.blank_id)]
        return Vocabulary.from_pieces([*pieces, BLANK])

    def encode(self, text: str) -> list[int]:
        """Unit ids, no blanks."""
        ids: list[int] = self._model.encode(text)
        return ids

    def sample(self, text: str, rng: np.random.Generator, *, alpha: float = 0.1) -> list[int]:
        """One of all segmentations, p ∝ P(segmentation)^alpha: subword regularisation.

        SentencePiece's own sampler cannot be seeded again within a process, so this is forward
        filtering and backward sampling over its scores (Kudo 2018, arXiv:1804.10959, section 3.2).
        """
        scores = self._scores
        marked = WORD_START + text.replace(" ", WORD_START) if text else ""
        # weight[i]: log of the summed p^alpha of all segmentations of marked[:i]
        weight = [0.0] + [-math.inf] * len(marked)
        arcs: list[list[tuple[float, int, int]]] = [[] for _ in weight]  # (log weight, start, id)
        for stop in range(1, len(weight)):
            for start in range(max(0, stop - self._longest), stop):
                if (entry := scores.get(marked[start:stop])) is not None:
                    arcs[stop].append((weight[start] + alpha * entry[1], start, entry[0]))
            if not arcs[stop]:  # a character that no piece has
                arcs[stop].append((weight[stop - 1], stop - 1, self._model.unk_id()))
            top = max(arc[0] for arc in arcs[stop])
            weight[stop] = top + math.log(sum(math.exp(arc[0] - top) for arc in arcs[stop]))
        ids: list[int] = []
        stop = len(marked)
        while stop:
            shares = accumulate(math.exp(arc[0] - weight[stop]) for arc in arcs[stop])
            chosen = min(bisect(list(shares), rng.random()), len(arcs[stop]) - 1)
            _, stop, unit = arcs[stop][chosen]
            ids.append(unit)
        return ids[::-1]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of unit ids; blanks are dropped."""
        return self.vocabulary.detokenise(ids)

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer.load, (self.path,)


def train_tokenizer(texts: Iterable[str], out: Path, *, vocab_size: int = 256) -> Tokenizer:
    """Train `vocab_size` unigram pieces on `texts` into the directory `out`.

    The texts are sorted first, so the result depends on what they say and not on their order.

    Raises:
        ConfigError: too little text for so many pieces, or too many characters for so few.
    """
    import sentencepiece

    lines = sorted(text for text in texts if text)
    if not lines:
        raise ConfigError("no text to train a tokenizer on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1.0,
            normalization_rule_name="identity",  # the text is normalised already (training.text)
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,  # the EM sums depend on how the text is shared among threads
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(f"cannot make {vocab_size} pieces of this text: {error}") from error
    write_atomically(out / MODEL, model.getvalue())
    tokenizer = Tokenizer.load(out)
    write_atomically(out / TOKENS, tokenizer.vocabulary.to_text().encode())
    return tokenizer
