"""The vocabulary file and what text its tokens make."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BundleError
from edge_runtime.tokens import Vocabulary

PIECES = ("<unk>", "\u2581", "\u2581the", "\u2581c", "at", "s", "'", "<blk>")
VOCABULARY = Vocabulary.from_pieces(PIECES)


def ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


def test_text_is_the_pieces_with_word_starts_as_spaces() -> None:
    assert VOCABULARY.detokenise(ids("\u2581the", "\u2581c", "at", "s")) == "the cats"
    assert VOCABULARY.detokenise(ids("at", "\u2581", "s")) == "at s"
    assert VOCABULARY.detokenise([]) == ""
    assert VOCABULARY.detokenise(ids("\u2581c", "<blk>", "at")) == "cat"


def test_words_know_their_tokens() -> None:
    assert VOCABULARY.words(ids("\u2581the", "\u2581c", "at")) == [("the", 0, 1), ("cat", 1, 3)]
    assert VOCABULARY.words(ids("at")) == [("at", 0, 1)]  # nothing said where it starts
    assert VOCABULARY.words(ids("\u2581the", "\u2581", "s")) == [("the", 0, 1), ("s", 1, 3)]
    assert VOCABULARY.words(ids("\u2581", "\u2581the")) == [("the", 0, 2)]
    assert VOCABULARY.words(ids("\u2581")) == []


@given(st.lists(st.integers(0, len(PIECES) - 2)))
def test_the_words_joined_are_the_text(tokens: list[int]) -> None:
    words = VOCABULARY.words(tokens)
    assert " ".join(word for word, _, _ in words) == VOCABULARY.detokenise(tokens)
    edges = [edge for _, first, stop in words for edge in (first, stop)]
    assert edges == sorted(edges)


def test_the_blank_is_last() -> None:
    assert VOCABULARY.blank_id == 7 == len(VOCABULARY) - 1
    with pytest.raises(ValueError, match="<blk>"):
        Vocabulary.from_pieces(["<blk>", "a"])


def test_a_written_vocabulary_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    for pieces in (PIECES, ("\u2028", "\x85", "  ", "a b", "<blk>")):
        path.write_bytes(Vocabulary.from_pieces(pieces).to_text().encode())
        assert Vocabulary.load(path).pieces == pieces
    path.write_bytes(VOCABULARY.to_text().replace("\n", "\r\n").encode())
    assert Vocabulary.load(path) == VOCABULARY


def test_the_order_of_lines_does_not_matter() -> None:
    assert Vocabulary.parse("<blk> 1\na 0\n").pieces == ("a", "<blk>")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "blank"),
        ("a 0\n", "blank"),
        ("<blk> 0\na 1\n", "blank"),
        ("a\n<blk> 1\n", "line 1"),
        ("a 0\n<blk> one\n", "line 2"),
        ("a 0\n<blk> -1\n", "line 2"),
        ("a 0\n<blk> \u0661\n", "line 2"),
        ("a 0\n<blk> 99999999999\n", "line 2"),
        ("a 0\nb 0\n<blk> 1\n", "id 0 appears twice"),
        ("a 0\na 0\n<blk> 1\n", "id 0 appears twice"),
        ("a 0\n<blk> 2\n", "id 1 is missing"),
        (" 0\n<blk> 1\n", "line 1"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=rf"tokens\.txt.*{complaint}"):
        Vocabulary.load(path)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "tokens.txt", tmp_path, tmp_path / "missing.txt"):
        with pytest.raises(BundleError, match=str(path)):
            Vocabulary.load(path)
