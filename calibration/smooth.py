"""SmoothQuant: what is hard to round in activations moves into weights, which have finer steps.

Activations have one step per tensor, so a channel that is louder than the others costs all of them.
Where a norm feeds linear layers only, its outputs can be divided by a factor per channel and the
matching rows of their weights multiplied by it, and nothing changes but the roundings to come:

    norm(x) / s · (s W) = norm(x) W          s_j = max|x_j|^a / max|W_j|^(1-a)

(Xiao et al. 2022, arXiv:2211.10438, with strength a).  Factors here are powers of two, so that the
float graph computes the same to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.graph import FloatGraph, Linear, replace_nodes
from calibration.observe import Plan, windows
from edge_runtime.errors import BundleError
from edge_runtime.modelspec import ModelSpec

STRENGTHS = (0.3, 0.5, 0.7)  # how much of the difficulty moves
_MOST = 12  # binary orders of magnitude: beyond it float16 would run out of range
_LEAST = 1e-5  # of a channel that is always, or of weights that are, nearly zero

Factors = Mapping[str, Sequence[int]]  # tensor -> exponent of two per channel


def smoothable(graph: FloatGraph) -> dict[str, tuple[Linear, ...]]:
    """Outputs of norms that only linear layers read, and those layers."""
    norms = {n.output[0] for n in graph.model.graph.node if n.op_type == "LayerNormalization"}
    products = {linear.y: linear for linear in graph.linears}
    outputs = {output.name for output in graph.model.graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {
        x: tuple(products[node.output[0]] for node in readers[x])
        for x in graph.activations
        if x in norms - outputs and all(node.output[0] in products for node in readers[x])
    }


def peaks(graph: FloatGraph, spec: ModelSpec, plan: Plan) -> dict[str, NDArray[np.float32]]:
    """Greatest magnitude of every channel of the tensors that can be smoothed, f32 [channels]."""
    found: dict[str, NDArray[np.float32]] = {}
    for taps in windows(graph, spec, plan):
        for name in smoothable(graph) if not found else tuple(found):
            values = np.abs(taps[name]).reshape(-1, taps[name].shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, np.float32(0)), values)
    return found


def factors(
    graph: FloatGraph, loudest: Mapping[str, NDArray[np.float32]], strength: float
) -> dict[str, tuple[int, ...]]:
    """Exponents for every tensor; on average over channels nothing moves."""
    weights = graph.weights()
    found = {}
    for name, linears in smoothable(graph).items():
        rows = np.max([np.abs(weights[one.weight]).max(axis=1) for one in linears], axis=0)
        wanted = strength * np.log2(np.maximum(loudest[name], _LEAST))
        wanted -= (1 - strength) * np.log2(np.maximum(rows, _LEAST))
        powers = np.clip(np.round(wanted - wanted.mean()), -_MOST, _MOST)
        found[name] = tuple(int(power) for power in powers)
    return found


def smoothed(graph: FloatGraph, by: Factors) -> FloatGraph:
    """The same function with norms divided and weights multiplied by two to the power of `by`.

    Raises BundleError for a tensor that cannot be smoothed, or another number of channels.
    """
    if not by:
        return graph
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    pairs = smoothable(graph)
    renamed: dict[str, str] = {}  # product -> its weight

    def scaled(name: str, factor: NDArray[np.float32], new: str) -> str:
        value = numpy_helper.to_array(constants[name]) * factor
        constants[new] = numpy_helper.from_array(value.astype(np.float32), new)
        return new

    for x, powers in by.items():
        factor = np.exp2(np.asarray(powers)).astype(np.float32)
        if x not in pairs or len(factor) != constants[producers[x].input[1]].dims[0]:
            raise BundleError(
                "does not fit the model", file="ranges.json", field=f"smooth[{x!r}]",
                remedy="calibrate again",
            )  # fmt: skip
        norm = producers[x]
        for place, suffix in enumerate(("weight", "bias"), start=1):
            if len(norm.input) > place:
                norm.input[place] = scaled(norm.input[place], 1 / factor, f"{x}.{suffix}")
        for linear in pairs[x]:
            weight = scaled(linear.weight, factor[:, None], f"{linear.y}.weight")
            producers[linear.y].input[1] = renamed[linear.y] = weight
    replace_nodes(model.graph, list(model.graph.node), constants.values())
    linears = tuple(
        dataclasses.replace(linear, weight=renamed.get(linear.y, linear.weight))
        for linear in graph.linears
    )
    return dataclasses.replace(graph, model=model, linears=linears)
