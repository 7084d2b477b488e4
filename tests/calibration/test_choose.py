"""A change to the graph must earn its place on sounds that it was not chosen on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.calibrate import Calibration, calibrate
from calibration.choose import helps
from calibration.emit import emit
from calibration.graph import load_graph
from calibration.observe import Plan
from calibration.ranges import Ranges
from calibration.smooth import smoothable
from edge_runtime.engine import Engine
from tests.calibration.graphs import noise_plan, write_encoder


def test_a_steady_gain_counts_and_one_lost_in_its_own_spread_does_not() -> None:
    before = np.full(20, 0.01)
    steady = before - 0.002 + 1e-4 * np.cos(np.arange(20))
    found = helps(before, steady)
    assert found["kept"] and found["gain"] == pytest.approx(0.002, rel=0.1)
    spread = before - 0.002 + 0.02 * np.where(np.arange(20) % 4 < 2, 1.0, -1.0)
    assert not helps(before, spread)["kept"]
    assert not helps(before, before)["kept"]
    assert not helps(before, before + 0.002)["kept"]


def test_a_gain_on_the_sounds_it_was_chosen_on_is_no_proof() -> None:
    before = np.full(20, 0.01)
    chosen_on = before.copy()
    chosen_on[0::2] = 0.0
    assert chosen_on.mean() < before.mean()
    assert not helps(before, chosen_on)["kept"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return noise_plan(tmp_path_factory.mktemp("sounds"), 0.5)


def with_loud_channels(path: Path) -> Path:
    """Two channels of every norm that can be smoothed fifty times the others.

    Their weights are as much smaller, so that they matter as much as before.
    """
    model = onnx.load(path)
    pairs = smoothable(load_graph(path))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    factor = np.ones(64, np.float32)
    factor[[5, 40]] = 50.0

    def scale(name: str, by: np.ndarray) -> None:
        value = numpy_helper.to_array(constants[name]) * by
        constants[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))

    for x, linears in pairs.items():
        for name in producers[x].input[1:]:
            scale(name, factor)
        for linear in linears:
            scale(linear.weight, 1 / factor[:, None])
    onnx.save(model, path)
    return path


def run(folder: Path, model: Path, plan: Plan, *, plain: bool = False) -> Calibration:
    engine = Engine.open(model, chunk_frames=(8, 16, 32), default_chunk_ms=160)
    return calibrate(model, engine, plan, folder, targets=("x86",), budget=1.0, plain=plain)


def test_smoothing_is_used_where_channels_are_loud_and_files_follow_from_what_is_recorded(
    tmp_path: Path, plan: Plan
) -> None:
    model = with_loud_channels(write_encoder(tmp_path / "encoder.onnx"))
    plain = run(tmp_path / "plain", model, plan, plain=True)
    assert not plain.ranges.smooth and not plain.ranges.bias
    assert "smooth" not in plain.ranges.measured and "bias" not in plain.ranges.measured

    found = run(tmp_path / "out", model, plan)
    tried = found.ranges.measured["smooth"]
    assert tried["kept"] and tried["gain"] > 2 * tried["standard_error"]
    assert found.ranges.smooth.keys() == smoothable(load_graph(model)).keys()
    before, after = plain.differences["x86"], found.differences["x86"]
    assert after.divergence < before.divergence / 2
    recorded = Ranges.load(tmp_path / "out" / "ranges.json")
    assert recorded == found.ranges
    content = found.files["x86"].read_bytes()
    assert emit(load_graph(model), recorded, "x86") == content
    assert emit(load_graph(model), dataclasses.replace(recorded, smooth={}), "x86") != content


def test_what_does_not_help_is_left_out_and_what_was_tried_is_recorded(
    tmp_path: Path, plan: Plan
) -> None:
    found = run(tmp_path / "out", write_encoder(tmp_path / "encoder.onnx"), plan)
    for name, used in (("smooth", found.ranges.smooth), ("bias", found.ranges.bias)):
        tried = found.ranges.measured[name]
        assert bool(used) == tried["kept"] == (tried["gain"] > 2 * tried["standard_error"])
    assert len(found.ranges.measured["smooth"]["tried"]) >= 3
