"""Word n-gram language models: ARPA text or KenLM binary files.

`kenlm` (extra `lm`) reads both, and starts sooner; without it `arpa.py` reads the text and answers
the same. The search needs only the three methods of `NgramModel`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.decoding.arpa import END, LN10, ArpaModel
from edge_runtime.errors import ConfigError


class NgramModel(Protocol):
    """A language model with explicit states, hashable and equal where they are; scores are natural
    logs.
    """

    def start(self) -> Any:
        """The state at the start of a sentence."""

    def score(self, state: Any, word: str) -> tuple[float | None, Any]:
        """ln p(word | state), None for a word the model does not know, and the state after it."""

    def end(self, state: Any) -> float:
        """ln p(end of sentence | state)."""


class KenLM:
    """`NgramModel` over a `kenlm.Model`."""

    def __init__(self, model: Any, state: type) -> None:
        self._model = model
        self._new_state = state

    def start(self) -> Any:
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str) -> tuple[float | None, Any]:
        after = self._new_state()
        log10 = self._model.BaseScore(state, word, after)
        return (log10 * LN10 if word in self._model else None), after

    def end(self, state: Any) -> float:
        return float(self._model.BaseScore(state, END, self._new_state())) * LN10


def word_beginnings(path: Path | str) -> Mapping[str, float]:
    """The beginnings of an ARPA file's words, each with ln p of the likeliest word it begins.

    {} for KenLM's binary files, which do not say what words they know.
    """
    best: dict[str, float] = {}
    for word, logprob in unigrams(Path(path)):
        for end in range(1, len(word) + 1):
            if logprob > best.get(word[:end], -math.inf):
                best[word[:end]] = logprob
    return best


def unigrams(path: Path) -> Iterator[tuple[str, float]]:
    """The words of an ARPA file, each with ln p on its own; nothing for other files."""
    if not _is_arpa(path):
        return
    with path.open("rb") as file:
        inside = False
        for line in file:
            if line.startswith(b"\\"):
                if inside:
                    return
                inside = line.startswith(b"\\1-grams:")
            elif inside and len(fields := line.split()) >= 2:
                word = fields[1].decode("utf-8", "replace")
                if not word.startswith("<"):  # <s>, </s>, <unk> are not spelt
                    yield word, float(fields[0]) * LN10


def _is_arpa(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\\data\\" in file.read(4096)
    except OSError as error:
        raise ConfigError(f"language model {path}: cannot be read: {error.strerror}") from error


def open_ngram(path: Path | str) -> NgramModel:
    """Reads an ARPA or KenLM binary file.

    Raises ConfigError if the file is missing or no such model, or needs `kenlm` and that is not
    installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"language model {path}: no such file")
    try:
        import kenlm
    except ImportError as error:
        if _is_arpa(path):
            return ArpaModel.load(path)
        raise ConfigError(
            f"language model {path}: is no ARPA text; for KenLM's binary files the kenlm package "
            "is missing; install it with pip install 'vitconformer[lm]'"
        ) from error
    config = kenlm.Config()
    config.show_progress = False  # kenlm draws its bar on stderr
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        model = kenlm.Model(str(path), config)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"language model {path}: cannot be read: {reason}") from error
    return KenLM(model, kenlm.State)
