"""Integer convolutions as integer products, which onnxruntime computes twice as fast.

A dynamically quantised convolution in one dimension is a chain of nodes::

    x (B, C, T) -> DynamicQuantizeLinear -> ConvInteger [-> Add bias] -> Cast -> Mul by both scales

`ConvInteger` lays its patches out as the matrix that is packed, anew at every call.  Here it is the
weights that are packed, once: time becomes rows, the taps stand side by side, and one product also
scales and adds the bias::

    Transpose -> Pad -> a Slice for every tap -> Concat (B, T', K·C) -> MatMulIntegerToFloat

The integers are the same; only the bias is no longer rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_ORT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class _Convolution:
    """One chain, from the quantised input to the scaled output."""

    quantised: onnx.NodeProto  # DynamicQuantizeLinear: values, scale, zero point
    integer: onnx.NodeProto  # ConvInteger
    weight_scale: str
    bias: NDArray[np.float32] | None  # [O]
    y: str


def convolutions_as_products(model: onnx.ModelProto) -> int:
    """Rewrites in place every convolution whose weights are uint8 constants; -> how many."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {one.y: one for one in _convolutions(graph, constants)}
    if not found:
        return 0
    nodes: list[onnx.NodeProto] = []
    added: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.output[0] in found:
            nodes += _product(found[node.output[0]], constants, added)
        else:
            nodes.append(node)
    nodes = _read(nodes, {output.name for output in graph.output})
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, n) for n, value in added.items())
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    if not any(known.domain == _ORT for known in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_ORT, 1))
    return len(found)


def _convolutions(graph: onnx.GraphProto, constants: dict[str, NDArray[Any]]) -> list[_Convolution]:
    maker = {name: node for node in graph.node for name in node.output}
    reader: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        for name in node.input:
            reader.setdefault(name, node)
    found = []
    for node in graph.node:
        if node.op_type != "ConvInteger" or len(node.input) != 4:
            continue
        weight = constants.get(node.input[1])
        groups = {a.name: helper.get_attribute_value(a) for a in node.attribute}.get("group", 1)
        if weight is None or weight.dtype != np.uint8 or weight.ndim != 3 or groups != 1:
            continue
        bias, after = None, reader[node.output[0]]
        if after.op_type == "Add":
            # The bias is divided by the scales and rounded; where it comes from it is float.
            name = next(name for name in after.input if name != node.output[0])
            while maker[name].op_type in ("Reshape", "Cast", "Floor"):
                name = maker[name].input[0]
            bias = constants[maker[name].input[0]].reshape(-1)
            after = reader[after.output[0]]
        scaled = reader[after.output[0]]  # Mul after Cast
        scales = maker[next(name for name in scaled.input if name != after.output[0])]
        weight_scale = next(name for name in scales.input if name in constants)
        found.append(_Convolution(maker[node.input[0]], node, weight_scale, bias, scaled.output[0]))
    return found


def _product(
    one: _Convolution, constants: dict[str, NDArray[Any]], added: dict[str, NDArray[Any]]
) -> list[onnx.NodeProto]:
    values, scale, zero = one.quantised.output
    weight = constants[one.integer.input[1]]  # (O, C, K)
    weight_zero = int(constants[one.integer.input[3]].reshape(()))
    attributes = {a.name: helper.get_attribute_value(a) for a in one.integer.attribute}
    (before, after) = attributes.get("pads", (0, 0))
    (stride,), (dilation,) = attributes.get("strides", [1]), attributes.get("dilations", [1])
    outputs, _, taps = weight.shape
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        added[name] = value
        return name

    def ints(*numbers: int) -> str:
        return constant("ints_" + "_".join(map(str, numbers)), np.array(numbers, np.int64))

    def op(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    x = op("Transpose", [values], f"{one.y}.rows", perm=[0, 2, 1])  # (B, T, C)
    if before or after:
        pads = ints(0, before, 0, 0, after, 0)
        x = op("Pad", [x, pads, zero], f"{one.y}.padded")
    if taps > 1 or stride > 1:
        pieces = []
        for tap in range(taps):
            # Every tap sees as many places: those that leave room for the taps after it.
            left = (taps - 1 - tap) * dilation
            end = ints(-left) if left else ints(np.iinfo(np.int64).max)
            cut = [x, ints(tap * dilation), end, ints(1), ints(stride)]
            pieces.append(op("Slice", cut, f"{one.y}.tap{tap}"))
        x = op("Concat", pieces, f"{one.y}.patches", axis=2)  # (B, T', K·C)
    # Signed weights are what the fast kernels take; shifting both by 128 changes nothing.
    matrix = (weight.astype(np.int16) - 128).astype(np.int8)
    matrix = matrix.transpose(2, 1, 0).reshape(-1, outputs)  # (K·C, O)
    inputs = [
        x,
        constant(f"{one.y}.weight", matrix),
        scale,
        one.weight_scale,
        zero,
        constant(f"{one.y}.weight_zero", np.array(weight_zero - 128, np.int8)),
    ]
    if one.bias is not None:
        inputs.append(constant(f"{one.y}.bias", one.bias.astype(np.float32)))
    y = op("MatMulIntegerToFloat", inputs, f"{one.y}.product", domain=_ORT)  # (B, T', O)
    op("Transpose", [y], one.y, perm=[0, 2, 1])
    return nodes


def _read(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes, in order, that any of `outputs` depends on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
