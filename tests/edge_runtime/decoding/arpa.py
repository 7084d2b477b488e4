"""A bigram language model small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

# log10 probabilities
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.0\t<s>\t-0.5
-1.2\t</s>
-2.0\t<unk>
-0.7\ta\t-0.3
-0.9\tab\t-0.2
-1.1\tb\t-0.4

\\2-grams:
-0.2\t<s> ab
-0.4\tab a
-0.3\ta </s>
-0.6\tb ab

\\end\\
"""
SENTENCE_START = "<s>"
UNIGRAM = {"</s>": -1.2, "a": -0.7, "ab": -0.9, "b": -1.1}
BACKOFF = {"<s>": -0.5, "a": -0.3, "ab": -0.2, "b": -0.4}
BIGRAM = {("<s>", "ab"): -0.2, ("ab", "a"): -0.4, ("a", "</s>"): -0.3, ("b", "ab"): -0.6}


def write_arpa(folder: Path) -> Path:
    path = folder / "tiny.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def bigram(before: str, word: str) -> float:
    """log10 p(word | before) of a known word, by back-off; an unknown word is no context."""
    if (before, word) in BIGRAM:
        return BIGRAM[before, word]
    return BACKOFF.get(before, 0.0) + UNIGRAM[word]
