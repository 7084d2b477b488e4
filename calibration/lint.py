"""What TensorRT would refuse, or run slowly without a word, in a quantised graph.

    for finding in lint(onnx.load("encoder.int8-trt10.onnx"), tensorrt=(10, 3)):
        print(finding)

The rules are TensorRT's documented ones for explicit quantisation, and those of its ONNX parser:

============== ===================================================================================
rule           what it asks
============== ===================================================================================
int8           quantised tensors are signed
zero-point     zero points are constants of zeros; before TensorRT 10 they must be given
scale          scales are constants, positive and finite
per-tensor     activations have one scale; only constants may have several
axis           scales of weights run along the output channels
bias           biases are not quantised
operator       no operator outside the standard, and none that the parser does not read
opset          at most 17 before TensorRT 10, at most 20 before 10.16; float16 pairs want 19
small product  inputs and outputs of a quantised product are at least 16 wide, or it is a warning
============== ===================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PAIRS = ("QuantizeLinear", "DequantizeLinear")
_REFUSED = frozenset(
    (
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "ConvInteger",
        "QLinearMatMul",
        "QLinearConv",
        "STFT",
    )
)
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1}
_LEAST_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken at one node."""

    rule: str
    node: str
    problem: str
    warning: bool = False  # it would build, but not run as hoped

    def __str__(self) -> str:
        kind = "warning" if self.warning else "error"
        return f"{kind}: {self.rule}: {self.node}: {self.problem}"


def lint(model: onnx.ModelProto, *, tensorrt: tuple[int, int]) -> list[Finding]:
    """Everything that stands in the way, in the order of the nodes."""
    return list(_Linter(model, tensorrt).findings())


class _Linter:
    def __init__(self, model: onnx.ModelProto, tensorrt: tuple[int, int]) -> None:
        self._model = model
        self._version = tensorrt
        self._constants = {t.name: t for t in model.graph.initializer}
        self._producer = {name: n for n in model.graph.node for name in n.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def findings(self) -> Iterator[Finding]:
        yield from self._opset()
        for node in self._model.graph.node:
            name = node.name or node.output[0]
            if node.domain not in ("", "ai.onnx"):
                yield Finding("operator", name, f"{node.domain}.{node.op_type} is not standard")
            elif node.op_type in _REFUSED:
                yield Finding("operator", name, f"the parser does not read {node.op_type}")
            elif node.op_type == "LayerNormalization" and self._version < (8, 6):
                yield Finding("operator", name, "LayerNormalization is read from 8.6 on")
            elif node.op_type in PAIRS:
                yield from self._pair(node, name)
            elif node.op_type == "MatMul":
                yield from self._width(node, name)

    def _opset(self) -> Iterator[Finding]:
        opset = next(k.version for k in self._model.opset_import if k.domain in ("", "ai.onnx"))
        most = 17 if self._version < (10, 0) else 20 if self._version < (10, 16) else None
        version = ".".join(map(str, self._version))
        if most is not None and opset > most:
            yield Finding("opset", "model", f"{opset}, but TensorRT {version} reads up to {most}")
        if opset < 19 and any(
            t.data_type == TensorProto.FLOAT16 and any(n.op_type in PAIRS for n in readers)
            for t in self._model.graph.initializer
            if (readers := self._readers.get(t.name, []))
        ):
            yield Finding("opset", "model", f"{opset}, but float16 is quantised from 19 on")

    def _pair(self, node: onnx.NodeProto, name: str) -> Iterator[Finding]:
        x, scale_name, *zero_name = node.input
        yield from self._zero_point(node, name, zero_name[0] if zero_name else "")
        scale = self._constants.get(scale_name)
        if scale is None:
            yield Finding("scale", name, "is not a constant")
            return
        values = np.atleast_1d(numpy_helper.to_array(scale).astype(np.float64))
        if not (np.isfinite(values).all() and (values > 0).all()):
            yield Finding("scale", name, "is not positive and finite")
        weights = self._is_constant(x)
        if values.size > 1 and not weights:
            yield Finding("per-tensor", name, f"an activation has {values.size} scales")
        if weights:
            yield from self._weights(node, name, values.size)

    def _zero_point(self, node: onnx.NodeProto, name: str, zero_name: str) -> Iterator[Finding]:
        if not zero_name:
            if node.op_type == "QuantizeLinear":
                yield Finding("int8", name, "without a zero point the result is unsigned")
            elif self._version < (10, 0):
                yield Finding("zero-point", name, "is missing")
            stored = self._constants.get(node.input[0])
            if stored is not None and stored.data_type not in (TensorProto.INT8, TensorProto.FLOAT):
                yield Finding("int8", name, "reads a tensor that is not int8")
            return
        zero = self._constants.get(zero_name)
        if zero is None:
            yield Finding("zero-point", name, "is not a constant")
            return
        if zero.data_type != TensorProto.INT8:
            kind = TensorProto.DataType.Name(zero.data_type).lower()
            yield Finding("int8", name, f"the quantised type is {kind}")
        if numpy_helper.to_array(zero).any():
            yield Finding("zero-point", name, "is not zero")

    def _weights(self, node: onnx.NodeProto, name: str, scales: int) -> Iterator[Finding]:
        if node.op_type == "QuantizeLinear":
            return  # judged at the node that undoes it
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axis = attributes.get("axis", 1)
        for reader in self._readers.get(node.output[0], []):
            if reader.op_type == "Add":
                yield Finding("bias", name, "a bias is quantised")
            if scales == 1:
                continue
            if reader.op_type == "MatMul":
                expected = 1
            elif reader.op_type == "Gemm":
                turned = {a.name: a.i for a in reader.attribute}.get("transB", 0)
                expected = 0 if turned else 1
            elif reader.op_type in _OUTPUT_AXIS:
                expected = _OUTPUT_AXIS[reader.op_type]
            else:
                continue
            if axis != expected:
                problem = (
                    f"scales run along axis {axis}, outputs of {reader.op_type} are {expected}"
                )
                yield Finding("axis", name, problem)

    def _width(self, node: onnx.NodeProto, name: str) -> Iterator[Finding]:
        """GEMVs and slim products: NVIDIA's own tool leaves them in float."""
        pair = self._producer.get(node.input[1])
        if pair is None or pair.op_type != "DequantizeLinear":
            return
        stored = self._stored(pair.input[0])
        if stored is not None and len(stored.dims) == 2 and min(stored.dims) < _LEAST_WIDTH:
            width = " x ".join(map(str, stored.dims))
            yield Finding("small product", name, f"{width} is no faster in INT8", warning=True)

    def _is_constant(self, name: str) -> bool:
        return self._stored(name) is not None

    def _stored(self, name: str) -> onnx.TensorProto | None:
        """The constant behind a name, through the quantisation in front of it."""
        node = self._producer.get(name)
        if node is not None and node.op_type == "QuantizeLinear":
            name = node.input[0]
        found: onnx.TensorProto | None = self._constants.get(name)
        return found
