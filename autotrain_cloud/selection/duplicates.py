"""Duplicates: the same audio, the same text too often, nearly the same text.

Near-duplicates are found by simhash: 64 random hyperplanes through the space of `embedding`, each
giving one bit; texts that share 16 bits of a band are compared, and count as one if their cosine
is high.  A near-duplicate costs no other voice its place: only the same device's are dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.selection.embedding import Vectors

_BITS, _BANDS = 64, 4


def simhash(points: Vectors, *, seed: int = 0) -> NDArray[np.uint64]:
    """[n] 64 bits each; close points differ in few."""
    planes = np.random.default_rng(seed).standard_normal((points.shape[1], _BITS))
    bits = (points @ planes.astype(np.float32)) > 0
    weights = np.uint64(1) << np.arange(_BITS, dtype=np.uint64)
    return np.asarray((bits * weights).sum(axis=1, dtype=np.uint64))


def duplicates(
    points: Vectors,
    texts: Sequence[str],
    audio: Sequence[str],
    voices: Sequence[str],
    *,
    min_cosine: float = 0.95,
    max_per_phrase: int = 20,
    seed: int = 0,
) -> dict[int, str]:
    """Which to leave out, and why; earlier ones are kept, so give the best first."""
    dropped: dict[int, str] = {}
    heard: dict[str, int] = {}
    phrases: dict[str, int] = defaultdict(int)
    buckets: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    hashes = simhash(points, seed=seed)
    width = _BITS // _BANDS
    for index, text in enumerate(texts):
        if audio[index] and audio[index] in heard:
            dropped[index] = "same audio"
            continue
        if phrases[text] >= max_per_phrase:
            dropped[index] = f"said {max_per_phrase} times already"
            continue
        bands = [int(hashes[index]) >> (band * width) & (1 << width) - 1 for band in range(_BANDS)]
        keys = [(voices[index], band, bits) for band, bits in enumerate(bands)]
        near = {other for key in keys for other in buckets[key]}
        if any(float(points[index] @ points[other]) >= min_cosine for other in near):
            dropped[index] = "nearly the same text from the same voice"
            continue
        heard[audio[index]] = index
        phrases[text] += 1
        for key in keys:
            buckets[key].append(index)
    return dropped
