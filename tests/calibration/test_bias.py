"""Correction takes back exactly the mean error of a quantised layer, and of no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import numpy_helper

from calibration.bias import corrected, rounded, shifts
from calibration.emit import emit
from calibration.graph import FloatGraph, load_graph
from calibration.methods import quantised
from calibration.observe import Plan, windows
from calibration.ranges import Ranges
from edge_runtime.errors import BundleError
from edge_runtime.manifest import Utterance
from edge_runtime.modelspec import ModelSpec
from tests.calibration.graphs import features, ranges_of, spec_of, write_encoder

SOUND = features(2.0)
Case = tuple[FloatGraph, Ranges, ModelSpec, Plan]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    path = write_encoder(tmp_path / "encoder.onnx")
    graph, ranges = ranges_of(path, SOUND)
    noise = 0.2 * np.random.default_rng(1).standard_normal(16_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    one = Utterance(audio_filepath=tmp_path / "noise.wav", duration=1.0, text="")
    ranges = dataclasses.replace(ranges, method="p99.9")  # cuts, so means really move
    return graph, ranges, spec_of(path), Plan(utterances=(one,), chunks=50)


def bias_of(graph: FloatGraph, y: str) -> np.ndarray:
    constants = {tensor.name: tensor for tensor in graph.model.graph.initializer}
    return numpy_helper.to_array(constants[graph.biases()[y][0]])


def test_after_it_the_mean_of_every_layer_is_what_it_was(case: Case) -> None:
    graph, ranges, spec, plan = case
    scales = ranges.scales(graph)
    after = corrected(graph, shifts(graph, spec, plan, scales), graph.linears)
    taps = [dict(found) for found in windows(graph, spec, plan)]
    weights = graph.weights()
    worst = 0.0
    for linear in graph.linears:
        x = np.concatenate([t[linear.x].reshape(-1, t[linear.x].shape[-1]) for t in taps])
        numbers, steps = quantised(weights[linear.weight])
        real = (x.astype(float) @ weights[linear.weight]).mean(axis=0) + bias_of(graph, linear.y)
        stepped = (rounded(x, scales[linear.x]).astype(float) @ (numbers * steps)).mean(axis=0)
        np.testing.assert_allclose(stepped + bias_of(after, linear.y), real, atol=1e-4)
        worst = max(worst, float(np.abs(stepped + bias_of(graph, linear.y) - real).max()))
    assert worst > 1e-3, "means did not move before: the test shows nothing"


def test_a_layer_that_stays_float_keeps_its_bias(case: Case) -> None:
    graph, ranges, spec, plan = case
    shift = shifts(graph, spec, plan, ranges.scales(graph))
    first, *rest = graph.linears
    after = corrected(graph, shift, rest)
    np.testing.assert_array_equal(bias_of(after, first.y), bias_of(graph, first.y))
    assert (bias_of(after, rest[0].y) != bias_of(graph, rest[0].y)).any()


@pytest.mark.parametrize("target", ["x86", "trt8"])
def test_files_follow_from_the_graph_and_what_is_recorded(
    case: Case, tmp_path: Path, target: str
) -> None:
    graph, ranges, spec, plan = case
    ranges = dataclasses.replace(ranges, bias=shifts(graph, spec, plan, ranges.scales(graph)))
    ranges.write(tmp_path / "ranges.json")
    again = Ranges.load(tmp_path / "ranges.json")
    assert again == ranges
    content = emit(graph, ranges, target)
    assert content == emit(load_graph(Path(graph.file)), again, target)
    plain = emit(graph, dataclasses.replace(ranges, bias={}), target)
    assert content != plain and abs(len(content) - len(plain)) < 20_000
    names = {tensor.name for tensor in onnx.load_from_string(content).graph.initializer}
    assert sum(name.endswith(".corrected") for name in names) == len(graph.linears)


def test_shifts_of_another_graph_are_refused(case: Case) -> None:
    graph = case[0]
    with pytest.raises(BundleError, match=r"bias\[.*does not fit the model"):
        corrected(graph, {graph.linears[0].name: (0.5,)}, graph.linears)
