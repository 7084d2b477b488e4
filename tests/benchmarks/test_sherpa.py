"""That both recognisers are given audio of which they run the same windows."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.sherpa import TAIL_S, variants, with_tail
from edge_runtime.features import open_frontend


@pytest.mark.parametrize("frames", [8, 32])
@pytest.mark.parametrize("length", [1, 5000, 16_000, 16_001, 51_200])
def test_a_padded_clip_ends_one_frame_after_a_window(frames: int, length: int) -> None:
    padded = with_tail(np.ones(length, np.float32), frames=frames)
    ready = len(open_frontend("knf_nemo").stream().push(padded))
    assert ready % frames == 1
    silence = (len(padded) - length) / 16_000
    assert TAIL_S <= silence < TAIL_S + frames / 100 + 0.05
    assert not padded[length:].any()


def test_variants_are_as_many_as_asked_for_and_all_different() -> None:
    clips = [np.full(n, 0.5, np.float32) for n in (100, 200, 300)]
    made = list(variants(clips, 8))
    assert len(made) == 8
    assert len({samples.tobytes() for samples in made}) == 8
    assert np.array_equal(made[1], clips[1])
