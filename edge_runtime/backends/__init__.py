"""Backends: whatever runs the graph of a model.

The graph contract is positional (inputs: audio_signal, length, three states; outputs: logprobs,
encoded_lengths, the three next states), so a backend needs no names. Of further outputs one is
used, `frame_stats` of [B, T', 5], which saves the host the work of `edge_runtime.frame_stats`.

A backend hands out *bindings*: fixed shapes, buffers made once, and a state that alternates between
two sets of buffers so that no cache is ever copied. Onnxruntime is built in; others (TensorRT)
register a factory `(model: Path, threads: int) -> Backend` in the entry-point group
`vitconformer.backends` and are imported only when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BackendError, ConfigError

FRAME_STATS = "frame_stats"
ENTRY_POINT_GROUP = "vitconformer.backends"

Shape = tuple[int, ...]
State = tuple[NDArray[Any], ...]  # one row of the three states, without the batch axis


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the graph. A text in `shape` is a symbolic dimension."""

    name: str
    dtype: str  # numpy's name where it has one
    shape: tuple[int | str, ...]


class Binding(Protocol):
    """A batch of streams at fixed shapes: buffers to write into, state that stays inside.

    The buffers are the same arrays for as long as the binding lives.
    """

    features: NDArray[np.float32]  # [B, 80, T], write before run
    lengths: NDArray[np.int64]  # [B], valid frames of each row, write before run
    frame_stats: NDArray[np.float32] | None  # [B, T', 5] of the last run, if the graph has them

    def run(self) -> NDArray[np.float32]:
        """One step of every row: log-probabilities [B, T', V], a view valid until the next run.

        Raises BackendError; the state is unchanged then.
        """
        ...

    def reset(self, row: int) -> None:
        """Makes `row` a fresh stream (all states zero)."""
        ...

    def keep(self, row: int) -> None:
        """Undoes the last run for `row`: its state is again what it was before."""
        ...

    def read_state(self, row: int) -> State:
        """A copy of the state of `row`."""
        ...

    def write_state(self, row: int, state: State) -> None:
        """Puts back what `read_state` gave, in this row or another."""
        ...


class Backend(Protocol):
    """A loaded graph. Bindings of one backend may run in different threads."""

    source: str  # the file, for error messages
    inputs: Sequence[TensorSpec]  # without those that have a default
    outputs: Sequence[TensorSpec]
    metadata: Mapping[str, str]

    def bind(self, shapes: Sequence[Shape]) -> Binding:
        """Buffers for concrete shapes of the five inputs, in order; states zero.

        Raises BundleError if the graph cannot be run with them.
        """
        ...

    def close(self) -> None:
        """Frees the engine. Bindings must not be run afterwards."""
        ...


def open_backend(name: str, model: Path | str, *, threads: int = 1) -> Backend:
    """Opens the graph `model` with the backend called `name`.

    Raises ConfigError for an unknown name, BundleError if the file must not be used, BackendError
    if the backend is not installed or does not start.
    """
    if name == "onnxruntime":  # works from a clean clone, where no entry point is registered
        from edge_runtime.backends.onnx import open_onnx

        return open_onnx(Path(model), threads=threads)
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise ConfigError(
            f"unknown backend {name!r} (installed: {', '.join(sorted({'onnxruntime', *found}))})"
        )
    try:
        factory = found[name].load()
    except ImportError as error:
        raise BackendError(f"backend {name!r} cannot be imported: {error}") from error
    backend: Backend = factory(Path(model), threads=threads)
    return backend
