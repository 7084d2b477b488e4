"""Choosing: the best method, and float layers only where the budget asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.calibrate import HELD_BACK, Calibration, calibrate
from calibration.observe import Plan
from edge_runtime.engine import Engine
from edge_runtime.errors import BundleError, ConfigError
from tests.calibration.graphs import noise_plan, write_encoder


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return noise_plan(tmp_path_factory.mktemp("sounds"), 0.25)


def run(folder: Path, plan: Plan, budget: float) -> Calibration:
    folder.mkdir(exist_ok=True)
    model = write_encoder(folder / "encoder.onnx")
    engine = Engine.open(model, chunk_frames=(8, 16, 32), default_chunk_ms=160)
    return calibrate(model, engine, plan, folder / "out", targets=("x86",), budget=budget)


def test_the_method_with_the_least_divergence_is_taken(tmp_path: Path, plan: Plan) -> None:
    found = run(tmp_path, plan, budget=1.0)
    methods = found.ranges.measured["methods"]
    assert found.ranges.method == min(methods, key=lambda m: methods[m]["divergence"])
    assert found.ranges.keep_float == ()
    assert found.differences["x86"].to_json() == methods[found.ranges.method]
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["encoder.int8-x86.onnx", "goldens.npz", "ranges.json"]


def test_layers_stay_float_until_the_budget_is_kept_the_most_sensitive_first(
    tmp_path: Path, plan: Plan
) -> None:
    free = run(tmp_path, plan, budget=1.0).differences["x86"].tokens
    assert free > 0, "INT8 changes nothing here: the test shows nothing"
    found = run(tmp_path, plan, budget=free / 2)
    assert found.differences["x86"].tokens <= free / 2
    kept, alone = found.ranges.keep_float, found.ranges.measured["alone"]
    assert kept
    assert min(alone[name] for name in kept) >= max(
        cost for name, cost in alone.items() if name not in kept
    )
    assert found.kernels["x86"]["MatMulIntegerToFloat"] == len(alone) - len(kept)


def test_a_file_that_cannot_be_made_leaves_the_one_before(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(tmp_path, plan, budget=1.0).files["x86"].read_bytes()
    monkeypatch.setattr("calibration.census.INT8_PRODUCTS", frozenset())
    with pytest.raises(BundleError, match="INT8 products in float"):
        run(tmp_path, plan, budget=1.0)
    out = tmp_path / "out"
    assert (out / "encoder.int8-x86.onnx").read_bytes() == before
    assert not list(out.glob("*.part"))


def test_a_run_that_was_killed_while_choosing_goes_on_without_observing_again(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", plan, budget=1.0)

    def killed(*args: object, **options: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("calibration.choose.bias.shifts", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", plan, budget=1.0)
    monkeypatch.setattr("calibration.observe._save", killed)  # nothing new is observed
    again = run(tmp_path / "again", plan, budget=1.0)
    assert again.ranges == whole.ranges
    left = sorted(path.name for path in (tmp_path / "again" / "out").iterdir())
    assert left == ["encoder.int8-x86.onnx", "goldens.npz", "ranges.json"]


def test_a_manifest_without_enough_to_compare_is_refused(tmp_path: Path, plan: Plan) -> None:
    short = Plan(utterances=plan.utterances[:HELD_BACK], chunks=10)
    with pytest.raises(ConfigError, match=f"wants more than {HELD_BACK}"):
        run(tmp_path, short, budget=1.0)
