"""Which words there are: what goes in comes out, and bad files are refused."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BundleError
from edge_runtime.lexicon import MAGIC, RARE, RAREST, Lexicon

WORDS = {"the": -2.9, "ship": -9.1, "o'clock": -11.4, "zygote": -13.4}


@given(
    st.dictionaries(
        st.text("abcdefghijklmnopqrstuvwxyz'é", min_size=1), st.floats(RAREST, 0.0), max_size=200
    )
)
def test_every_word_is_found_again_with_its_probability(words: dict[str, float]) -> None:
    found = Lexicon.parse(Lexicon.of(words).to_bytes())
    for word, logprob in words.items():
        common = max(
            p for other, p in words.items() if crc32(other.encode()) == crc32(word.encode())
        )
        assert found.logprob(word) == pytest.approx(common, abs=0.051)
        assert logprob <= common


def test_what_is_no_word_is_not_found() -> None:
    lexicon = Lexicon.of(WORDS)
    assert [lexicon.logprob(word) for word in ("", "th", "thee", "shipp", "The")] == [None] * 5
    assert len(lexicon) == 4


def test_nothing_is_rarer_than_what_is_no_word() -> None:
    assert Lexicon.of({"hapax": -30.0}).logprob("hapax") == RAREST
    assert Lexicon.of({"never": -math.inf}).logprob("never") == RAREST


def test_words_known_from_elsewhere_are_rare_and_change_nothing_else() -> None:
    lexicon = Lexicon.of(WORDS)
    more = lexicon.knowing(["vitconformer", "the"])
    assert (more.logprob("vitconformer"), more.logprob("the")) == (RARE, lexicon.logprob("the"))
    assert (lexicon.logprob("vitconformer"), len(more)) == (None, 5)
    assert more.to_bytes() == lexicon.to_bytes()


def test_the_file_is_the_same_whatever_the_order_of_the_words() -> None:
    assert Lexicon.of(dict(reversed(WORDS.items()))).to_bytes() == Lexicon.of(WORDS).to_bytes()


def test_the_file_is_what_the_format_says() -> None:
    key = crc32(b"ship")
    assert Lexicon.of({"ship": -9.1}).to_bytes() == struct.pack("<8sIIB", MAGIC, 1, key, 91)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no lexicon"),
        (b"VCLEXIC2" + bytes(4), "is no lexicon"),
        (struct.pack("<8sIIB", MAGIC, 2, 7, 91), "is no lexicon"),
        (struct.pack("<8sIIB", MAGIC, 1, 7, 91) + b"\0", "is no lexicon"),
        (struct.pack("<8sI2I2B", MAGIC, 2, 7, 7, 1, 1), "is not in order"),
        (struct.pack("<8sI2I2B", MAGIC, 2, 8, 7, 1, 1), "is not in order"),
    ],
)
def test_bytes_that_are_no_lexicon_are_refused_by_name(data: bytes, problem: str) -> None:
    with pytest.raises(BundleError, match=rf"^words\.bin: .*{problem}"):
        Lexicon.parse(data, file="words.bin")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_lexicon_or_a_bundle_error(data: bytes) -> None:
    for content in (data, MAGIC + data):
        with suppress(BundleError):
            Lexicon.parse(content).logprob("word")


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"lexicon\.bin"):
        Lexicon.load(tmp_path / "lexicon.bin")
