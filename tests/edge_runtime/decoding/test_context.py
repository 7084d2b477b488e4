"""Look-ahead changes what unfinished words earn, never what a finished sentence earns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edge_runtime.decoding.context import Context, ContextState
from edge_runtime.decoding.ngram import LN10, open_ngram, word_beginnings
from edge_runtime.tokens import Vocabulary
from tests.edge_runtime.decoding.arpa import UNIGRAM, write_arpa

PIECES = ("▁a", "▁b", "a", "b", "▁z", "z", "<blk>")
WEIGHT, UNKNOWN, BONUS = 0.7, -20.0, 1.5


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    path = tmp_path / "tokens.txt"
    path.write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)), "utf-8")
    return Vocabulary.load(path)


def context(
    vocabulary: Vocabulary,
    lm: Path,
    *,
    ahead: bool,
    known: tuple[str, ...] = (),
    letter: float = 0.0,
) -> Context:
    return Context(
        vocabulary,
        ngram=open_ngram(lm),
        lm_weight=WEIGHT,
        word_bonus=BONUS,
        unknown_logprob=UNKNOWN,
        letter_logprob=letter,
        beginnings=word_beginnings(lm) if ahead else None,
        known=known,
    )


def walk(context: Context, *pieces: str) -> ContextState:
    state = context.start()
    for piece in pieces:
        state = context.advance(state, PIECES.index(piece))
    return state


def test_the_beginnings_of_words_earn_what_the_likeliest_of_them_would(tmp_path: Path) -> None:
    found = word_beginnings(write_arpa(tmp_path))
    assert found == {
        "a": pytest.approx(UNIGRAM["a"] * LN10),
        "ab": pytest.approx(UNIGRAM["ab"] * LN10),
        "b": pytest.approx(UNIGRAM["b"] * LN10),
    }


def test_a_binary_model_says_nothing_of_its_words(tmp_path: Path) -> None:
    (tmp_path / "lm.binary").write_bytes(b"mmap lm http://kheafield.com/code\0" + bytes(9000))
    assert word_beginnings(tmp_path / "lm.binary") == {}


@pytest.mark.parametrize(
    "pieces",
    [(), ("▁a",), ("▁a", "b"), ("▁a", "b", "▁a", "▁b"), ("▁z", "z"), ("▁z", "▁a", "z", "▁b")],
)
def test_a_finished_sentence_earns_the_same_with_and_without_looking_ahead(
    vocabulary: Vocabulary, tmp_path: Path, pieces: tuple[str, ...]
) -> None:
    pytest.importorskip("kenlm")
    lm = write_arpa(tmp_path)
    ends = [
        (c := context(vocabulary, lm, ahead=ahead)).final(walk(c, *pieces))
        for ahead in (False, True)
    ]
    assert ends[0] == pytest.approx(ends[1], abs=1e-9)


def test_letters_that_begin_no_word_are_charged_for_at_once(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    pytest.importorskip("kenlm")
    aware = context(vocabulary, write_arpa(tmp_path), ahead=True)
    assert walk(aware, "▁a").bonus == pytest.approx(WEIGHT * UNIGRAM["a"] * LN10)
    assert walk(aware, "▁a", "b").bonus == pytest.approx(WEIGHT * UNIGRAM["ab"] * LN10)
    assert walk(aware, "▁a", "b", "z").bonus == pytest.approx(WEIGHT * UNKNOWN)


def test_an_unknown_word_costs_by_its_letters_from_the_first_that_begins_no_word(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    dear = context(vocabulary, write_arpa(tmp_path), ahead=True, letter=-2.0)
    assert walk(dear, "▁a", "b").bonus == pytest.approx(WEIGHT * UNIGRAM["ab"] * LN10)
    for letters in (3, 4, 5):
        state = walk(dear, "▁a", "b", *["z"] * (letters - 2))
        spelt = WEIGHT * (UNKNOWN - 2.0 * letters)
        assert state.bonus == pytest.approx(spelt)
        assert state.bonus + dear.close(state)[0] == pytest.approx(spelt + BONUS)


def test_prefixes_of_one_future_earn_the_same_from_there_on(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    aware = context(vocabulary, write_arpa(tmp_path), ahead=True)
    one, other = walk(aware, "▁b", "▁a", "b"), walk(aware, "▁z", "▁a", "b")
    assert aware.future(one) != aware.future(other)  # "a" after "b" is not "a" after nothing
    one, other = walk(aware, "▁b", "▁a", "▁b"), walk(aware, "▁z", "▁a", "▁b")
    assert aware.future(one) == aware.future(other) and one.bonus != other.bonus
    for rest in ((), ("a",), ("▁a", "b", "▁a"), ("z", "▁z")):
        ends = []
        for state in (one, other):
            begun = state.bonus
            for piece in rest:
                state = aware.advance(state, PIECES.index(piece))
            ends.append(aware.final(state) - begun)
        assert ends[0] == pytest.approx(ends[1], abs=1e-9)


def test_a_hotword_is_no_unknown_word(vocabulary: Vocabulary, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    lm = write_arpa(tmp_path)
    plain = context(vocabulary, lm, ahead=True)
    named = context(vocabulary, lm, ahead=True, known=("zz", "az"))
    for pieces in (("▁z",), ("▁z", "z"), ("▁a", "z")):
        assert walk(named, *pieces).bonus > walk(plain, *pieces).bonus + 5
        assert math.isfinite(named.final(walk(named, *pieces)))
    assert named.final(walk(named, "▁z", "z")) > plain.final(walk(plain, "▁z", "z")) + 5
    assert walk(named, "▁a").bonus == walk(plain, "▁a").bonus  # a known word stays what it was
