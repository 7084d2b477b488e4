"""INT8 files for TensorRT, derived from the same float graph and ranges as those for CPUs.

TensorRT reads quantisation from pairs of QuantizeLinear and DequantizeLinear around what is to run
in INT8, moves them, and fuses what is between.  Three forms serve JetPack 6 and 7:

============= ==============================================================================
target        form
============= ==============================================================================
trt10         strongly typed, for TensorRT 10 and later (JetPack 6.1 on): float16 with int8
              weights, opset 19, the first that quantises float16.  Features and states are
              float16, log-probabilities float32
float16-trt10 the same without INT8: to compare with, and where INT8 is no faster.  TensorRT 11
              takes no other way to half precision
trt8          for TensorRT 8.6 (JetPack 6.0) with its INT8 and FP16 flags: float32, opset 17,
              weights as float with a pair of their own, zero points always given
============= ==============================================================================

Both INT8 forms are the grid of the CPU files: int8, symmetric, one range per tensor of activations,
one step per output of weights.  What TensorRT accepts is in `calibration.lint`.  No file of ours
has been built by TensorRT yet: what is tested is the form, and the arithmetic, in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter

from calibration.graph import FloatGraph, Linear, replace_nodes
from calibration.methods import quantised

TARGETS = ("trt10", "trt8", "float16-trt10")
OPSETS = {"trt10": 19, "trt8": 17, "float16-trt10": 19}
# Sums over many values, and angles that grow with time: half precision loses what matters there.
_FLOAT32 = frozenset(("Cos", "Sin", "Exp", "LogSoftmax", "ReduceSum", "Range"))
_GREATEST = 6.0e4  # of float16, rounded down; masks hold greater ones
_CONTRACT_OUTPUTS = 5


def with_pairs(
    graph: FloatGraph, linears: Sequence[Linear], scales: Mapping[str, float], target: str
) -> bytes:
    """The file of one of `TARGETS` in which `linears` are quantised."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.output[_CONTRACT_OUTPUTS:]
    _drop_unread(model.graph)
    (opset,) = (known.version for known in model.opset_import if known.domain in ("", "ai.onnx"))
    if opset != OPSETS[target]:
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        model = version_converter.convert_version(model, OPSETS[target])
        helper.set_model_props(model, metadata)
    half = target != "trt8"
    if half:
        _to_float16(model)
    _insert_pairs(model.graph, linears, graph.weights(), scales, half=half)
    model.producer_name = "vitconformer calibrate"
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Nodes that no output depends on."""
    read = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(node.input)
            nodes.append(node)
    replace_nodes(graph, nodes[::-1], list(graph.initializer))


def _insert_pairs(
    graph: onnx.GraphProto,
    linears: Sequence[Linear],
    weights: Mapping[str, NDArray[np.float32]],
    scales: Mapping[str, float],
    *,
    half: bool,
) -> None:
    """A pair in front of every activation and every weight that is quantised."""
    dtype = np.float16 if half else np.float32
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = {linear.y: linear for linear in linears}
    nodes: list[onnx.NodeProto] = []
    ready: dict[str, str] = {}

    def constant(name: str, value: object, kind: type[np.generic]) -> str:
        constants[name] = numpy_helper.from_array(np.asarray(value, kind), name)
        return name

    def op(kind: str, inputs: list[str], output: str, **attributes: int) -> str:
        node = helper.make_node(kind, inputs, [output], output)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        nodes.append(node)
        return output

    for node in graph.node:
        linear = products.get(node.output[0])
        if linear is None or node.op_type != "MatMul":
            nodes.append(node)
            continue
        x, w = node.input
        if x not in ready:
            # float16 has no step below 6e-8; no activation of a network lives there.
            pair = [constant(f"{x}.scale", max(scales[linear.x], 1e-7), dtype)]
            pair.append(constant(f"{x}.zero", 0, np.int8))
            number = op("QuantizeLinear", [x, *pair], f"{x}.int8")
            ready[x] = op("DequantizeLinear", [number, *pair], f"{x}.stepped")
        numbers, steps = quantised(weights[linear.weight])
        pair = [constant(f"{w}.scale", np.maximum(steps, 1e-7), dtype)]
        pair.append(constant(f"{w}.zero", np.zeros(len(steps)), np.int8))
        if half:
            number = constant(f"{w}.int8", numbers, np.int8)
        else:
            number = op("QuantizeLinear", [w, *pair], f"{w}.int8", axis=1)
        stepped = op("DequantizeLinear", [number, *pair], f"{w}.stepped", axis=1)
        nodes.append(helper.make_node("MatMul", [ready[x], stepped], node.output, node.name))
    replace_nodes(graph, nodes, constants.values())


def _to_float16(model: onnx.ModelProto) -> None:
    """Strong types: every tensor says float16, but for what `_FLOAT32` computes."""
    graph = shape_inference.infer_shapes(model).graph
    known = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in known}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    wide = {
        name
        for node in model.graph.node
        if node.op_type in _FLOAT32 or _casts_to_float(node)
        for name in node.output
        if name in floats
    }
    nodes: list[onnx.NodeProto] = []
    made: dict[str, str] = {}

    def given(name: str, in_float32: bool) -> str:
        """`name` in the precision that a node computes in."""
        if name not in floats:
            return name
        if name in constants:
            return name if in_float32 else narrowed(name)
        if (name in wide) == in_float32:
            return name
        if name not in made:  # in the other precision: there are only two
            made[name] = f"{name}.{'float32' if in_float32 else 'float16'}"
            to = TensorProto.FLOAT if in_float32 else TensorProto.FLOAT16
            nodes.append(helper.make_node("Cast", [name], [made[name]], made[name], to=to))
        return made[name]

    def narrowed(name: str) -> str:
        half = f"{name}.float16"
        value = numpy_helper.to_array(constants[name])
        value = np.clip(value, -_GREATEST, _GREATEST).astype(np.float16)
        constants.setdefault(half, numpy_helper.from_array(value, half))
        return half

    for node in model.graph.node:
        in_float32 = any(name in wide for name in node.output) or node.op_type in _FLOAT32
        for i, name in enumerate(node.input):
            node.input[i] = given(name, in_float32)
        nodes.append(node)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in floats and value.name not in wide:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    replace_nodes(model.graph, nodes, constants.values())


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT
