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

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.backends import Shape, TensorSpec
from edge_runtime.errors import BackendError, BundleError, BundleIncompatible
from jetson.binding import REMEDY, Layout, TensorRTBinding
from jetson.cuda import Cuda
from jetson.trt import dtype_of, major, make_logger

WEAK = ("int8", "fp16")  # modes of `jetson.build`


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
        layout = Layout(
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
                f"TensorRT refuses the engine: {self._said()}", file=self.source, remedy=REMEDY
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
                remedy=REMEDY,
            )
        for name in kinds:
            if engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise BundleIncompatible(
                    "is read by the CPU", file=self.source, field=name, remedy=REMEDY
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
                remedy=REMEDY,
            )
        _, index = min(fitting)
        return index, found[index]


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
