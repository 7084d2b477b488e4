"""Bias correction: rounding must not shift the mean of what a layer puts out.

Rounded weights and cut activations err by a little that does not average out.  What is left of it
over a calibration is known, and a bias can take it back:

    b' = b - (E[x_q] W_q - E[x] W)

(Nagel et al. 2019, arXiv:1906.04721, with the activations' own share).  Means are of the float
graph's activations, x_q their roundings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.graph import FloatGraph, Linear, replace_nodes
from calibration.methods import LEVELS, quantised
from calibration.observe import Plan, windows
from edge_runtime.errors import BundleError
from edge_runtime.modelspec import ModelSpec

Shifts = Mapping[str, Sequence[float]]  # layer -> what rounding adds to every output on average


def rounded(values: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Activations as a quantised layer sees them."""
    step = np.float32(scale)
    return np.asarray(np.clip(np.rint(values / step), -LEVELS - 1, LEVELS) * step, np.float32)


def shifts(
    graph: FloatGraph, spec: ModelSpec, plan: Plan, scales: Mapping[str, float]
) -> dict[str, tuple[float, ...]]:
    """E[x_q] W_q - E[x] W for every layer that has a bias, to four digits."""
    real: dict[str, NDArray[np.float64]] = {}
    stepped: dict[str, NDArray[np.float64]] = {}
    rows: dict[str, int] = {}
    for taps in windows(graph, spec, plan):
        for name, values in taps.items():
            flat = values.reshape(-1, values.shape[-1])
            real[name] = real.get(name, 0.0) + flat.sum(axis=0, dtype=np.float64)
            quantity = rounded(flat, scales[name]).sum(axis=0, dtype=np.float64)
            stepped[name] = stepped.get(name, 0.0) + quantity
            rows[name] = rows.get(name, 0) + len(flat)
    weights, biases = graph.weights(), graph.biases()
    found = {}
    for linear in graph.linears:
        if linear.y in biases:
            numbers, steps = quantised(weights[linear.weight])
            x, count = linear.x, rows[linear.x]
            shift = stepped[x] / count @ (numbers * steps.astype(np.float64))
            shift -= real[x] / count @ weights[linear.weight].astype(np.float64)
            found[linear.name] = tuple(float(f"{value:.4g}") for value in shift)
    return found


def corrected(graph: FloatGraph, by: Shifts, quantise: Sequence[Linear]) -> FloatGraph:
    """`graph` with the shifts of the layers that will be quantised taken from their biases.

    Raises BundleError where there is no such bias, or it has another length.
    """
    wanted = {linear.y: by[linear.name] for linear in quantise if linear.name in by}
    if not wanted:
        return graph
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    biases = graph.biases()
    producers = {node.output[0]: node for node in model.graph.node}
    for y, shift in wanted.items():
        name, total = biases.get(y, ("", ""))
        if not name or len(shift) != constants[name].dims[0]:
            raise BundleError(
                "does not fit the model", file="ranges.json", field=f"bias[{y!r}]",
                remedy="calibrate again",
            )  # fmt: skip
        value = numpy_helper.to_array(constants[name]) - np.asarray(shift, np.float32)
        new = f"{total}.corrected"
        constants[new] = numpy_helper.from_array(value.astype(np.float32), new)
        add = producers[total]
        add.input[list(add.input).index(name)] = new
    replace_nodes(model.graph, list(model.graph.node), constants.values())
    return dataclasses.replace(graph, model=model)
