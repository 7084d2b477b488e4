"""Greedy tokens are those of the definition, however a stream is cut into blocks and utterances."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.decoding import Token
from edge_runtime.decoding.greedy import GreedyDecoder
from tests.edge_runtime.decoding.brute import aligned, collapse, speech_like

BLANK = 4
ALIGNMENTS = st.lists(st.integers(0, BLANK), max_size=40)


def _decode(logprobs: np.ndarray, cuts: list[int]) -> GreedyDecoder:
    decoder = GreedyDecoder(BLANK)
    for block in np.split(logprobs, sorted(cuts)):
        decoder.advance(block)
    return decoder


@given(ALIGNMENTS)
@settings(deadline=None)
def test_tokens_are_the_collapsed_best_alignment(ids: list[int]) -> None:
    decoder = _decode(aligned(ids, BLANK + 1), [])
    assert tuple(token.id for token in decoder.tokens()) == collapse(tuple(ids), BLANK)


@given(ALIGNMENTS)
@settings(deadline=None)
def test_a_token_covers_exactly_the_frames_that_say_it(ids: list[int]) -> None:
    logprobs = aligned(ids, BLANK + 1)
    tokens = _decode(logprobs, []).tokens()
    frames = {t: token.id for token in tokens for t in range(token.start_frame, token.end_frame)}
    assert frames == {t: i for t, i in enumerate(ids) if i != BLANK}
    for token in tokens:
        said = logprobs[token.start_frame : token.end_frame, token.id]
        assert token.logprob == pytest.approx(said.max())


@given(ALIGNMENTS, st.lists(st.integers(0, 40), max_size=10))
@settings(deadline=None)
def test_blocks_make_no_difference(ids: list[int], cuts: list[int]) -> None:
    logprobs = aligned(ids, BLANK + 1)
    whole, parts = _decode(logprobs, []), _decode(logprobs, cuts)
    assert parts.tokens() == whole.tokens()
    assert parts.frames == whole.frames == len(ids)
    assert parts.trailing_blank_frames == whole.trailing_blank_frames


@given(ALIGNMENTS)
@settings(deadline=None)
def test_trailing_blanks_are_counted_back_to_the_last_token(ids: list[int]) -> None:
    expected = next((k for k, i in enumerate(reversed(ids)) if i != BLANK), len(ids))
    assert _decode(aligned(ids, BLANK + 1), []).trailing_blank_frames == expected


@given(st.integers(0, 10**6), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_splitting_in_blanks_neither_loses_nor_doubles_a_token(
    seed: int, block: int, random: Random
) -> None:
    logprobs = speech_like(120, BLANK + 1, seed)
    whole = GreedyDecoder(BLANK)
    whole.advance(logprobs)

    decoder, collected = GreedyDecoder(BLANK), list[Token]()
    for k in range(0, 120, block):
        decoder.advance(logprobs[k : k + block])
        blanks = [
            t
            for t in range(max(0, decoder.frames - 20), decoder.frames)
            if logprobs[t].argmax() == BLANK
        ]
        if blanks and random.random() < 0.3:
            frame = random.choice(blanks)
            done = decoder.split(frame)
            assert all(token.start_frame < frame for token in done)
            assert all(token.start_frame >= frame for token in decoder.tokens())
            collected += done
    collected += decoder.split(decoder.frames)
    assert collected == list(whole.tokens())
    assert not decoder.tokens()


def test_a_token_that_goes_on_across_a_split_is_not_said_twice() -> None:
    logprobs = aligned([BLANK, 1, 1, 1, BLANK, 1], BLANK + 1)
    decoder = GreedyDecoder(BLANK)
    decoder.advance(logprobs[:2])
    assert [token.id for token in decoder.split(2)] == [1]
    assert not decoder.advance(logprobs[2:5])
    assert decoder.trailing_blank_frames == 1
    assert decoder.advance(logprobs[5:])
    assert [(token.id, token.start_frame) for token in decoder.tokens()] == [(1, 5)]


def test_advance_says_whether_the_tokens_changed() -> None:
    decoder = GreedyDecoder(BLANK)
    blocks = [([BLANK] * 3, False), ([BLANK, 2], True), ([2, 2], False), ([2, BLANK], False)]
    for ids, changed in [*blocks, ([2], True), ([3, 1], True)]:
        assert decoder.advance(aligned(ids, BLANK + 1)) is changed
    assert not decoder.advance(np.zeros((0, BLANK + 1), np.float32))


def test_the_n_best_list_is_the_one_hypothesis() -> None:
    decoder = GreedyDecoder(BLANK)
    decoder.advance(aligned([0, BLANK, 1, BLANK, 2], BLANK + 1))
    (best,) = decoder.nbest(5)
    assert best.tokens == tuple(decoder.tokens())
    assert best.score == pytest.approx(sum(token.logprob for token in best.tokens))
    (early,) = decoder.nbest(5, before=4)
    assert early.tokens == decoder.split(4)


def test_reset_is_a_fresh_stream() -> None:
    decoder = GreedyDecoder(BLANK)
    decoder.advance(aligned([BLANK, 1], BLANK + 1))
    decoder.reset()
    assert (decoder.frames, decoder.trailing_blank_frames, list(decoder.tokens())) == (0, 0, [])
    decoder.advance(aligned([1], BLANK + 1))
    assert [(token.id, token.start_frame, token.end_frame) for token in decoder.tokens()] == [
        (1, 0, 1)
    ]


def test_the_callers_block_is_left_alone_and_not_kept() -> None:
    block = aligned([1, BLANK, 2], BLANK + 1)
    before = block.copy()
    decoder = GreedyDecoder(BLANK)
    decoder.advance(block)
    assert (block == before).all()
    tokens = list(decoder.tokens())
    block[:] = 0  # the engine reuses its buffers
    assert (
        decoder.tokens() == tokens == [Token(1, 0, 1, before[0, 1]), Token(2, 2, 3, before[2, 2])]
    )
