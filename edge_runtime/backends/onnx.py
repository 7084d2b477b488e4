"""onnxruntime, and the only file that knows it.

What makes a step cheap:

* IO bindings over numpy buffers allocated once: nothing is allocated or copied per step;
* two bindings that read state A and write state B, and the other way round, run in turn, so that
  no cache is ever copied;
* weights and arena lie in huge pages (`edge_runtime.hugepages`);
* one thread, and no spinning: an idle recogniser uses no CPU.

One session serves every batch and chunk size. A session per shape, with its dimensions fixed so
that the graph's shape arithmetic folds away, was measured to be no faster on our exports
(onnxruntime then reuses more buffers, which costs what the folding gains) and would hold the
weights once more.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime import hugepages
from edge_runtime.backends import FRAME_STATS, Shape, State, TensorSpec
from edge_runtime.errors import BackendError, BundleError, BundleIncompatible
from edge_runtime.precision import this_processor

_REMEDY = "export the model again"
_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}  # all that the contract uses

# A protobuf text field 1 that says "location": the key of a tensor stored in another file. Tag and
# length may be padded with continuation bytes.
_LOCATION_KEY = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location\Z", re.DOTALL)


def open_onnx(model: Path, *, threads: int = 1) -> OnnxBackend:
    """Loads `model`. Raises BundleError if it must not be used, BackendError if we cannot."""
    if not model.is_file():
        raise BundleError(
            "is a directory" if model.is_dir() else "does not exist",
            file=str(model),
            expected="an ONNX file",
        )
    _refuse_external_tensors(model)
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(
            "onnxruntime is not installed: pip install 'vitconformer[edge]'"
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever its name
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # failures arrive as exceptions; stderr belongs to the program
    before = hugepages.mapped()
    try:
        return OnnxBackend(str(model), _session(ort, model, options), before)
    except Exception as error:  # onnxruntime's errors have no common base
        raise BundleError(
            f"onnxruntime refuses it: {_first_line(error)}", file=str(model), remedy=_REMEDY
        ) from error


def _session(ort: Any, model: Path, options: Any) -> Any:
    """Where products of unsigned bytes would overflow, with kernels that are exact.

    These do not know signed activations, whose own kernels are exact everywhere.
    """

    def session() -> Any:
        # Without enable_fallback=0 the Python wrapper prints to stdout and tries the file again.
        return ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )

    if this_processor().overflows:
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return session()
        except ort.capi.onnxruntime_pybind11_state.NotImplemented:
            options.add_session_config_entry("session.x64quantprecision", "0")
    return session()


class OnnxBackend:
    """A graph for onnxruntime's CPU provider; see `edge_runtime.backends.Backend`."""

    def __init__(self, source: str, session: Any, memory_before: hugepages.Ranges) -> None:
        self.source = source
        self._memory_before: hugepages.Ranges | None = memory_before  # mapped before the session
        self.inputs: Sequence[TensorSpec] = [_tensor_spec(node) for node in session.get_inputs()]
        self.outputs: Sequence[TensorSpec] = [_tensor_spec(node) for node in session.get_outputs()]
        self.metadata: Mapping[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self._session: Any = session
        self._output_shapes: dict[tuple[Shape, ...], list[Shape]] = {}

    def bind(self, shapes: Sequence[Shape]) -> OnnxBinding:
        """See `Backend.bind`. The first binding of each shape runs the graph once on zeros."""
        key = tuple(shapes)
        if key not in self._output_shapes:
            self._output_shapes[key] = self._probe(key)
        if self._memory_before is not None:  # weights are packed, and the arena has its size
            hugepages.collapse(self._memory_before)
            self._memory_before = None
        inputs = [spec.name for spec in self.inputs]
        outputs = [spec.name for spec in self._used()]
        return OnnxBinding(self._session, inputs, key, outputs, self._output_shapes[key])

    def close(self) -> None:
        """Drops the session; its memory is freed with the last binding."""
        self._session = None

    def _probe(self, shapes: tuple[Shape, ...]) -> list[Shape]:
        """Shapes of the outputs that are used for inputs of these shapes."""
        feeds = {
            spec.name: np.zeros(shape, spec.dtype)
            for spec, shape in zip(self.inputs, shapes, strict=True)
        }
        feeds[self.inputs[1].name][:] = shapes[0][-1]  # every frame is valid
        specs = self._used()
        try:
            results = self._session.run([spec.name for spec in specs], feeds)
        except Exception as error:
            raise BundleError(
                f"fails on silence: {_first_line(error)}", file=self.source, remedy=_REMEDY
            ) from error
        for spec, result, shape in zip(specs[2:5], results[2:5], shapes[2:], strict=True):
            if result.shape != shape:
                raise BundleIncompatible(
                    f"is {list(result.shape)}",
                    file=self.source,
                    field=spec.name,
                    expected=f"{list(shape)} as its input",
                    remedy=_REMEDY,
                )
        if len(results) > 5 and results[5].shape != (*results[0].shape[:2], 5):
            raise BundleIncompatible(
                f"is {list(results[5].shape)}",
                file=self.source,
                field=FRAME_STATS,
                expected="five numbers per frame of logprobs",
                remedy=_REMEDY,
            )
        return [result.shape for result in results]

    def _used(self) -> list[TensorSpec]:
        """The contract's five outputs, and ours where the graph has it."""
        return [
            *self.outputs[:5],
            *(s for s in self.outputs[5:] if (s.name, s.dtype) == (FRAME_STATS, "float32")),
        ]


class OnnxBinding:
    """Buffers and state of one batch of streams; see `edge_runtime.backends.Binding`."""

    def __init__(
        self,
        session: Any,
        input_names: Sequence[str],
        input_shapes: Sequence[Shape],
        output_names: Sequence[str],
        output_shapes: Sequence[Shape],
    ) -> None:
        import onnxruntime as ort

        self.features = np.zeros(input_shapes[0], np.float32)
        self.lengths = np.full(input_shapes[1], input_shapes[0][-1], np.int64)
        self._logprobs = np.zeros(output_shapes[0], np.float32)
        self.frame_stats = (
            np.zeros(output_shapes[5], np.float32) if len(output_shapes) > 5 else None
        )
        dtypes = (np.float32, np.float32, np.int64)
        self._states = tuple(
            tuple(np.zeros(s, d) for s, d in zip(input_shapes[2:], dtypes, strict=True))
            for _ in range(2)
        )
        self._side = 0  # which of the two sets of states is the current one
        self._bindings = []
        encoded = np.zeros(output_shapes[1], np.int64)
        for side in range(2):
            binding = session.io_binding()  # holds the arrays it is given
            inputs = (self.features, self.lengths, *self._states[side])
            for name, array in zip(input_names, inputs, strict=True):
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
            outputs = [self._logprobs, encoded, *self._states[1 - side]]
            if self.frame_stats is not None:
                outputs.append(self.frame_stats)
            for name, array in zip(output_names, outputs, strict=True):
                binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
            self._bindings.append(binding)
        self._runs = _runs(session, self._bindings)

    def run(self) -> NDArray[np.float32]:
        try:
            self._runs[self._side]()
        except Exception as error:
            raise BackendError(f"the graph failed: {_first_line(error)}") from error
        self._side ^= 1
        return self._logprobs

    def reset(self, row: int) -> None:
        for state in self._states[self._side]:
            state[row] = 0

    def keep(self, row: int) -> None:
        current, before = self._states[self._side], self._states[self._side ^ 1]
        for target, source in zip(current, before, strict=True):
            target[row] = source[row]

    def read_state(self, row: int) -> State:
        return tuple(state[row].copy() for state in self._states[self._side])

    def write_state(self, row: int, state: State) -> None:
        for target, source in zip(self._states[self._side], state, strict=True):
            target[row] = source


def _runs(session: Any, bindings: Sequence[Any]) -> list[Callable[[], object]]:
    """`session.run_with_iobinding` of each binding, without its checks where that can be had.

    They concern graphs captured for WebGPU and cost 35 us a call, 2 % of a short step.  The
    method they end in is onnxruntime's own business, so it may move: then the checks come back.
    """
    try:
        run = session._sess.run_with_iobinding
        return [partial(run, binding._iobinding, None) for binding in bindings]
    except AttributeError:
        return [partial(session.run_with_iobinding, binding) for binding in bindings]


def _tensor_spec(node: Any) -> TensorSpec:
    # onnxruntime gives None for a dimension without a name.
    shape = tuple(dim if isinstance(dim, int) else str(dim or "") for dim in node.shape)
    return TensorSpec(node.name, _DTYPES.get(node.type, node.type), shape)


def _refuse_external_tensors(model: Path) -> None:
    """A bundle's digests cover its files, so a graph may not bring weights from elsewhere."""
    try:
        with (
            model.open("rb") as source,
            mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as m,
        ):
            at = m.find(b"location")
            while at >= 0:
                if _LOCATION_KEY.search(m[max(0, at - 24) : at + 8]):
                    raise BundleError(
                        "stores tensors in other files",
                        file=str(model),
                        expected="one file with its weights inside",
                        remedy=_REMEDY,
                    )
                at = m.find(b"location", at + 1)
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", file=str(model)) from error
    except ValueError as error:  # mmap refuses an empty file
        raise BundleError("is empty", file=str(model), expected="an ONNX file") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
