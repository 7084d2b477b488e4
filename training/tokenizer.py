"""The units of the CTC head: SentencePiece unigram pieces, and a blank of our own behind them.

    tokenizer = train_tokenizer(texts, Path("tokenizer"))      # tokenizer.model, tokens.txt
    ids = Tokenizer.load(Path("tokenizer")).encode("so it was")

A vocabulary of 256 pieces (the first is `<unk>`, nothing else is special) gives 257 classes: the
blank is the last id, as the exported graphs have it.  SentencePiece itself never sees the blank.
`tokens.txt` is what devices read (`edge_runtime.tokens`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.tokens import BLANK, Vocabulary
from training.manifest import write_atomically

MODEL, TOKENS = "tokenizer.model", "tokens.txt"


class Tokenizer:
    """Text to unit ids and back.  Pickles as its directory."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path = path
        self._model = model

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

    @property
    def vocabulary(self) -> Vocabulary:
        """What `tokens.txt` holds."""
        pieces = [self._model.id_to_piece(i) for i in range(self.blank_id)]
        return Vocabulary.from_pieces([*pieces, BLANK])

    def encode(self, text: str) -> list[int]:
        """Unit ids, no blanks."""
        ids: list[int] = self._model.encode(text)
        return ids

    def sample(self, text: str, *, alpha: float = 0.1) -> list[int]:
        """One of all segmentations, p ∝ P(segmentation)^alpha (arXiv:1804.10959).

        Draws from SentencePiece's own generator: `seed_sampling` makes it repeatable.
        """
        ids: list[int] = self._model.encode(
            text, enable_sampling=True, nbest_size=-1, alpha=alpha
        )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of unit ids; blanks are dropped."""
        return self.vocabulary.detokenise(ids)

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer.load, (self.path,)


def seed_sampling(seed: int) -> None:
    """Seed `Tokenizer.sample` of this process."""
    import sentencepiece

    sentencepiece.set_random_generator_seed(seed)


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
