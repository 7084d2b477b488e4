"""When an utterance ends, and that a forced cut never falls into a word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.decoding import Token
from edge_runtime.endpoint import Endpoint, EndpointConfig, cut_frame, endpoint

CONFIG = EndpointConfig()
WORD_STARTS = (True, False)  # id 0 starts a word, id 1 goes on with one


def _ends(decoded: bool, silence: float, length: float) -> Endpoint | None:
    return endpoint(CONFIG, decoded=decoded, trailing_silence_s=silence, utterance_s=length)


@pytest.mark.parametrize(
    ("decoded", "silence", "length", "expected"),
    [
        (False, 2.3, 2.3, None),
        (False, 2.4, 2.4, Endpoint.NOTHING_SAID),
        (True, 0.7, 5.0, None),
        (True, 0.8, 5.0, Endpoint.PAUSE),
        (True, 0.0, 19.9, None),
        (True, 0.0, 20.0, Endpoint.TOO_LONG),
        (False, 0.0, 20.0, Endpoint.TOO_LONG),
        (True, 0.8, 20.0, Endpoint.PAUSE),
    ],
)
def test_the_three_rules(
    decoded: bool, silence: float, length: float, expected: Endpoint | None
) -> None:
    assert _ends(decoded, silence, length) is expected


@given(st.booleans(), st.floats(0, 30), st.floats(0, 30), st.floats(0, 5))
@settings(deadline=None)
def test_more_silence_never_takes_an_endpoint_back(
    decoded: bool, silence: float, length: float, more: float
) -> None:
    if _ends(decoded, silence, length) is not None:
        assert _ends(decoded, silence + more, length + more) is not None


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_durations_must_be_positive(value: float) -> None:
    with pytest.raises(ValueError, match="max_utterance_s must be positive"):
        EndpointConfig(max_utterance_s=value)


def _tokens(*spans: tuple[int, int, int]) -> list[Token]:
    return [Token(i, start, end, 0.0) for i, start, end in spans]


def test_a_long_utterance_is_cut_in_the_middle_of_its_widest_recent_gap() -> None:
    tokens = _tokens((0, 0, 1), (0, 40, 41), (0, 47, 48), (0, 57, 58), (0, 60, 61))
    assert cut_frame(tokens, WORD_STARTS, now=62, recent_frames=30) == 53
    # The gap of 39 frames at the beginning is wider, and counts once it is recent enough.
    assert cut_frame(tokens, WORD_STARTS, now=62, recent_frames=62) == 21


def test_of_equal_gaps_the_latest_is_taken() -> None:
    tokens = _tokens((0, 0, 1), (0, 3, 4), (0, 6, 7))
    assert cut_frame(tokens, WORD_STARTS, now=8, recent_frames=100) == 5


def test_an_old_boundary_is_better_than_cutting_a_word() -> None:
    tokens = _tokens((0, 0, 1), (0, 5, 6), *((1, t, t + 1) for t in range(10, 200, 2)))
    assert cut_frame(tokens, WORD_STARTS, now=200, recent_frames=10) == 3


def test_without_a_boundary_everything_so_far_is_the_utterance() -> None:
    assert cut_frame([], WORD_STARTS, now=500, recent_frames=100) == 500
    tokens = _tokens((0, 3, 4), (1, 5, 6))
    assert cut_frame(tokens, WORD_STARTS, now=500, recent_frames=100) == 500


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(1, 4)), max_size=40),
    st.integers(0, 20),
    st.integers(0, 100),
)
@settings(deadline=None)
def test_a_cut_never_falls_into_a_word_or_a_token(
    steps: list[tuple[int, int, int]], silence: int, recent: int
) -> None:
    now, tokens = 0, []
    for i, gap, length in steps:
        tokens.append(Token(i, now + gap, now + gap + length, 0.0))
        now += gap + length
    now += silence
    cut = cut_frame(tokens, WORD_STARTS, now=now, recent_frames=recent)
    assert 0 <= cut <= now
    after = [token for token in tokens if token.start_frame >= cut]
    assert all(token.end_frame <= cut for token in tokens[: len(tokens) - len(after)])
    assert not after or WORD_STARTS[after[0].id]
