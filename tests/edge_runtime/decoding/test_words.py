"""Words of tokens: the vocabulary's text, the tokens' times, and no work done twice."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.decoding import Token
from edge_runtime.decoding.words import WordAssembler
from edge_runtime.events import Word
from tests.edge_runtime.decoding.brute import VOCABULARY

IDS = st.lists(st.integers(0, VOCABULARY.blank_id - 1), max_size=20)


def _tokens(ids: Sequence[int], first: int = 0) -> list[Token]:
    return [Token(i, first + 3 * k, first + 3 * k + 2, -0.1) for k, i in enumerate(ids)]


def _assembler(calls: list[str] | None = None) -> WordAssembler:
    def confidence(tokens: Sequence[Token], word: str) -> float:
        if calls is not None:
            calls.append(word)
        return 1 / (1 + len(tokens))

    return WordAssembler(VOCABULARY, lambda frame: 0.5 + frame * 0.04, confidence)


@given(IDS)
@settings(deadline=None)
def test_joined_words_are_the_vocabularys_text(ids: list[int]) -> None:
    words = _assembler().words(_tokens(ids))
    assert " ".join(word.word for word in words) == VOCABULARY.detokenise(ids)


def test_a_word_lasts_from_its_first_token_to_its_last() -> None:
    ids = [VOCABULARY.pieces.index(piece) for piece in ("▁a", "b", "▁b")]
    first, second = _assembler().words(_tokens(ids))
    assert first == Word("ab", 0.5, 0.5 + 5 * 0.04, 1 / 3)
    assert second == Word("b", 0.5 + 6 * 0.04, 0.5 + 8 * 0.04, 1 / 2)


@given(st.lists(st.tuples(st.integers(0, 20), IDS), max_size=8))
@settings(deadline=None)
def test_reuse_gives_what_building_anew_gives(changes: list[tuple[int, list[int]]]) -> None:
    """Hypotheses that share a beginning, as a beam's best ones do from partial to partial."""
    assembler, tokens = _assembler(), list[Token]()
    for keep, ids in changes:
        kept = tokens[:keep]
        tokens = kept + _tokens(ids, first=1000 + (kept[-1].end_frame if kept else 0))
        assert assembler.words(tokens) == _assembler().words(tokens)
        assert assembler.words(tokens) == assembler.assemble(tokens)


def test_a_token_that_only_lasts_longer_changes_its_word() -> None:
    assembler = _assembler()
    before = assembler.words([Token(1, 0, 1, -0.1)])
    after = assembler.words([Token(1, 0, 2, -0.1)])
    assert (before[0].end, after[0].end) == (0.54, 0.58)


def test_the_list_may_be_changed_in_place_by_its_owner() -> None:
    assembler, tokens = _assembler(), _tokens([1, 3])
    assert [word.word for word in assembler.words(tokens)] == ["ab"]
    tokens.append(Token(5, 9, 10, -0.1))
    assert [word.word for word in assembler.words(tokens)] == ["ab", "b"]
    tokens[1] = Token(2, 3, 5, -0.1)
    assert [word.word for word in assembler.words(tokens)] == ["aa", "b"]


def test_each_word_is_scored_once_when_it_is_complete() -> None:
    calls: list[str] = []
    assembler = _assembler(calls)
    tokens = _tokens([1, 3] * 50)  # fifty times "ab"
    for k in range(len(tokens) + 1):
        assembler.words(tokens[:k])
        assembler.words(tokens[:k])  # nothing new
    assert calls == ["a", "ab"] * 50
