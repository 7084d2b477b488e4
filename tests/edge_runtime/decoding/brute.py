"""Slow and obvious: CTC by its definition, and random models to try it on."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from edge_runtime.tokens import BLANK, Vocabulary

# Pieces that spell a text in several ways, a lone word start among them.
VOCABULARY = Vocabulary.from_pieces(["▁", "▁a", "a", "b", "ab", "▁b", BLANK])


def collapse(ids: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """An alignment's tokens: repetitions merged, then blanks dropped."""
    return tuple(i for i, _ in itertools.groupby(ids) if i != blank)


def enumerate_prefixes(logprobs: NDArray[np.float32]) -> dict[tuple[int, ...], float]:
    """ln p of every token sequence, summed over all of its alignments."""
    frames, size = logprobs.shape
    rows = logprobs.astype(np.float64).tolist()
    sums: dict[tuple[int, ...], float] = {}
    for ids in itertools.product(range(size), repeat=frames):
        p = math.exp(sum(row[i] for row, i in zip(rows, ids, strict=True)))
        tokens = collapse(ids, size - 1)
        sums[tokens] = sums.get(tokens, 0.0) + p
    return {tokens: math.log(p) for tokens, p in sums.items()}


def random_logprobs(frames: int, size: int, seed: int, sharpness: float = 2) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(frames, size)) * sharpness
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)), np.float32)


def speech_like(frames: int, size: int, seed: int) -> NDArray[np.float32]:
    """Peaky log-probabilities: mostly blanks, tokens that last one to three frames, some doubt."""
    rng = np.random.default_rng(seed)
    ids = np.full(frames, size - 1)
    t = int(rng.integers(0, 4))
    while t < frames:
        length = int(rng.integers(1, 4))
        ids[t : t + length] = rng.integers(0, size - 1)
        t += length + int(rng.choice([0, 1, 2, 5, 12]))
    return aligned(ids.tolist(), size, rng.normal(size=(frames, size)))


def aligned(
    ids: list[int], size: int, noise: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Log-probabilities whose best alignment is `ids`."""
    x = np.zeros((len(ids), size)) if noise is None else noise
    x[np.arange(len(ids)), ids] = x.max(axis=1) + 6
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)), np.float32)
