"""Smoothing changes no bit of the float graph, and evens channels out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.graph import FloatGraph, load_graph
from calibration.observe import run_stream, tapped
from calibration.smooth import factors, smoothable, smoothed
from edge_runtime.errors import BundleError
from tests.calibration.graphs import features, logprobs, spec_of, write_encoder
from training.config import ARMS

SOUND = features(2.0)


def loudest(graph: FloatGraph, path: Path) -> dict[str, np.ndarray]:
    spec, found = spec_of(path), {}
    for taps in run_stream(tapped(graph), spec, spec.default_window, SOUND):
        for name, values in zip(graph.activations, taps, strict=True):
            magnitudes = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, 0), magnitudes)
    return found


def with_a_loud_channel(path: Path) -> None:
    """One channel of every norm a hundred times the others."""
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            tensor = constants[node.input[1]]
            value = numpy_helper.to_array(tensor).copy()
            value[3] *= 100
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_the_float_graph_computes_the_same_to_the_last_bit(
    tmp_path: Path, arm: str, strength: float
) -> None:
    path = write_encoder(tmp_path / "encoder.onnx", arm)
    with_a_loud_channel(path)
    graph = load_graph(path)
    powers = factors(graph, loudest(graph, path), strength)
    assert powers.keys() == smoothable(graph).keys()
    assert any(any(p) for p in powers.values()), "nothing moves: the test shows nothing"
    after = smoothed(graph, powers)
    assert [one.name for one in after.linears] == [one.name for one in graph.linears]
    spec = spec_of(path)
    np.testing.assert_array_equal(
        logprobs(after.model, spec, SOUND), logprobs(graph.model, spec, SOUND)
    )


def test_a_loud_channel_comes_down_and_its_weights_go_up_by_the_same(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    with_a_loud_channel(path)
    graph = load_graph(path)
    before = loudest(graph, path)
    after_graph = smoothed(graph, powers := factors(graph, before, 0.5))
    after = loudest(after_graph, path)
    weights = (graph.weights(), after_graph.weights())
    for name, layers in smoothable(graph).items():
        assert np.ptp(np.log2(after[name])) < np.ptp(np.log2(before[name])) - 2
        scale = 2.0 ** np.array(powers[name])
        np.testing.assert_allclose(after[name] * scale, before[name], rtol=1e-6)
        for one in layers:
            new = next(new for new in after_graph.linears if new.name == one.name)
            expected = weights[0][one.weight] * scale[:, None]
            np.testing.assert_array_equal(weights[1][new.weight], expected)


def test_what_anything_but_a_linear_layer_reads_is_left_alone(tmp_path: Path) -> None:
    graph = load_graph(write_encoder(tmp_path / "encoder.onnx"))
    pairs = smoothable(graph)
    norms = [n.output[0] for n in graph.model.graph.node if n.op_type == "LayerNormalization"]
    assert 0 < len(pairs) < len(norms)
    for node in graph.model.graph.node:
        for name in set(node.input) & set(pairs):
            assert node.op_type == "MatMul" and node.output[0] in {p.y for p in pairs[name]}


def test_factors_of_another_graph_are_refused(tmp_path: Path) -> None:
    graph = load_graph(write_encoder(tmp_path / "encoder.onnx"))
    name = next(iter(smoothable(graph)))
    for wrong in ({"nothing": (0, 1)}, {name: (1, 2, 3)}):
        with pytest.raises(BundleError, match=r"smooth\[.*does not fit the model"):
            smoothed(graph, wrong)
