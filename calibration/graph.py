"""A float graph as what quantisation sees of it: linear layers between everything else.

A linear layer is a product of activations with a constant matrix: `MatMul`, or `Gemm` without
transposed activations.  Convolutions, attention's products of two activations, norms and states
stay float: together they are a few percent of the arithmetic, and hold what INT8 hurts most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import BundleError

Array = NDArray[np.float32]

_WORTH_A_CAST = 512  # values: the node that widens a constant takes a hundred bytes itself


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W (+ b)."""

    name: str  # of the node
    x: str  # tensor of activations
    y: str
    weight: str  # constant of [inputs, outputs]


@dataclass(frozen=True, slots=True)
class FloatGraph:
    """A graph whose linear layers are all `MatMul`, with the bias added by a node of its own."""

    file: str
    sha256: str  # of the file
    model: onnx.ModelProto
    linears: tuple[Linear, ...]  # in the order in which they run

    @property
    def activations(self) -> tuple[str, ...]:
        """The tensors that enter linear layers, each once."""
        return tuple(dict.fromkeys(linear.x for linear in self.linears))

    def weights(self) -> dict[str, Array]:
        """f32 [inputs, outputs] by name of the constant."""
        wanted = {linear.weight for linear in self.linears}
        return {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in self.model.graph.initializer
            if tensor.name in wanted
        }

    def biases(self) -> dict[str, tuple[str, str]]:
        """Product -> constant of [outputs] that is all that is done to it, and the sum."""
        graph = self.model.graph
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        vectors = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 1}
        outputs = {output.name for output in graph.output}
        found = {}
        for linear in self.linears:
            if linear.y in outputs or len(readers.get(linear.y, ())) != 1:
                continue
            (node,) = readers[linear.y]
            others = [name for name in node.input if name != linear.y]
            if node.op_type == "Add" and len(others) == 1 and others[0] in vectors:
                found[linear.y] = (others[0], node.output[0])
        return found


def load_graph(path: Path) -> FloatGraph:
    """Reads an exported graph of any kind that `edge_runtime` runs.

    Raises BundleError if it is no ONNX file, is quantised already, or has nothing to quantise.
    """
    try:
        data = path.read_bytes()
        model = onnx.load_from_string(data)
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", file=str(path)) from error
    except Exception as error:  # protobuf's own DecodeError
        raise BundleError("is not an ONNX file", file=str(path)) from error
    graph = model.graph
    kinds = {node.op_type for node in graph.node}
    if found := sorted(kind for kind in kinds if "Quant" in kind or kind.endswith("Integer")):
        raise BundleError(
            f"is quantised already ({', '.join(found)})",
            file=str(path),
            expected="a float graph",
            remedy="name the float model of the bundle",
        )
    _widen(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    linears = []
    for node in graph.node:
        for part in _without_gemm(node, constants):
            nodes.append(part)
            if _is_linear(part, constants):
                x, weight = part.input
                linears.append(Linear(part.name or part.output[0], x, part.output[0], weight))
    replace_nodes(graph, nodes, constants.values())
    if not linears:
        raise BundleError("has no linear layers to quantise", file=str(path))
    return FloatGraph(str(path), hashlib.sha256(data).hexdigest(), model, tuple(linears))


def replace_nodes(
    graph: onnx.GraphProto,
    nodes: Iterable[onnx.NodeProto],
    constants: Iterable[onnx.TensorProto],
) -> None:
    """Give `graph` these nodes, and those of the constants that they read."""
    nodes = list(nodes)
    read = {name for node in nodes for name in node.input} | {o.name for o in graph.output}
    kept = [tensor for tensor in constants if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def _widen(graph: onnx.GraphProto) -> None:
    """Constants that are stored narrow and cast when the graph runs become float32 constants."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "Cast" else None
        if stored is None or node.attribute[0].i != TensorProto.FLOAT:
            nodes.append(node)
        else:
            value = numpy_helper.to_array(stored).astype(np.float32)
            constants[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    replace_nodes(graph, nodes, constants.values())


def narrow(graph: onnx.GraphProto) -> None:
    """The opposite of what loading did: constants that are float16 to the last bit are stored so.

    Runtimes widen them once, when they load the file, to the values that they had.
    """
    casts, constants = [], []
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and value.size >= _WORTH_A_CAST:
            with np.errstate(over="ignore"):
                half = value.astype(np.float16)
            if np.array_equal(half.astype(np.float32), value):
                stored = f"{tensor.name}.half"
                name = tensor.name
                casts.append(helper.make_node("Cast", [stored], [name], name, to=TensorProto.FLOAT))
                tensor = numpy_helper.from_array(half, stored)
        constants.append(tensor)
    replace_nodes(graph, [*casts, *graph.node], constants)


def _without_gemm(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """`Gemm` with a constant matrix as `MatMul` and `Add`; anything else as it is."""
    if node.op_type != "Gemm" or node.input[1] not in constants:
        return [node]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("transA") or {attributes.get(n, 1.0) for n in ("alpha", "beta")} != {1.0}:
        return [node]
    x, weight, *bias = node.input
    if attributes.get("transB"):
        turned = f"{weight}.turned"
        value = numpy_helper.to_array(constants[weight]).T
        constants[turned] = numpy_helper.from_array(np.ascontiguousarray(value), turned)
        weight = turned
    y = node.output[0]
    name = node.name or y
    product = f"{y}.product" if bias else y
    nodes = [helper.make_node("MatMul", [x, weight], [product], name)]
    if bias:
        nodes.append(helper.make_node("Add", [product, bias[0]], [y], f"{name}.bias"))
    return nodes


def _is_linear(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "MatMul" or node.input[0] in constants:
        return False
    weight = constants.get(node.input[1])
    return weight is not None and len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT
