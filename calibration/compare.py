"""An INT8 file against its float graph, both streaming over the same sounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.observe import run_stream, session_of
from edge_runtime.metrics import word_errors
from edge_runtime.modelspec import ModelSpec

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Difference:
    """What quantisation changed."""

    divergence: float  # mean Kullback-Leibler divergence per frame, nats
    frames: float  # share of frames with another best token
    tokens: float  # edits per token of the float model's greedy transcript
    snr_db: float  # log-probabilities against their change

    def to_json(self) -> dict[str, float]:
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


# Quantised pairs are computed as they stand, not fused into products: what TensorRT, too, must
# give but for the order of its sums.
LITERAL = {"session.disable_quant_qdq": "1"}
_DTYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int64)": np.int64}


def logprobs(
    model: onnx.ModelProto,
    spec: ModelSpec,
    sounds: Sequence[Array],
    *,
    config: Mapping[str, str] | None = None,
) -> list[Array]:
    """[T', V] for every sound (features [n, 80]), at the model's default chunk size."""
    session = session_of(model, config=config)
    inputs = [(node.name, _DTYPES[node.type]) for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()][:5]

    def run(feeds: list[NDArray[Any]]) -> list[NDArray[Any]]:
        named = {
            name: feed.astype(dtype, copy=False)
            for (name, dtype), feed in zip(inputs, feeds, strict=True)
        }
        results: list[NDArray[Any]] = session.run(outputs, named)
        return [*results, results[0]]

    return [
        np.concatenate([step[0][0] for step in run_stream(run, spec, spec.default_window, sound)])
        for sound in sounds
    ]


def compare(expected: Sequence[Array], found: Sequence[Array], blank: int) -> Difference:
    """`expected` is the float model's."""
    divergence, frames, changed, signal, noise = 0.0, 0, 0, 0.0, 0.0
    errors = tokens = 0
    for one, other in zip(expected, found, strict=True):
        divergence += float((np.exp(one) * (one - other)).sum())
        best, again = one.argmax(axis=1), other.argmax(axis=1)
        frames += len(best)
        changed += int((best != again).sum())
        signal += float((one**2).sum())
        noise += float(((one - other) ** 2).sum())
        said, heard = (" ".join(map(str, _collapsed(ids, blank))) for ids in (best, again))
        counts = word_errors(said, heard)
        errors, tokens = errors + counts.errors, tokens + counts.reference_length
    return Difference(
        divergence / max(1, frames),
        changed / max(1, frames),
        errors / max(1, tokens),
        min(200.0, 10 * float(np.log10(signal / max(noise, 1e-30)))) if signal else 0.0,
    )


def divergences(expected: Sequence[Array], found: Sequence[Array]) -> NDArray[np.float64]:
    """Of every sound, in nats per frame of a sound of mean length.

    So their mean is the divergence per frame of all sounds together, as in `compare`.
    """
    frames = max(1, sum(map(len, expected))) / max(1, len(expected))
    pairs = zip(expected, found, strict=True)
    return np.array([float((np.exp(one) * (one - other)).sum()) / frames for one, other in pairs])


def _collapsed(ids: NDArray[np.intp], blank: int) -> list[int]:
    """The greedy reading: repetitions merged, blanks dropped."""
    kept = ids[np.flatnonzero(np.diff(ids, prepend=-1))]
    return [int(i) for i in kept if i != blank]


def least_kept(
    layers: Iterable[str], sensitivity: Callable[[str], float], fits: Callable[[list[str]], bool]
) -> list[str]:
    """The fewest layers, most sensitive first, that must stay float for `fits` to hold.

    `fits` is asked a logarithmic number of times; keeping more layers must not make it fail.
    """
    order = sorted(layers, key=sensitivity, reverse=True)
    low, high = -1, len(order)  # keeping `low` is too few, keeping `high` is everything
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(order[:middle]) else (middle, high)
    return order[:high]
