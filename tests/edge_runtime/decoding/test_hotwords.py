"""The context graph against its definition: a function of the spelled text alone."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.decoding.hotwords import Hotword, HotwordGraph, parse_hotword
from edge_runtime.errors import ConfigError
from edge_runtime.tokens import BLANK, WORD_START, Vocabulary

LETTERS = "abc"
VOCABULARY = Vocabulary.from_pieces(
    [WORD_START, *LETTERS, *(WORD_START + c for c in LETTERS), "ab", "ca", "▁bc", BLANK]
)
PHRASES = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join)
HOTWORDS = st.dictionaries(PHRASES, st.floats(0.5, 3), min_size=1, max_size=6)
TOKENS = st.lists(st.integers(0, VOCABULARY.blank_id - 1), max_size=12)


def _pieces(text: str) -> int:
    """Fewest pieces that spell `text`, by trying all segmentations."""
    for count in range(1, len(text) + 1):
        for cuts in itertools.combinations(range(1, len(text)), count - 1):
            edges = [0, *cuts, len(text)]
            if all(text[a:b] in VOCABULARY.pieces for a, b in itertools.pairwise(edges)):
                return count
    raise AssertionError(text)


def _defined(text: str, hotwords: dict[str, float], ended: bool) -> float:
    """What the module's docstring says a text has earned."""
    spelled = {WORD_START + p.replace(" ", WORD_START): b for p, b in hotwords.items()}
    boosts = {phrase: boost * _pieces(phrase) for phrase, boost in spelled.items()}
    text = re.sub(f"{WORD_START}+", WORD_START, WORD_START + text + (WORD_START if ended else ""))
    earned = 0.0
    for phrase, boost in boosts.items():
        closed = phrase + WORD_START
        earned += boost * sum(
            text.startswith(closed, k) for k in range(len(text) - len(closed) + 1)
        )
    if ended:
        return earned
    for k in range(len(text)):  # the longest beginning of a phrase that the text ends with
        credits = [
            boost * (len(text) - k - 1) / (len(phrase) - 1)
            for phrase, boost in boosts.items()
            if phrase.startswith(text[k:])
        ]
        if credits:
            return earned + max(credits)
    return earned


def _graph(hotwords: dict[str, float]) -> HotwordGraph:
    return HotwordGraph([Hotword(p, b) for p, b in hotwords.items()], VOCABULARY)


def _earned(graph: HotwordGraph, tokens: list[int]) -> tuple[float, float]:
    """While the text goes on, and if it ends."""
    state, total = graph.start, 0.0
    for token in tokens:
        state, earned = graph.advance(state, token)
        total += earned
    return total, total + graph.final(state)


@given(HOTWORDS, TOKENS)
@settings(deadline=None)
def test_every_text_earns_what_the_definition_says(
    hotwords: dict[str, float], tokens: list[int]
) -> None:
    text = "".join(VOCABULARY.pieces[i] for i in tokens)
    going_on, ended = _earned(_graph(hotwords), tokens)
    assert going_on == pytest.approx(_defined(text, hotwords, ended=False), abs=1e-9)
    assert ended == pytest.approx(_defined(text, hotwords, ended=True), abs=1e-9)


def test_phrases_inside_phrases_are_all_rewarded() -> None:
    hotwords = {"b": 1.0, "a b": 2.0, "b c": 0.7, "a b c a": 3.0, "c": 0.3, "ca b": 0.9}
    graph = _graph(hotwords)
    alphabet = _ids("▁a", "▁b", "▁c", "a")
    for tokens in itertools.product(alphabet, repeat=5):
        text = "".join(VOCABULARY.pieces[i] for i in tokens)
        going_on, ended = _earned(graph, list(tokens))
        assert going_on == pytest.approx(_defined(text, hotwords, ended=False), abs=1e-9)
        assert ended == pytest.approx(_defined(text, hotwords, ended=True), abs=1e-9)


def _segmentations(text: str) -> list[list[int]]:
    if not text:
        return [[]]
    return [
        [i, *rest]
        for i, piece in enumerate(VOCABULARY.pieces[: VOCABULARY.blank_id])
        if text.startswith(piece)
        for rest in _segmentations(text[len(piece) :])
    ]


def test_all_spellings_of_a_phrase_earn_the_same() -> None:
    graph = _graph({"abca bc": 2.0})
    spellings = _segmentations("▁abca▁bc")
    assert len(spellings) == 18
    for spelling in spellings:  # the fewest pieces are four: ▁a b ca ▁bc
        assert _earned(graph, spelling)[1] == pytest.approx(8.0)


def _ids(*pieces: str) -> list[int]:
    return [VOCABULARY.pieces.index(piece) for piece in pieces]


def test_part_of_a_longer_word_is_no_match() -> None:
    graph = _graph({"ab": 3.0})
    assert _earned(graph, _ids("▁a", "b"))[1] == pytest.approx(6.0)
    assert _earned(graph, _ids("▁a", "b", "▁c"))[0] == pytest.approx(6.0)
    assert _earned(graph, _ids("▁a", "b", "c"))[0] == pytest.approx(0.0)  # "abc"
    assert _earned(graph, _ids("▁c", "ab"))[1] == pytest.approx(0.0)  # "cab"


def test_a_broken_off_beginning_gives_its_credit_back() -> None:
    graph = _graph({"a b c": 1.0})
    credit = [_earned(graph, _ids("▁a", "▁b", "▁c")[:k])[0] for k in range(4)]
    assert credit == sorted(credit)
    assert credit[0] == 0.0
    assert credit[3] == pytest.approx(3.0)
    assert _earned(graph, _ids("▁a", "▁b"))[1] == pytest.approx(0.0)  # the utterance ends
    assert _earned(graph, _ids("▁a", "▁b", "▁b"))[0] == pytest.approx(0.0)
    # What fails is still the beginning of another match.
    assert _earned(graph, _ids("▁a", "▁b", "▁a"))[0] == pytest.approx(credit[1])


def test_a_word_start_alone_earns_nothing() -> None:
    graph = _graph({"ab": 3.0})
    assert _earned(graph, _ids("▁"))[0] == 0.0
    assert _earned(graph, _ids("▁b", "▁"))[0] == 0.0


def test_negative_boosts_make_a_phrase_less_likely() -> None:
    assert _earned(_graph({"ab": -1.0}), _ids("▁a", "b"))[1] == pytest.approx(-2.0)


def test_of_two_entries_for_a_phrase_the_last_counts() -> None:
    graph = HotwordGraph([Hotword("AB", 9.0), Hotword("ab", 1.0)], VOCABULARY)
    assert _earned(graph, _ids("▁a", "b"))[1] == pytest.approx(2.0)


def test_phrases_are_written_in_the_case_of_the_vocabulary() -> None:
    upper = Vocabulary.from_pieces(["▁A", "B", BLANK])
    graph = HotwordGraph([Hotword("Ab", 1.0)], upper)
    assert graph.final(graph.advance(graph.advance(graph.start, 0)[0], 1)[0]) == 0.0
    assert graph.advance(graph.advance(graph.start, 0)[0], 1)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("phrase", "complaint"),
    [
        ("café", "it never writes f é"),
        ("ab1", "it never writes 1"),
        ("<blk>", "it never writes"),
    ],
)
def test_a_phrase_the_model_cannot_write_is_refused(phrase: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        HotwordGraph([Hotword(phrase, 1.0)], VOCABULARY)


def test_a_phrase_without_a_spelling_is_refused() -> None:
    pieces = Vocabulary.from_pieces(["▁a", "bb", BLANK])
    with pytest.raises(ConfigError, match=r"'ab' cannot be spelled .* no pieces of it fit"):
        HotwordGraph([Hotword("ab", 1.0)], pieces)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ada", Hotword("ada", 1.5)),
        ("ada lovelace:2.5", Hotword("ada lovelace", 2.5)),
        ("  ada   lovelace : -3 ", Hotword("ada lovelace", -3.0)),
        ("a:b:4", Hotword("a:b", 4.0)),
    ],
)
def test_hotwords_are_written_phrase_or_phrase_colon_boost(text: str, expected: Hotword) -> None:
    assert parse_hotword(text, default_boost=1.5) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ada:", "'' is not a number"),
        ("ada:high", "'high' is not a number"),
        (":2", "the phrase is empty"),
        ("  ", "the phrase is empty"),
        ("ada:nan", "must be within"),
        ("ada:1e9", "must be within"),
    ],
)
def test_a_malformed_hotword_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_hotword(text, default_boost=1.5)
