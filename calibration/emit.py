"""INT8 files, derived from a float graph and its ranges: always the same bytes.

============= =============================================================================
target        for
============= =============================================================================
x86           onnxruntime: activations uint8 around 128, for the VNNI kernels of x86-64
arm64         onnxruntime: int8 around 0, the same grid, for the dot-product kernels of ARM64
dynamic       onnxruntime: ranges measured anew at every step; needs no calibration
dynamic7      the same with weights of seven bits, for x86-64 without VNNI, whose kernels add
              pairs of products in 16 bits: 2 · 255 · 63 fits, 2 · 255 · 127 does not
trt10, trt8   TensorRT: see `calibration.qdq`
float16-trt10 TensorRT, without INT8: the one to compare with, or where it is faster
============= =============================================================================

Weights are int8 in steps of their own for every output, symmetric around zero.  Biases, states and
everything between the linear layers stay float; constants that lose nothing by it are stored as
float16.

For onnxruntime products are its own operators, not the Q/DQ pairs of the standard from which it
would have to guess them: it joins those only where nothing stands in between, never with their
bias, and where it fails it multiplies in float without a word, four times slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration import qdq
from calibration.bias import corrected
from calibration.graph import FloatGraph, Linear, narrow, replace_nodes
from calibration.methods import LEVELS, quantised
from calibration.ranges import Ranges
from calibration.smooth import smoothed
from edge_runtime.errors import ConfigError

CPU_TARGETS = ("x86", "arm64", "dynamic", "dynamic7")
GRID = "trt8"  # pairs in float32: evaluated literally, the grid of all static files
ON_THE_GRID = ("x86", "arm64", GRID)
_LEVELS = {"dynamic7": 63}  # of weights on either side of zero
TARGETS = (*CPU_TARGETS, *qdq.TARGETS)
_ORT = "com.microsoft"  # the domain of onnxruntime's own operators


def precision_of(target: str) -> str:
    """What a bundle calls the model of a target."""
    return target if target.startswith("float16") else f"int8-{target}"


def emit(graph: FloatGraph, ranges: Ranges, target: str) -> bytes:
    """The INT8 file of one target.

    Raises BundleError if the ranges are those of another model, ConfigError for an unknown target.
    """
    if target not in TARGETS:
        raise ConfigError(f"no target {target!r}: there are {', '.join(TARGETS)}")
    scales = ranges.scales(graph)
    if target == "float16-trt10":
        return qdq.with_pairs(graph, [], scales, target)
    graph = smoothed(graph, ranges.smooth)
    linears = [one for one in graph.linears if one.name not in ranges.keep_float]
    graph = corrected(graph, ranges.bias, linears)
    if target in qdq.TARGETS:
        return qdq.with_pairs(graph, linears, scales, target)
    return _Emission(graph, target, scales).run(linears)


@dataclass(slots=True)
class _Emission:
    """One file for onnxruntime in the making."""

    graph: FloatGraph
    target: str
    scales: Mapping[str, float]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    ready: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # see `_quantised`

    def run(self, linears: list[Linear]) -> bytes:
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        weights = self.graph.weights()
        biases = self.graph.biases()
        products = {linear.y: linear for linear in linears}
        for node in model.graph.node:
            linear = products.get(node.output[0])
            if linear is not None:
                bias, y = biases.get(linear.y, ("", linear.y))
                self._multiply(linear, weights[linear.weight], bias, y)
            elif not any(name in products and name in biases for name in node.input):
                self.nodes.append(node)  # else it is a bias, which its product has added
        replace_nodes(model.graph, self.nodes, self.constants.values())
        narrow(model.graph)
        if not any(known.domain == _ORT for known in model.opset_import):
            model.opset_import.append(helper.make_opsetid(_ORT, 1))
        model.producer_name = "vitconformer calibrate"
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def _constant(self, name: str, value: object, dtype: type[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def _multiply(self, linear: Linear, weight: NDArray[np.float32], bias: str, y: str) -> None:
        numbers, steps = quantised(weight, _LEVELS.get(self.target, LEVELS))
        w = self._constant(f"{linear.weight}.int8", numbers, np.int8)
        w_scale = self._constant(f"{linear.weight}.scale", steps, np.float32)
        if self.target.startswith("dynamic"):
            # Where two products read one activation, measuring it twice costs less than a node.
            inputs = [linear.x, w, w_scale, "", bias]
            self._op("DynamicQuantizeMatMul", inputs, y, domain=_ORT)
            return
        x, scale, zero = self._quantised(linear.x)
        inputs = [x, w, scale, w_scale, zero, "", bias]
        self._op("MatMulIntegerToFloat", inputs, y, domain=_ORT)

    def _quantised(self, x: str) -> tuple[str, str, str]:
        """Activations in eight bits, their scale and zero point; once for all who read them."""
        if x not in self.ready:
            names = (f"{x}.eight", f"{x}.scale", f"{x}.zero")
            self.ready[x] = names
            middle, dtype = (128, np.uint8) if self.target == "x86" else (0, np.int8)
            self._constant(names[1], self.scales[x], np.float32)
            self._constant(names[2], middle, dtype)
            self._op("QuantizeLinear", [x, *names[1:]], names[0])
        return self.ready[x]
