"""Statistics of frames: the same whenever they are computed, and a bounded number of them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.decoding.greedy import GreedyDecoder
from edge_runtime.frame_stats import (
    BEST,
    FLOOR,
    LOG_BEST,
    LOG_BLANK,
    LOG_NEXT,
    POWER_SUM,
    FrameStats,
    frame_stats,
)


def _logprobs(frames: int, vocabulary: int = 6, seed: int = 0, sharpness: float = 3) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(frames, vocabulary)) * sharpness
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)), np.float32)


def test_the_numbers_are_what_their_names_say() -> None:
    logprobs = _logprobs(30)
    for row, frame in zip(logprobs, frame_stats(logprobs), strict=True):
        order = np.argsort(row[:-1])
        assert frame[BEST] == order[-1]
        assert (frame[LOG_BEST], frame[LOG_NEXT]) == (row[order[-1]], row[order[-2]])
        assert frame[LOG_BLANK] == row[-1]
        assert frame[POWER_SUM] == pytest.approx(np.exp(row.astype(np.float64) / 3).sum(), rel=1e-5)


def test_a_single_token_has_the_floor_for_a_rival() -> None:
    (frame,) = frame_stats(np.log(np.array([[0.9, 0.1]], np.float32)))
    assert (frame[BEST], frame[LOG_NEXT]) == (0, FLOOR)
    assert np.exp(frame[LOG_BEST]) == pytest.approx(0.9)


@pytest.mark.parametrize("block", [1, 7, 64, 150])
def test_it_does_not_matter_who_computes_them_nor_when(block: int) -> None:
    logprobs = _logprobs(150)
    expected, late, given = FrameStats(), FrameStats(), FrameStats()
    expected.push(logprobs)
    for k in range(0, 150, block):
        piece = logprobs[k : k + block].copy()
        late.push(piece)
        if k % 2:  # a stream may change sides
            given.push(piece)
        else:
            given.push(piece, frame_stats(piece))
        piece[:] = 0  # the buffer of the graph is used again
    assert late.rows(0, 150) == given.rows(0, 150) == expected.rows(0, 150)
    assert late.greatest_entropy == given.greatest_entropy == expected.greatest_entropy > 1


@pytest.mark.parametrize("block", [1, 3, 40])
def test_a_greedy_search_hears_the_same_from_statistics(block: int) -> None:
    logprobs = _logprobs(40)
    logprobs[10] = np.log(1 / logprobs.shape[1])  # a tie of all
    logprobs[20:25, -1] = 0.0
    plain, quick = (GreedyDecoder(logprobs.shape[1] - 1) for _ in range(2))
    for k in range(0, 40, block):
        piece = logprobs[k : k + block]
        assert quick.advance(piece, frame_stats(piece)) == plain.advance(piece)
        assert quick.tokens() == plain.tokens()
    assert quick.trailing_blank_frames == plain.trailing_blank_frames


def test_dropping_never_reaches_into_the_future() -> None:
    stats = FrameStats()
    stats.push(_logprobs(10))
    stats.drop(500)
    assert (stats.first, stats.end) == (10, 10)
    stats.push(_logprobs(10))
    assert (stats.first, stats.end, len(stats.rows(0, 100))) == (10, 20, 10)


def test_the_memory_of_frames_is_bounded() -> None:
    stats = FrameStats(limit=100)
    logprobs = _logprobs(64)
    for k in range(1000):
        stats.push(logprobs)
        assert stats.end == 64 * (k + 1)
        assert min(stats.end, 100) <= stats.end - stats.first <= 264
    expected = FrameStats()
    expected.push(logprobs)
    assert stats.rows(stats.end - 64, stats.end) == expected.rows(0, 64)
