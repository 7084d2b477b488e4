"""A TensorRT engine behind the hub's `Backend` protocol.

What makes a step cheap:

* states stay on the GPU, in two sets of buffers that take turns: no cache is ever copied;
* each of the two directions is recorded once as a CUDA graph, so a step is one launch;
* on a GPU that shares the CPU's memory (every Jetson) it reads features and writes
  log-probabilities where they lie; elsewhere the copies are part of the graph;
* a stream per binding, waited for once per step; nothing waits for the whole device.

An engine has a profile of fixed shapes for every chunk size and for batches of 1, 2, 4 and 8; other
batches are padded to the next, with rows of silence that nobody reads.

To the hub the engine looks like the graph it was built from: features, log-probabilities and states
are float32 and int64 there, whatever the engine's own types are.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import FRAME_STATS, Shape, State, TensorSpec
from edge_runtime.errors import BackendError, BundleError, BundleIncompatible
from jetson.cuda import Cuda, GraphsUnsupported, HostArray
from jetson.trt import dtype_of, major, make_logger

log = logging.getLogger(__name__)

_CONTRACT = (np.float32, np.int64, np.float32, np.float32, np.int64)  # of the inputs
WEAK = ("int8", "fp16")  # modes of `jetson.build`
_REMEDY = "build the engine again: vitconformer engine build"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What the hub must know of a graph and an engine does not keep."""

    source: str  # the ONNX file, for error messages
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    metadata: Mapping[str, str]


class TensorRTBackend:
    """A deserialised engine; see `edge_runtime.backends.Backend`.

    `plan` must come from where code may come from: see `jetson.store`.
    """

    def __init__(
        self, cuda: Cuda, trt: Any, plan: bytes, facts: GraphFacts, *, graphs: bool = True
    ) -> None:
        self.source = facts.source
        self.inputs, self.outputs, self.metadata = facts.inputs, facts.outputs, facts.metadata
        self._cuda, self._trt, self._plan, self._graphs = cuda, trt, plan, graphs
        self._integrated = cuda.device().integrated
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._lock = threading.Lock()
        self._engine: Any = self._deserialise()
        self._check_tensors()

    def bind(self, shapes: Sequence[Shape]) -> TensorRTBinding:
        """See `Backend.bind`. The step is run once in each direction, on silence, and recorded."""
        profile, padded = self._profile(shapes)
        with self._lock:
            # Before TensorRT 10 a profile belongs to one context, so each has its own engine.
            engine = self._engine if major(self._trt) >= 10 else self._deserialise()
            context = engine.create_execution_context()
        if context is None:
            raise BackendError(f"no memory for another batch of streams: {self._said()}")
        inputs = tuple(spec.name for spec in self.inputs)
        outputs = tuple(spec.name for spec in self.outputs)
        hidden = tuple(name for name in _names(engine) if name not in (*inputs, *outputs))
        layout = _Layout(
            inputs=inputs,
            outputs=outputs,
            hidden=hidden,
            dtypes={name: dtype_of(engine.get_tensor_dtype(name)) for name in _names(engine)},
            profile=profile,
            shapes=padded,
            batch=shapes[0][0],
            integrated=self._integrated,
        )
        try:
            return TensorRTBinding(self._cuda, context, layout, graphs=self._graphs)
        except (RuntimeError, MemoryError) as error:
            raise BackendError(f"{self.source}: {error} {self._said()}".strip()) from error

    def layers(self) -> str:
        """What TensorRT made of the graph, as its own JSON."""
        inspector = self._engine.create_engine_inspector()
        text: str = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return text

    def profiles(self) -> list[tuple[int, int]]:
        """(batch, feature frames) of every profile, in order."""
        found = (shapes[0] for shapes in self._profile_shapes())
        return [(batch, frames) for batch, _, frames in found]

    def close(self) -> None:
        """Drops the engine; its memory is freed with the last binding."""
        self._engine = None

    def _deserialise(self) -> Any:
        engine = self._runtime.deserialize_cuda_engine(self._plan)
        if engine is None:
            raise BundleIncompatible(
                f"TensorRT refuses the engine: {self._said()}", file=self.source, remedy=_REMEDY
            )
        return engine

    def _said(self) -> str:
        said: str = self._logger.last_error
        return said

    def _check_tensors(self) -> None:
        """The engine has the graph's tensors, all of them in device memory."""
        mode, engine = self._trt.TensorIOMode, self._engine
        kinds = {name: engine.get_tensor_mode(name) for name in _names(engine)}
        wanted = {spec.name: mode.INPUT for spec in self.inputs}
        wanted |= {spec.name: mode.OUTPUT for spec in self.outputs}
        hidden = {name for name, kind in kinds.items() if kind == mode.OUTPUT} - wanted.keys()
        if {name: kind for name, kind in kinds.items() if name not in hidden} != wanted:
            raise BundleIncompatible(
                f"the engine has {', '.join(sorted(kinds))}",
                file=self.source,
                expected=", ".join(sorted(wanted)),
                remedy=_REMEDY,
            )
        for name in kinds:
            if engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise BundleIncompatible(
                    "is read by the CPU", file=self.source, field=name, remedy=_REMEDY
                )

    def _profile_shapes(self) -> list[tuple[Shape, ...]]:
        engine = self._engine
        if engine is None:
            raise BackendError(f"{self.source}: the backend is closed")
        # Minimum, optimum and maximum are the same: shapes are fixed.
        return [
            tuple(tuple(engine.get_tensor_profile_shape(spec.name, i)[1]) for spec in self.inputs)
            for i in range(engine.num_optimization_profiles)
        ]

    def _profile(self, shapes: Sequence[Shape]) -> tuple[int, tuple[Shape, ...]]:
        """The profile with the fewest rows that holds a batch of these shapes."""
        batch = shapes[0][0]
        rows = [tuple(shape[1:]) for shape in shapes]
        found = self._profile_shapes()
        fitting = [
            (profile[0][0], i)
            for i, profile in enumerate(found)
            if [shape[1:] for shape in profile] == rows and profile[0][0] >= batch
        ]
        if not fitting:
            built = ", ".join(f"{profile[0][0]} x {profile[0][2]}" for profile in found)
            raise BundleIncompatible(
                f"the engine has no batch of {batch} with {shapes[0][-1]} frames",
                file=self.source,
                expected=f"one of {built}",
                remedy=_REMEDY,
            )
        _, index = min(fitting)
        return index, found[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
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

    def __init__(self, cuda: Cuda, context: Any, layout: _Layout, *, graphs: bool) -> None:
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
                remedy=_REMEDY,
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


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def describe_graph(model: Any, mode: str = "strong") -> GraphFacts:
    """The facts of an opened `edge_runtime.backends.Backend`, with types as the hub wants them.

    Where TensorRT may narrow what it likes (modes int8 and fp16), outputs beyond the contract's are
    left out: the hub makes frame statistics more exactly than float16 does.
    """

    def as_float32(spec: TensorSpec) -> TensorSpec:
        half = spec.dtype == "tensor(float16)"
        return TensorSpec(spec.name, "float32" if half else spec.dtype, spec.shape)

    if len(model.inputs) != 5 or len(model.outputs) < 5:
        raise BundleError(
            f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            file=model.source,
            expected="a graph of the streaming CTC contract: 5 and at least 5",
            remedy="export the model again",
        )
    return GraphFacts(
        source=model.source,
        inputs=[as_float32(spec) for spec in model.inputs],
        outputs=[as_float32(spec) for spec in model.outputs[: 5 if mode in WEAK else None]],
        metadata=dict(model.metadata),
    )
