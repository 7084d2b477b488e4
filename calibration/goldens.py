"""`goldens.npz`: what the float model answers, for the self-test of a device.

One stream from its beginning, so that a device proves not only its products but how it carries
states.  It holds features, no audio:

=================== ========================================================================
array               what
=================== ========================================================================
chunk_frames        i64: feature frames by which the windows advance, the bundle's default
features            f32 [n, 80, T]: the windows; every value is a float16, so that they pack well
lengths             i64 [n]: valid frames of each window; windows are whole
state0, 1, 2        the three states that the stream begins with, without the batch axis
logprobs            f32 [n, T', V]: what onnxruntime makes of them in float32
=================== ========================================================================

Made twice from the same model and recordings, it is the same to the byte.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.observe import initial_state, run_stream, session_of
from edge_runtime.errors import ConfigError
from edge_runtime.modelspec import ModelSpec

STEPS = 16  # five seconds at 320 ms: as long as it takes to fill the caches, twice over


def goldens(model: Path, spec: ModelSpec, sounds: Sequence[NDArray[np.float32]]) -> bytes:
    """The content of `goldens.npz`.

    Args:
        model: the float graph.
        sounds: features [n, 80], joined to one stream until there are enough.

    Raises:
        ConfigError: there is not even one window of sound.
    """
    window = spec.default_window
    joined = np.concatenate(sounds)[: window.overlap + STEPS * window.shift]
    steps = (len(joined) - window.overlap) // window.shift
    if steps < 1:
        raise ConfigError(
            f"the recordings that are kept for comparing have {len(joined)} frames, and the "
            f"self-test of a device wants {window.size} at least: name more audio"
        )
    frames = joined[: window.overlap + steps * window.shift].astype(np.float16).astype(np.float32)
    fed: list[NDArray[Any]] = []
    session = session_of(model)
    names = [node.name for node in session.get_inputs()]

    def run(feeds: list[NDArray[Any]]) -> list[NDArray[Any]]:
        fed.append(feeds[0][0])
        results: list[NDArray[Any]] = session.run(None, dict(zip(names, feeds, strict=True)))
        return [*results[:5], results[0]]

    answers = [result[0] for (result,) in run_stream(run, spec, window, frames)]
    states = {f"state{i}": state[0] for i, state in enumerate(initial_state(spec))}
    content = io.BytesIO()  # numpy gives the members of its archives a fixed date
    np.savez_compressed(
        content,
        allow_pickle=False,
        chunk_frames=np.int64(window.shift),
        features=np.stack(fed),
        lengths=np.full(steps, window.size, np.int64),
        logprobs=np.stack(answers),
        **states,
    )
    return content.getvalue()
