"""Texts as they are compared and learned: lower case, words of letters and inner apostrophes.

Whisper writes "Mr. O'Hara, at 5 p.m."; a student writes what is spoken.  Case and punctuation are
removed here.  Figures and abbreviations are not spelled out, because there is more than one way to
read them: such a text is not writable in the student's letters, and a rule says so.
"""

from __future__ import annotations

import re
import unicodedata

_FOLD = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\xe6": "ae", "\xdf": "ss"})
_APOSTROPHES = re.compile(r"(?<![^\W_])'|'(?![^\W_])")
_TAG = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")  # [MUSIC], (laughs), <unk>


def plain(text: str) -> str:
    """Any transcript as lower-case words; figures, foreign letters and symbols stay as they are."""
    text = unicodedata.normalize("NFKC", _TAG.sub(" ", text)).lower()
    text = unicodedata.normalize("NFKC", text.translate(_FOLD))
    text = "".join(" " if _is_punctuation(letter) else letter for letter in text)
    return " ".join(_APOSTROPHES.sub(" ", text).split())


def _is_punctuation(letter: str) -> bool:
    return letter != "'" and unicodedata.category(letter)[0] == "P" and letter not in "%&@#"


def distance(a: str, b: str) -> float:
    """Character edits over the length of the longer text: 0 the same, 1 nothing in common."""
    from edge_runtime.metrics import char_errors

    longer = max(len(a), len(b))
    return min(1.0, char_errors(a, b).errors / longer) if longer else 0.0
