"""onnxruntime, and the only file that knows it.

What makes a step cheap:

* one session per input shape, with the symbolic dimensions fixed when it is made, so that the
  graph's shape arithmetic folds into constants;
* IO bindings over numpy buffers allocated once: nothing is allocated or copied per step;
* two bindings that read state A and write state B, and the other way round, run in turn;
* one thread, and no spinning: an idle recogniser uses no CPU.

onnxruntime is imported when the first session is made (it takes longer than reading the file).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import Shape, State, TensorSpec
from edge_runtime.backends.onnx_header import OnnxHeader, read_header
from edge_runtime.contract.bundle import is_plain_name
from edge_runtime.errors import BackendError, BundleError, BundleIncompatible

log = logging.getLogger(__name__)

_REMEDY = "export the model again"
_STATES = 3  # inputs 2, 3, 4 and outputs 2, 3, 4


def open_onnx(model: Path, *, threads: int = 1) -> OnnxBackend:
    """Reads the outline of `model`; sessions are made by `bind`. Raises BundleError."""
    if not model.is_file():
        raise BundleError(
            "is a directory" if model.is_dir() else "does not exist",
            file=str(model),
            expected="an ONNX file",
        )
    header = read_header(model)
    for name in sorted(header.external):
        if not is_plain_name(name) or not (model.parent / name).is_file():
            raise BundleError(
                f"stores tensors in {name[:80]!r}",
                file=str(model),
                expected="a file beside it",
                remedy="export with the weights inside the file",
            )
    return OnnxBackend(model, header, threads)


class OnnxBackend:
    """A graph for onnxruntime's CPU provider; see `edge_runtime.backends.Backend`."""

    def __init__(self, model: Path, header: OnnxHeader, threads: int) -> None:
        self.source = str(model)
        self.inputs: Sequence[TensorSpec] = header.inputs
        self.outputs: Sequence[TensorSpec] = header.outputs
        self.metadata = header.metadata
        self._threads = threads
        self._plans: dict[tuple[Shape, ...], _Plan] = {}

    def bind(self, shapes: Sequence[Shape]) -> OnnxBinding:
        """See `Backend.bind`. The first binding of each shape makes a session and runs it once."""
        key = tuple(shapes)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(key)
        return OnnxBinding(plan)

    def close(self) -> None:
        """Drops the sessions; memory is freed with the last binding."""
        self._plans.clear()

    def _plan(self, shapes: tuple[Shape, ...]) -> _Plan:
        fixed: dict[str, int] = {}
        for spec, shape in zip(self.inputs, shapes):
            declared = spec.shape or ()
            if len(declared) != len(shape):
                raise ValueError(f"{spec.name}: {shape} does not fit {declared}")
            for dim, size in zip(declared, shape):
                expected = size if isinstance(dim, str) else dim
                if isinstance(dim, str) and dim:  # the same symbol must mean the same size
                    expected = fixed.setdefault(dim, size)
                if expected != size:
                    raise BundleIncompatible(
                        f"is {size} where the graph says {dim or expected}",
                        file=self.source,
                        field=spec.name,
                        expected=str(expected),
                        remedy=_REMEDY,
                    )
        session = _make_session(self.source, fixed, self._threads)
        for ours, theirs in zip(
            (*self.inputs, *self.outputs), (*session.get_inputs(), *session.get_outputs())
        ):
            if ours.name != theirs.name:  # an outline we read otherwise than onnxruntime does
                raise BundleError("has an ambiguous outline", file=self.source, remedy=_REMEDY)
        zeros = {spec.name: np.zeros(shape, spec.dtype) for spec, shape in zip(self.inputs, shapes)}
        zeros[self.inputs[1].name][:] = shapes[0][-1]
        try:
            results = session.run([spec.name for spec in self.outputs[:5]], zeros)
        except Exception as error:
            raise BundleError(
                f"fails on silence: {_first_line(error)}", file=self.source, remedy=_REMEDY
            ) from error
        plan = _Plan(
            session=session,
            inputs=tuple(zip((spec.name for spec in self.inputs), shapes)),
            outputs=tuple(
                (spec.name, result.shape, result.dtype.name)
                for spec, result in zip(self.outputs, results)
            ),
        )
        for (name, given), (next_name, got, dtype), spec in zip(
            plan.inputs[2:], plan.outputs[2:], self.inputs[2:]
        ):
            if given != got or dtype != spec.dtype:
                raise BundleIncompatible(
                    f"is {dtype} {list(got)}",
                    file=self.source,
                    field=next_name,
                    expected=f"{spec.dtype} {list(given)} as {name}",
                    remedy=_REMEDY,
                )
        return plan


@dataclass(frozen=True, slots=True)
class _Plan:
    """A session for fixed shapes."""

    session: Any
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape, str], ...]


class OnnxBinding:
    """Buffers and state of one batch of streams; see `edge_runtime.backends.Binding`."""

    def __init__(self, plan: _Plan) -> None:
        import onnxruntime as ort

        (_, features), (_, lengths), *states = plan.inputs
        self.features = np.zeros(features, np.float32)
        self.lengths = np.full(lengths, features[-1], np.int64)
        self._logprobs = np.zeros(plan.outputs[0][1], np.float32)
        encoded = np.zeros(plan.outputs[1][1], plan.outputs[1][2])
        self._states = tuple(
            tuple(
                np.zeros(shape, dtype)
                for (_, shape), (_, _, dtype) in zip(states, plan.outputs[2:])
            )
            for _ in range(2)
        )
        self._side = 0  # which of the two state sets holds the current state
        self._run = plan.session.run_with_iobinding
        self._bindings = []
        for side in range(2):
            binding = plan.session.io_binding()
            arrays = (self.features, self.lengths, *self._states[side])
            for (name, _), array in zip(plan.inputs, arrays):
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
            arrays = (self._logprobs, encoded, *self._states[1 - side])
            for (name, _, _), array in zip(plan.outputs, arrays):
                binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
            self._bindings.append(binding)
        # The OrtValues borrow the arrays' memory: the arrays must live as long as the bindings.
        self._keep_alive = encoded

    def run(self) -> NDArray[np.float32]:
        try:
            self._run(self._bindings[self._side])
        except Exception as error:
            raise BackendError(f"the graph failed: {_first_line(error)}") from error
        self._side ^= 1
        return self._logprobs

    def reset(self, row: int) -> None:
        for state in self._states[self._side]:
            state[row] = 0

    def keep(self, row: int) -> None:
        for state, before in zip(self._states[self._side], self._states[self._side ^ 1]):
            state[row] = before[row]

    def read_state(self, row: int) -> State:
        return tuple(state[row].copy() for state in self._states[self._side])

    def write_state(self, row: int, state: State) -> None:
        for target, source in zip(self._states[self._side], state):
            target[row] = source


def _make_session(source: str, fixed: dict[str, int], threads: int) -> Any:
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
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # failures arrive as exceptions; stderr belongs to the program
    for name, size in fixed.items():
        options.add_free_dimension_override_by_name(name, size)
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise BundleError(
            f"onnxruntime refuses it: {_first_line(error)}", file=source, remedy=_REMEDY
        ) from error
    log.debug("session", extra={"model": source, "dims": fixed})
    return session


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
