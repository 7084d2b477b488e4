"""One batch of streams on an engine: its buffers, its states in two sets, its two graphs.

Nothing here waits for more than its own stream, and a step waits once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import FRAME_STATS, Shape, State
from edge_runtime.errors import BackendError, BundleIncompatible
from jetson.cuda import Cuda, GraphsUnsupported, HostArray

log = logging.getLogger(__name__)

REMEDY = "build the engine again: vitconformer engine build"
_CONTRACT = (np.float32, np.int64, np.float32, np.float32, np.int64)  # of the inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tensors of a binding."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    hidden: tuple[str, ...]  # outputs that the hub is not told of
    dtypes: Mapping[str, np.dtype[Any]]
    profile: int
    shapes: tuple[Shape, ...]  # of the inputs, padded
    batch: int  # rows that are streams
    integrated: bool


@dataclass(slots=True)
class _Port:
    """A tensor that host and GPU share: `public` is what the hub sees of it."""

    host: HostArray  # padded, in the engine's type
    address: int  # for the engine: the host's memory, or the GPU's copy of it
    public: NDArray[Any]

    @property
    def converts(self) -> bool:
        return self.public.dtype != self.host.array.dtype

    @property
    def rows(self) -> NDArray[Any]:
        """The engine's side of `public`."""
        return self.host.array[: len(self.public)]


@dataclass(slots=True)
class _StateBuffers:
    """One of the three states, twice."""

    dtype: np.dtype[Any]
    contract: type[np.generic]
    shape: Shape  # padded
    addresses: tuple[int, int]
    scratch: HostArray = field(repr=False)  # one row, for what goes in or out

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size(self) -> int:
        return self.shape[0] * self.row_bytes


class TensorRTBinding:
    """Buffers, states and graphs of one batch; see `edge_runtime.backends.Binding`."""

    def __init__(self, cuda: Cuda, context: Any, layout: Layout, *, graphs: bool) -> None:
        self._cuda, self._context, self._layout = cuda, context, layout
        self._handles: list[Any] = []  # of everything that must be freed, in order of creation
        finalizer = weakref.finalize(self, _release, cuda, self._handles)
        finalizer.atexit = False  # the driver may be gone by then, and frees everything itself
        self._stream: int = self._owned(cuda.stream())
        self._set_shapes()
        self._side = 0  # which of the two sets of states is the current one
        features, lengths = (self._input(i) for i in range(2))
        self._ports_in = (features, lengths)
        self.features, self.lengths = features.public, lengths.public
        lengths.host.array[...] = self.lengths[...] = layout.shapes[0][-1]
        self._states = tuple(self._state(i) for i in range(2, 5))
        self._ports_out = self._outputs()
        self._logprobs = self._ports_out[0].public
        self.frame_stats: NDArray[np.float32] | None = (
            self._ports_out[1].public if len(self._ports_out) > 1 else None
        )
        self._graphs = self._warm_up(graphs)

    @property
    def recorded(self) -> bool:
        """Whether a step is one launch of a graph."""
        return bool(self._graphs)

    def run(self) -> NDArray[np.float32]:
        try:
            for port in self._ports_in:
                if port.converts:
                    port.rows[...] = port.public
            if self._graphs:
                self._cuda.launch(self._graphs[self._side], self._stream)
            else:
                self._queue(self._side)
            self._cuda.synchronize(self._stream)
        except (RuntimeError, MemoryError) as error:
            raise BackendError(f"the engine failed: {error}") from error
        for port in self._ports_out:
            if port.converts:
                port.public[...] = port.rows
        self._side ^= 1
        return self._logprobs

    def reset(self, row: int) -> None:
        for state in self._states:
            self._cuda.zero(self._row(state, row), state.row_bytes, self._stream)

    def keep(self, row: int) -> None:
        for state in self._states:
            before = state.addresses[self._side ^ 1] + row * state.row_bytes
            self._cuda.copy(self._row(state, row), before, state.row_bytes, self._stream)

    def read_state(self, row: int) -> State:
        for state in self._states:
            self._cuda.to_host(state.scratch.array, self._row(state, row), self._stream)
        self._cuda.synchronize(self._stream)
        return tuple(state.scratch.array.astype(state.contract) for state in self._states)

    def write_state(self, row: int, state: State) -> None:
        for ours, given in zip(self._states, state, strict=True):
            ours.scratch.array[...] = given
            self._cuda.to_device(self._row(ours, row), ours.scratch.array, self._stream)
        self._cuda.synchronize(self._stream)  # the scratch rows are used again

    def _row(self, state: _StateBuffers, row: int) -> int:
        if not 0 <= row < self._layout.batch:
            raise IndexError(f"row {row} of {self._layout.batch}")
        return state.addresses[self._side] + row * state.row_bytes

    def _owned(self, handle: Any) -> Any:
        self._handles.append(handle)
        return handle

    def _set_shapes(self) -> None:
        layout, context = self._layout, self._context
        if not context.set_optimization_profile_async(layout.profile, self._stream):
            raise RuntimeError(f"profile {layout.profile} cannot be used")
        self._cuda.synchronize(self._stream)
        for name, shape in zip(layout.inputs, layout.shapes, strict=True):
            if not context.set_input_shape(name, shape):
                raise RuntimeError(f"{name} cannot be {list(shape)}")
        if unknown := context.infer_shapes():
            raise RuntimeError(f"shapes depend on values: {', '.join(unknown)}")

    def _port(self, name: str, shape: Shape, contract: type[np.generic]) -> _Port:
        dtype = self._layout.dtypes[name]
        host = self._cuda.host_array(shape, dtype)
        self._owned(host)
        if self._layout.integrated:
            address = host.device_address
        else:
            address = self._owned(self._cuda.malloc(host.array.nbytes))
        rows = host.array[: self._layout.batch]
        return _Port(host, address, rows if dtype == contract else np.zeros(rows.shape, contract))

    def _input(self, i: int) -> _Port:
        return self._port(self._layout.inputs[i], self._layout.shapes[i], _CONTRACT[i])

    def _state(self, i: int) -> _StateBuffers:
        layout = self._layout
        dtype, shape = layout.dtypes[layout.inputs[i]], layout.shapes[i]
        given = layout.dtypes[layout.outputs[i]], self._output_shape(layout.outputs[i])
        if given != (dtype, shape):
            raise BundleIncompatible(
                f"is {given[0]} {list(given[1])}",
                field=layout.outputs[i],
                expected=f"{dtype} {list(shape)} as its input",
                remedy=REMEDY,
            )
        size = prod(shape) * dtype.itemsize
        scratch = self._owned(self._cuda.host_array(shape[1:], dtype))
        addresses = (self._owned(self._cuda.malloc(size)), self._owned(self._cuda.malloc(size)))
        return _StateBuffers(dtype, _CONTRACT[i], shape, addresses, scratch)

    def _output_shape(self, name: str) -> Shape:
        return tuple(self._context.get_tensor_shape(name))

    def _outputs(self) -> tuple[_Port, ...]:
        """Log-probabilities, and frame statistics where there are any; the rest goes nowhere."""
        ports = []
        layout = self._layout
        shown = (layout.outputs[0], *(n for n in layout.outputs[5:] if n == FRAME_STATS))
        for name in (layout.outputs[0], layout.outputs[1], *layout.outputs[5:], *layout.hidden):
            shape = self._output_shape(name)
            if name in shown:
                port = self._port(name, shape, np.float32)
                ports.append(port)
                address = port.address
            else:
                size = prod(shape) * layout.dtypes[name].itemsize
                address = self._owned(self._cuda.malloc(max(1, size)))
            self._address(name, address)
        for port, name in zip(self._ports_in, layout.inputs[:2], strict=True):
            self._address(name, port.address)
        return tuple(ports)

    def _address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise RuntimeError(f"{name} cannot lie at {address:#x}")

    def _queue(self, side: int) -> None:
        """Everything of a step that reads the states of `side`, without waiting."""
        cuda, layout, stream = self._cuda, self._layout, self._stream
        for i, state in enumerate(self._states, start=2):
            self._address(layout.inputs[i], state.addresses[side])
            self._address(layout.outputs[i], state.addresses[side ^ 1])
        if not layout.integrated:
            for port in self._ports_in:
                cuda.to_device(port.address, port.host.array, stream)
        if not self._context.execute_async_v3(stream):
            raise RuntimeError("TensorRT could not queue the step")
        if not layout.integrated:
            for port in self._ports_out:
                cuda.to_host(port.host.array, port.address, stream)

    def _warm_up(self, graphs: bool) -> tuple[Any, ...]:
        """Runs and records a step in each direction; leaves all states zero. -> the graphs."""
        recorded: list[Any] = []
        self._clear()
        for side in range(2):
            self._queue(side)  # TensorRT may set itself up at the first step, and not in a graph
            self._cuda.synchronize(self._stream)
        if graphs:
            try:
                for side in range(2):
                    graph = self._cuda.capture(self._stream, partial(self._queue, side))
                    recorded.append(self._owned(graph))
            except GraphsUnsupported as error:
                log.info("%s: steps are queued one by one", error)
                recorded.clear()
            except RuntimeError as error:
                log.warning("no CUDA graph, steps are queued one by one: %s", error)
                recorded.clear()
        self._clear()
        self._cuda.synchronize(self._stream)
        return tuple(recorded)

    def _clear(self) -> None:
        for state in self._states:
            for address in state.addresses:
                self._cuda.zero(address, state.size, self._stream)


def _release(cuda: Cuda, handles: list[Any]) -> None:
    for handle in reversed(handles):
        cuda.release(handle)
    handles.clear()
