"""INT8 files for CPUs, derived from a float graph and its ranges: the same bytes every time.

One grid, three forms, because the kernels of onnxruntime want three:

=========== =============================================================================
target      activations
=========== =============================================================================
x86         uint8 around 128: what the VNNI kernels multiply with int8 weights
arm64       int8 around 0: the same grid, the same results, for the dot-product kernels of ARM
dynamic     uint8, ranges measured anew at every step; needs no calibration
=========== =============================================================================

Weights are int8 in steps of their own for every output, symmetric around zero.  Biases, states and
everything between the linear layers stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.graph import FloatGraph, Linear, replace_nodes
from calibration.methods import LEVELS
from calibration.ranges import Ranges
from edge_runtime.errors import ConfigError

TARGETS = ("x86", "arm64", "dynamic")


def emit(graph: FloatGraph, ranges: Ranges, target: str) -> bytes:
    """The INT8 file of one target.

    Raises BundleError if the ranges are those of another model, ConfigError for an unknown target.
    """
    if target not in TARGETS:
        raise ConfigError(f"no target {target!r}: there are {', '.join(TARGETS)}")
    scales = ranges.scales(graph)
    linears = [one for one in graph.linears if one.name not in ranges.keep_float]
    return _Emission(graph, target, scales).run(linears)


def quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """f32 [inputs, outputs] -> int8 of the same shape, and the step of every output."""
    steps = (np.abs(weight).max(axis=0) / LEVELS).astype(np.float32)
    steps[steps == 0] = 1.0
    return np.round(weight / steps).astype(np.int8), steps


@dataclass(slots=True)
class _Emission:
    """One file in the making."""

    graph: FloatGraph
    target: str
    scales: Mapping[str, float]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    ready: dict[str, tuple[str, ...]] = field(default_factory=dict)  # quantised activations

    def run(self, linears: list[Linear]) -> bytes:
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        weights = self.graph.weights()
        by_output = {linear.y: linear for linear in linears}
        for node in model.graph.node:
            linear = by_output.get(node.output[0]) if node.op_type == "MatMul" else None
            if linear is not None:
                self._multiply(linear, weights[linear.weight])
                continue
            if node.op_type == "Add":
                self._raise_bias(node, by_output)
            self.nodes.append(node)
        replace_nodes(model.graph, self.nodes, self.constants.values())
        model.producer_name = "vitconformer calibrate"
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def _constant(self, name: str, value: object, dtype: type[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def _multiply(self, linear: Linear, weight: NDArray[np.float32]) -> None:
        numbers, steps = quantised(weight)
        w = self._constant(f"{linear.weight}.int8", numbers, np.int8)
        if self.target == "dynamic":
            x, scale, zero = self._measured(linear.x)
            wide = f"{linear.y}.int32"
            self._op("MatMulInteger", [x, w, zero, self._constant("int8.zero", 0, np.int8)], wide)
            self._op("Cast", [wide], f"{linear.y}.float", to=TensorProto.FLOAT)
            w_scale = self._constant(f"{linear.weight}.scale", steps, np.float32)
            self._op("Mul", [scale, w_scale], f"{linear.y}.scale")
            self._op("Mul", [f"{linear.y}.float", f"{linear.y}.scale"], linear.y)
            return
        (x,) = self._rounded(linear.x)
        w = self._op(
            "DequantizeLinear",
            [
                w,
                self._constant(f"{linear.weight}.scale", steps, np.float32),
                self._constant(f"{linear.weight}.zero", np.zeros(len(steps)), np.int8),
            ],
            f"{linear.weight}.stepped",
            axis=1,
        )
        self._op("MatMul", [x, w], linear.y)

    def _measured(self, x: str) -> tuple[str, ...]:
        """Activations quantised by their own range: tensor, scale, zero point."""
        if x not in self.ready:
            names = (f"{x}.uint8", f"{x}.scale", f"{x}.zero")
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names, f"{x}.measure"))
            self.ready[x] = names
        return self.ready[x]

    def _rounded(self, x: str) -> tuple[str, ...]:
        """Activations rounded to the calibrated grid."""
        if x not in self.ready:
            middle, dtype = (128, np.uint8) if self.target == "x86" else (0, np.int8)
            scale = self._constant(f"{x}.scale", self.scales[x], np.float32)
            zero = self._constant(f"{x}.zero", middle, dtype)
            number = self._op("QuantizeLinear", [x, scale, zero], f"{x}.number")
            stepped = self._op("DequantizeLinear", [number, scale, zero], f"{x}.stepped")
            self.ready[x] = (stepped,)
        return self.ready[x]

    def _raise_bias(self, node: onnx.NodeProto, linears: Mapping[str, Linear]) -> None:
        """[N] -> [1, 1, N] for the bias of a quantised layer.

        Else onnxruntime joins product and bias to a `Gemm` before it looks for INT8 patterns, has
        no INT8 kernel for that one, and multiplies in float, several times slower than before.
        """
        for i, name in enumerate(node.input):
            if name in linears and (bias := self.constants.get(node.input[1 - i])) is not None:
                value = numpy_helper.to_array(bias)
                if value.ndim == 1:
                    raised = f"{bias.name}.raised"
                    self._constant(raised, value.reshape(1, 1, -1), np.float32)
                    node.input[1 - i] = raised
