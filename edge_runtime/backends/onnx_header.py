"""Reads the outline of an ONNX file without onnx, protobuf or onnxruntime.

Three things must be known before onnxruntime may see a file: whether its inputs are sane (absurd
sizes must be refused before anything is allocated), what its symbolic dimensions are called (so that
they can be fixed when the session is made, once), and which external files its tensors name (so that
none lies outside the model's directory). All three are in the outline; the weights are skipped.

The format is protobuf (https://protobuf.dev/programming-guides/encoding); the field numbers are
those of onnx.proto3 and never change.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.backends import TensorSpec
from edge_runtime.errors import BundleError

_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_MAX_DEPTH = 16  # subgraphs in subgraphs; real ones nest twice
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """Outline of a graph."""

    inputs: tuple[TensorSpec, ...]  # without those that have a default initialiser
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    external: frozenset[str] = field(default_factory=frozenset)  # files tensors are stored in


def read_header(path: Path) -> OnnxHeader:
    """Outline of the ONNX file at `path`. Raises BundleError if it is not one."""
    try:
        with path.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as m:
            has_external = m.find(b"location") >= 0  # the key every external tensor must have
            with memoryview(m) as view:
                return parse_header(view, has_external=has_external)
    except OSError as error:
        raise BundleError(
            f"cannot be read: {error.strerror}", file=str(path), expected="an ONNX file"
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise BundleError(
            f"is not a complete ONNX file: {error}",
            file=str(path),
            remedy="export or fetch it again",
        ) from error


def parse_header(data: memoryview, *, has_external: bool = True) -> OnnxHeader:
    """Outline of the ONNX model `data`; external files only looked for if `has_external`.

    Raises ValueError.
    """
    metadata: dict[str, str] = {}
    graphs: list[memoryview] = []
    functions: list[memoryview] = []
    for number, value in _messages(data):
        if number == 7:  # ModelProto.graph
            graphs.append(value)
        elif number == 14:  # ModelProto.metadata_props
            entry = dict(_messages(value))
            key = _text(entry.get(1, _EMPTY))
            if key in metadata:
                raise ValueError(f"metadata {key!r} appears twice")
            metadata[key] = _text(entry.get(2, _EMPTY))
        elif number == 25:  # ModelProto.functions
            functions.append(value)
    if len(graphs) != 1:
        raise ValueError(f"it holds {len(graphs)} graphs")
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    initialised: set[str] = set()
    for number, value in _messages(graphs[0]):
        if number == 5:  # GraphProto.initializer
            initialised.update(_text(v) for n, v in _messages(value) if n == 8)
        elif number == 11:
            inputs.append(_tensor_spec(value))
        elif number == 12:
            outputs.append(_tensor_spec(value))
    external: set[str] = set()
    if has_external:
        for graph in graphs:
            external.update(_graph_files(graph, 0))
        for function in functions:
            for number, value in _messages(function):
                if number == 7:  # FunctionProto.node
                    external.update(_node_files(value, 0))
    return OnnxHeader(
        tuple(spec for spec in inputs if spec.name not in initialised),
        tuple(outputs),
        metadata,
        frozenset(external),
    )


_EMPTY = memoryview(b"")


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """`(field number, value)` of a message: numbers as int, everything else as bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > end:
            raise ValueError("it is cut short")
        yield number, data[at : at + size]
        at += size


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(data):
        if isinstance(value, memoryview):
            yield number, value


def _tensor_spec(info: memoryview) -> TensorSpec:
    """ValueInfoProto: name = 1, type = 2 (tensor_type = 1 (elem_type = 1, shape = 2 (dim = 1)))."""
    name, dtype = "", "type 0"
    shape: tuple[int | str, ...] | None = None
    for number, value in _messages(info):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, tensor in _messages(value):
                if kind != 1:
                    dtype = "not a tensor"
                    continue
                for part, detail in _fields(tensor):
                    if part == 1 and isinstance(detail, int):
                        dtype = _DTYPES.get(detail, f"type {detail}")
                    elif part == 2 and isinstance(detail, memoryview):
                        shape = tuple(_dimension(dim) for n, dim in _messages(detail) if n == 1)
    return TensorSpec(name, dtype, shape)


def _dimension(dim: memoryview) -> int | str:
    """Dimension: dim_value = 1, dim_param = 2; neither means unknown."""
    for number, value in _fields(dim):
        if number == 1 and isinstance(value, int):
            return value - (1 << 64) if value >= 1 << 63 else value
        if number == 2 and isinstance(value, memoryview):
            return _text(value)
    return ""


def _graph_files(graph: memoryview, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    for number, value in _messages(graph):
        if number == 1:  # GraphProto.node
            yield from _node_files(value, depth)
        elif number == 5:  # GraphProto.initializer
            yield from _tensor_files(value)
        elif number == 15:  # GraphProto.sparse_initializer
            yield from _sparse_files(value)


def _node_files(node: memoryview, depth: int) -> Iterator[str]:
    for number, attribute in _messages(node):
        if number != 5:  # NodeProto.attribute
            continue
        for kind, value in _messages(attribute):
            if kind in (5, 10):  # AttributeProto.t, tensors
                yield from _tensor_files(value)
            elif kind in (6, 11):  # g, graphs
                yield from _graph_files(value, depth + 1)
            elif kind in (22, 23):  # sparse_tensor, sparse_tensors
                yield from _sparse_files(value)


def _sparse_files(tensor: memoryview) -> Iterator[str]:
    for number, value in _messages(tensor):
        if number in (1, 2):  # SparseTensorProto.values, indices
            yield from _tensor_files(value)


def _tensor_files(tensor: memoryview) -> Iterator[str]:
    for number, value in _messages(tensor):
        if number == 13:  # TensorProto.external_data: key = 1, value = 2
            entry = dict(_messages(value))
            if _text(entry.get(1, _EMPTY)) == "location":
                yield _text(entry.get(2, _EMPTY))
