"""From ranges with all their candidates to what is used: each choice by what the output loses.

In this order, each judged by the divergence of log-probabilities from the float model's:

1. the method, which turns a histogram into a range;
2. smoothing (`calibration.smooth`), at the strength that does best;
3. correction of biases (`calibration.bias`);
4. the layers that must stay float, if tokens change more often than the budget allows.

Steps 2 and 3 change the graph, so they have to earn it: the strength is chosen on every other
sound, and what is chosen is used only if on the sounds between it is better by more than two
standard errors.  What was tried, and with which result, is kept in the ranges.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration import bias, smooth
from calibration.compare import (
    LITERAL,
    Difference,
    compare,
    divergences,
    least_kept,
    logprobs,
)
from calibration.emit import GRID, emit
from calibration.graph import FloatGraph
from calibration.methods import METHODS
from calibration.observe import Plan
from calibration.ranges import Ranges
from edge_runtime.modelspec import ModelSpec

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], object]
_CHOOSING, _PROVING = slice(0, None, 2), slice(1, None, 2)  # of the sounds
_ERRORS = 2.0  # standard errors that an improvement must exceed


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The sounds that candidates are tried on."""

    graph: FloatGraph
    spec: ModelSpec
    sounds: list[NDArray[np.float32]]  # features [n, 80]
    expected: list[NDArray[np.float32]]  # log-probabilities of the float model, [T', V]

    def answers(self, ranges: Ranges, some: slice = slice(None)) -> list[NDArray[np.float32]]:
        """Of the grid itself: what is chosen must not depend on this processor's kernels."""
        grid = onnx.load_from_string(emit(self.graph, ranges, GRID))
        return logprobs(grid, self.spec, self.sounds[some], config=LITERAL)

    def cost(self, ranges: Ranges, some: slice = slice(None)) -> Difference:
        answers = self.answers(ranges, some)
        return compare(self.expected[some], answers, self.spec.blank_id)

    def cost_of(self, file: bytes, *, literal: bool) -> Difference:
        """Of a file that is no plain grid, as onnxruntime computes it, or as it stands."""
        config = LITERAL if literal else None
        answers = logprobs(onnx.load_from_string(file), self.spec, self.sounds, config=config)
        return compare(self.expected, answers, self.spec.blank_id)

    def divergences(self, ranges: Ranges) -> NDArray[np.float64]:
        """Of every sound, nats per frame."""
        return divergences(self.expected, self.answers(ranges))


def choose(
    trial: Trial,
    ranges: Ranges,
    plan: Plan,
    observe_again: Callable[[FloatGraph], Ranges],
    *,
    budget: float,
    plain: bool,
    progress: Progress,
) -> Ranges:
    """`ranges` with everything decided.

    Args:
        observe_again: ranges of a changed graph, from the same plan.
        budget: edits per token that INT8 may cost.
        plain: leave norms and biases as they are.
    """
    ranges = _method(trial, ranges, progress)
    if not plain:
        ranges = _smoothing(trial, ranges, plan, observe_again, progress)
        ranges = _correction(trial, ranges, plan, progress)
    if trial.cost(ranges).tokens > budget:
        ranges = _float_layers(trial, ranges, budget, progress)
    return ranges


def _measured(ranges: Ranges, name: str, value: Mapping[str, Any]) -> Ranges:
    return dataclasses.replace(ranges, measured={**ranges.measured, name: value})


def _method(trial: Trial, ranges: Ranges, progress: Progress) -> Ranges:
    methods = {}
    for number, method in enumerate(METHODS):
        progress("comparing methods", number, len(METHODS))
        methods[method] = trial.cost(dataclasses.replace(ranges, method=method))
    progress("comparing methods", len(METHODS), len(METHODS))
    best = min(methods, key=lambda method: methods[method].divergence)
    costs = {method: cost.to_json() for method, cost in methods.items()}
    return _measured(dataclasses.replace(ranges, method=best), "methods", costs)


def _smoothing(
    trial: Trial,
    ranges: Ranges,
    plan: Plan,
    observe_again: Callable[[FloatGraph], Ranges],
    progress: Progress,
) -> Ranges:
    graph, strengths = trial.graph, smooth.STRENGTHS
    if not smooth.smoothable(graph):
        return ranges
    progress("smoothing", 0, len(strengths))
    loudest = smooth.peaks(graph, trial.spec, plan)
    tried: dict[str, tuple[Ranges, NDArray[np.float64]]] = {}
    for number, strength in enumerate(strengths, start=1):
        powers = smooth.factors(graph, loudest, strength)
        tensors = observe_again(smooth.smoothed(graph, powers)).tensors
        # The chosen method, and the one that smoothing was made for: nothing sticks out, or is cut.
        for method in dict.fromkeys((ranges.method, "max")):
            one = dataclasses.replace(ranges, method=method, smooth=powers, tensors=tensors)
            tried[f"{strength} {method}"] = one, trial.divergences(one)
        progress("smoothing", number, len(strengths))
    best = min(tried, key=lambda name: float(tried[name][1][_CHOOSING].mean()))
    verdict = helps(trial.divergences(ranges), tried[best][1])
    fields = {
        "tried": {name: _short(float(found.mean())) for name, (_, found) in tried.items()},
        "best": best,
        **verdict,
    }
    return _measured(tried[best][0] if verdict["kept"] else ranges, "smooth", fields)


def _correction(trial: Trial, ranges: Ranges, plan: Plan, progress: Progress) -> Ranges:
    progress("correcting biases", 0, 1)
    graph = smooth.smoothed(trial.graph, ranges.smooth)
    shifts = bias.shifts(graph, trial.spec, plan, ranges.scales(graph))
    if not shifts:
        return ranges
    found = dataclasses.replace(ranges, bias=shifts)
    verdict = helps(trial.divergences(ranges), trial.divergences(found))
    progress("correcting biases", 1, 1)
    return _measured(found if verdict["kept"] else ranges, "bias", verdict)


def helps(before: NDArray[np.float64], after: NDArray[np.float64]) -> dict[str, Any]:
    """Whether divergences [sounds] are really lower, judged on the sounds not chosen on."""
    gains = (before - after)[_PROVING]
    gain = float(gains.mean())
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("inf")
    costs = {"before": float(before.mean()), "after": float(after.mean())}
    return {
        "divergence": {name: _short(cost) for name, cost in costs.items()},
        "gain": _short(gain),
        "standard_error": _short(error) if np.isfinite(error) else None,
        "kept": gain > _ERRORS * error,
    }


def _float_layers(trial: Trial, ranges: Ranges, budget: float, progress: Progress) -> Ranges:
    names = [linear.name for linear in trial.graph.linears]
    some = slice(8)  # an estimate of their order is enough
    alone = {}
    for number, name in enumerate(names):
        progress("weighing layers", number, len(names))
        others = tuple(other for other in names if other != name)
        alone[name] = trial.cost(dataclasses.replace(ranges, keep_float=others), some).divergence
    progress("weighing layers", len(names), len(names))

    def fits(kept: list[str]) -> bool:
        return trial.cost(dataclasses.replace(ranges, keep_float=tuple(kept))).tokens <= budget

    kept = least_kept(names, alone.__getitem__, fits)
    log.info("%d of %d layers stay float: %s", len(kept), len(names), ", ".join(kept))
    costs = {name: _short(value) for name, value in alone.items()}
    return _measured(dataclasses.replace(ranges, keep_float=tuple(kept)), "alone", costs)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
