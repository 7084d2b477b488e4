"""Layer by layer: what rounding adds to the products, with float activations coming in.

Each layer is judged alone, on what enters it in the float model, so that an error is found where it
is made and not where it arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.bias import rounded
from calibration.graph import FloatGraph
from calibration.histogram import Histogram
from calibration.methods import quantised
from calibration.observe import Plan, windows
from calibration.ranges import Ranges
from calibration.smooth import smoothed
from edge_runtime.modelspec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One linear layer in INT8."""

    label: str  # of its weight: what a person calls it
    x: str  # tensor that enters it
    activations_db: float  # power of what enters it against that of its rounding and cutting
    weights_db: float  # the same of its weights
    output_db: float  # the same of its products, from both
    cut: float  # share of what enters it that lies beyond the range
    in_float: bool  # kept so


@dataclass(frozen=True, slots=True)
class Layers:
    """All of them, in the order in which they run, and what entered them."""

    layers: tuple[Layer, ...]
    histograms: dict[str, Histogram]

    def worst(self, count: int) -> Sequence[Layer]:
        """Those that INT8 hurts most."""
        return sorted((one for one in self.layers if not one.in_float), key=_output)[:count]


def _output(layer: Layer) -> float:
    return layer.output_db


def measure_layers(graph: FloatGraph, spec: ModelSpec, ranges: Ranges, plan: Plan) -> Layers:
    """Runs the plan once more through the graph that the ranges are of."""
    scales = ranges.scales(graph)
    changed = smoothed(graph, ranges.smooth)
    weights = changed.weights()
    stepped = {}
    for linear in changed.linears:
        numbers, steps = quantised(weights[linear.weight])
        stepped[linear.name] = numbers * steps
    histograms = {name: Histogram() for name in changed.activations}
    entered = {name: _Power() for name in changed.activations}
    left = {linear.name: _Power() for linear in changed.linears}
    for taps in windows(changed, spec, plan):
        flat = {name: values.reshape(-1, values.shape[-1]) for name, values in taps.items()}
        seen = {name: rounded(values, scales[name]) for name, values in flat.items()}
        for name, values in flat.items():
            histograms[name].add(values)
            entered[name].add(values, seen[name])
        for linear in changed.linears:
            shift = np.asarray(ranges.bias.get(linear.name, 0.0), np.float32)
            product = seen[linear.x] @ stepped[linear.name] - shift
            left[linear.name].add(flat[linear.x] @ weights[linear.weight], product)
    layers = []
    for before, linear in zip(graph.linears, changed.linears, strict=True):
        of_weights = _Power()
        of_weights.add(weights[linear.weight], stepped[linear.name])
        layers.append(
            Layer(
                label=before.weight.removesuffix(".turned").removesuffix(".weight"),
                x=linear.x,
                activations_db=entered[linear.x].db,
                weights_db=of_weights.db,
                output_db=left[linear.name].db,
                cut=ranges.tensors[linear.x].cut[ranges.method],
                in_float=linear.name in ranges.keep_float,
            )
        )
    return Layers(tuple(layers), histograms)


@dataclass(slots=True)
class _Power:
    """Of a signal and of what is added to it."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, real: NDArray[np.float32], found: NDArray[np.float32]) -> None:
        self.signal += float(np.square(real, dtype=np.float64).sum())
        self.noise += float(np.square(real - found, dtype=np.float64).sum())

    @property
    def db(self) -> float:
        if not self.signal:
            return 0.0
        return min(200.0, 10 * float(np.log10(self.signal / max(self.noise, 1e-30))))
