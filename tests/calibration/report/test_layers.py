"""Layers are judged alone, and the noise found is that of the arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile

from calibration.bias import rounded, shifts
from calibration.graph import FloatGraph
from calibration.methods import quantised
from calibration.observe import Plan, windows
from calibration.ranges import Ranges
from calibration.report.layers import measure_layers
from edge_runtime.manifest import Utterance
from edge_runtime.modelspec import ModelSpec
from tests.calibration.graphs import features, ranges_of, spec_of, write_encoder

Case = tuple[FloatGraph, Ranges, ModelSpec, Plan]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("model")
    path = write_encoder(folder / "encoder.onnx")
    graph, ranges = ranges_of(path, features(2.0))
    noise = 0.2 * np.random.default_rng(1).standard_normal(16_000)
    soundfile.write(folder / "noise.wav", noise, 16_000)
    one = Utterance(audio_filepath=folder / "noise.wav", duration=1.0, text="")
    return graph, ranges, spec_of(path), Plan(utterances=(one,), chunks=50)


def test_the_signal_to_noise_is_that_of_the_definition(case: Case) -> None:
    graph, ranges, spec, plan = case
    found = measure_layers(graph, spec, ranges, plan)
    assert len(found.layers) == len(graph.linears)
    taps = [dict(one) for one in windows(graph, spec, plan)]
    for linear, layer in list(zip(graph.linears, found.layers, strict=True))[::5]:
        x = np.concatenate([t[linear.x].reshape(-1, t[linear.x].shape[-1]) for t in taps])
        weight = graph.weights()[linear.weight]
        numbers, steps = quantised(weight)
        real = x.astype(float) @ weight
        error = rounded(x, ranges.scales(graph)[linear.x]).astype(float) @ (numbers * steps) - real
        expected = 10 * np.log10((real**2).sum() / (error**2).sum())
        assert layer.output_db == pytest.approx(expected, abs=0.02)
        assert layer.cut == ranges.tensors[linear.x].cut[ranges.method]
        assert found.histograms[linear.x].counts.sum() == x.size


def test_a_smaller_range_hurts_the_layers_that_it_cuts_and_correction_helps(case: Case) -> None:
    graph, ranges, spec, plan = case
    whole = measure_layers(graph, spec, ranges, plan)
    cut = dataclasses.replace(ranges, method="p99.9")
    less = measure_layers(graph, spec, cut, plan)
    assert np.mean([one.activations_db for one in less.layers]) < np.mean(
        [one.activations_db for one in whole.layers]
    )
    shift = shifts(graph, spec, plan, cut.scales(graph))
    corrected = measure_layers(graph, spec, dataclasses.replace(cut, bias=shift), plan)
    for before, after in zip(less.layers, corrected.layers, strict=True):
        assert after.output_db >= before.output_db - 1e-3


def test_the_worst_are_those_with_the_least_signal_and_never_float(case: Case) -> None:
    graph, ranges, spec, plan = case
    kept = dataclasses.replace(ranges, keep_float=(graph.linears[0].name,))
    found = measure_layers(graph, spec, kept, plan)
    worst = found.worst(3)
    assert [one.in_float for one in found.layers].count(True) == 1
    assert [one.output_db for one in worst] == sorted(
        one.output_db for one in found.layers if not one.in_float
    )[:3]
