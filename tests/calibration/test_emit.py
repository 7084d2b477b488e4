"""INT8 files compute what the grid says, on INT8 kernels, and are always the same bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration import census
from calibration.emit import CPU_TARGETS as TARGETS
from calibration.emit import emit
from calibration.graph import FloatGraph, load_graph, narrow, replace_nodes
from calibration.methods import quantised
from calibration.ranges import Ranges
from edge_runtime.engine import Engine
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.features import open_frontend
from tests.calibration.graphs import EXACT, features, logprobs, ranges_of, spec_of, write_encoder
from training.config import ARMS

SOUND = features(2.0)


def literal(graph: FloatGraph, ranges: Ranges) -> onnx.ModelProto:
    """The same grid by the standard's own operators: round, unround, multiply in float."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(name: str, value: object, dtype: type[np.generic]) -> str:
        constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    nodes = []
    products = {linear.y: linear for linear in graph.linears}
    for number, node in enumerate(model.graph.node):
        if (linear := products.get(node.output[0])) is None:
            nodes.append(node)
            continue
        numbers, steps = quantised(graph.weights()[linear.weight])
        w = constant(f"w{number}", numbers * steps, np.float32)
        scale = constant(f"s{number}", ranges.tensors[linear.x].scale(ranges.method), np.float32)
        zero = constant(f"z{number}", 0, np.int8)
        nodes += [
            helper.make_node("QuantizeLinear", [linear.x, scale, zero], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", scale, zero], [f"d{number}"]),
            helper.make_node("MatMul", [f"d{number}", w], [linear.y]),
        ]
    replace_nodes(model.graph, nodes, constants.values())
    return model


def unoptimised(model: onnx.ModelProto, sound: NDArray[np.float32], path: Path) -> object:
    """[T', V] with every node run as it stands."""
    from calibration.observe import run_stream, session_of

    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = session_of(model, graph_optimization_level=level)
    names = [node.name for node in session.get_inputs()]
    spec = spec_of(path)
    steps = run_stream(
        lambda feeds: (r := session.run(None, dict(zip(names, feeds, strict=True)))) + r[:1],
        spec,
        spec.default_window,
        sound,
    )
    return np.concatenate([step[-1][0] for step in steps])


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("target", ["x86", "arm64"])
def test_a_static_file_computes_its_grid_and_no_other(
    tmp_path: Path, arm: str, target: str
) -> None:
    path = write_encoder(tmp_path / "encoder.onnx", arm)
    graph, ranges = ranges_of(path, SOUND)
    for method in ("max", "p99.9"):
        chosen = dataclasses.replace(ranges, method=method)
        file = onnx.load_from_string(emit(graph, chosen, target))
        found = logprobs(file, spec_of(path), SOUND, EXACT if target == "x86" else None)
        expected = unoptimised(literal(graph, chosen), SOUND, path)
        # A value on the edge between two steps may fall to either side, and a state carries that
        # on; before there is a state, hardly any frame has met such a value.
        difference = np.abs(found - np.asarray(expected))
        assert np.median(difference[:4]) < 2e-4
        assert difference.mean() < 2e-2
        assert (found.argmax(1) == np.asarray(expected).argmax(1)).mean() > 0.95


def test_both_static_forms_are_one_grid(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    graph, ranges = ranges_of(path, SOUND)
    x86, arm64 = (
        logprobs(onnx.load_from_string(emit(graph, ranges, target)), spec_of(path), SOUND, config)
        for target, config in (("x86", EXACT), ("arm64", None))
    )
    np.testing.assert_array_equal(x86, arm64)


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_small_near_the_float_model_and_the_same_twice(
    tmp_path: Path, target: str
) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    graph, ranges = ranges_of(path, SOUND)
    content = emit(graph, ranges, target)
    assert content == emit(load_graph(path), ranges, target)
    assert len(content) < 0.45 * path.stat().st_size  # of a model this small half is not weights
    spec = spec_of(path)
    before = logprobs(onnx.load(path), spec, SOUND)
    after = logprobs(onnx.load_from_string(content), spec, SOUND)
    signal, noise = (before**2).sum(), ((before - after) ** 2).sum()
    assert 10 * np.log10(signal / noise) > 25  # dB


def test_weights_of_seven_bits_overflow_no_sum_of_two_products(tmp_path: Path) -> None:
    """As processors without VNNI add them: 16 bits with a sign, activations without one."""
    graph, ranges = ranges_of(write_encoder(tmp_path / "encoder.onnx"), SOUND)
    greatest = {
        target: max(
            int(np.abs(numpy_helper.to_array(tensor).astype(int)).max())
            for tensor in onnx.load_from_string(emit(graph, ranges, target)).graph.initializer
            if tensor.name.endswith(".int8")
        )
        for target in ("dynamic", "dynamic7")
    }
    assert 2 * 255 * greatest["dynamic7"] <= 32767 < 2 * 255 * greatest["dynamic"]


def test_layers_that_are_kept_are_float_to_the_last_bit(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    graph, ranges = ranges_of(path, SOUND)
    everything = tuple(linear.name for linear in graph.linears)
    spec = spec_of(path)
    kept = onnx.load_from_string(
        emit(graph, dataclasses.replace(ranges, keep_float=everything), "x86")
    )
    np.testing.assert_array_equal(logprobs(kept, spec, SOUND), logprobs(graph.model, spec, SOUND))
    all_but_one = dataclasses.replace(ranges, keep_float=everything[1:])
    found = onnx.load_from_string(emit(graph, all_but_one, "x86"))
    assert sum(n.op_type == "MatMulIntegerToFloat" for n in found.graph.node) == 1


def test_what_is_float16_to_the_last_bit_is_stored_so_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_encoder(tmp_path / "encoder.onnx", half=True)
    graph, ranges = ranges_of(path, SOUND)
    content = emit(graph, ranges, "x86")
    kinds = {t.name: t.data_type for t in onnx.load_from_string(content).graph.initializer}
    assert kinds["patch.proj.weight.half"] == onnx.TensorProto.FLOAT16
    assert kinds["patch.norm.weight"] == onnx.TensorProto.FLOAT
    monkeypatch.setattr("calibration.graph._WORTH_A_CAST", 1 << 40)
    wide = emit(graph, ranges, "x86")
    assert len(content) < len(wide) - 50_000
    one, other = (
        logprobs(onnx.load_from_string(data), spec_of(path), SOUND) for data in (content, wide)
    )
    np.testing.assert_array_equal(one, other)


def test_constants_that_float16_would_round_or_overflow_stay_as_they_are() -> None:
    values = {
        "exact": np.full(600, 0.5, np.float32),
        "rounded": np.full(600, 0.1, np.float32),
        "too great": np.full(600, 1e6, np.float32),
        "short": np.full(20, 0.5, np.float32),
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}.out"]) for name in values],
        "constants",
        [],
        [],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    narrow(graph)
    assert [t.name for t in graph.initializer] == ["exact.half", "rounded", "too great", "short"]
    assert [n.op_type for n in graph.node] == ["Cast", *["Identity"] * 4]


@pytest.mark.parametrize("target", TARGETS)
def test_the_recognisers_engine_runs_a_file_on_int8_kernels(tmp_path: Path, target: str) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    graph, ranges = ranges_of(path, SOUND)
    file = tmp_path / "int8.onnx"
    file.write_bytes(emit(graph, ranges, target))
    census.check(file, len(graph.linears))
    session = Engine.open(file, chunk_frames=(8, 16), default_chunk_ms=160).session(batch=2)
    session.push(SOUND, 0)
    session.push(SOUND[:40], 1)
    outputs = session.step()
    assert [output.row for output in outputs] == [0, 1]
    # Rows that hear the same say the same, whatever else is in the batch.
    np.testing.assert_array_equal(outputs[0].logprobs, outputs[1].logprobs)


def test_a_file_whose_products_would_run_in_float_is_refused(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    graph, _ = ranges_of(path, SOUND)
    with pytest.raises(BundleError, match=r"runs \d+ of \d+ INT8 products in float"):
        census.check(path, len(graph.linears))


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    graph, ranges = ranges_of(write_encoder(tmp_path / "encoder.onnx"), SOUND)
    with pytest.raises(
        ConfigError, match="no target 'mips': there are x86, arm64, dynamic, dynamic7, trt10, trt8"
    ):
        emit(graph, ranges, "mips")


def test_a_nemo_model_with_overlapping_windows_is_calibrated_too(tmp_path: Path) -> None:
    from calibration.observe import Plan, observe
    from edge_runtime.manifest import Utterance
    from tests import models
    from tests.edge_runtime.tones import RATE, say

    model = models.nemo_model()
    (loudness,) = (node for node in model.graph.node if node.op_type == "ReduceMean")
    at = list(model.graph.node).index(loudness)
    before, loudness.output[0] = loudness.output[0], "loudness"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(80, dtype=np.float32), "eye"))
    model.graph.node.insert(at + 1, helper.make_node("MatMul", ["loudness", "eye"], [before]))
    path = tmp_path / "nemo.onnx"
    onnx.save(model, path)

    sound = say("t20 t35, t50 t11")
    soundfile.write(tmp_path / "tones.wav", sound, RATE)
    engine = Engine.open(path)
    assert engine.spec.default_window.overlap == 9
    graph = load_graph(path)
    plan = Plan(
        utterances=(
            Utterance(audio_filepath=tmp_path / "tones.wav", duration=1.0, text="", speaker=""),
        ),
        chunks=60,
    )
    seen = observe(graph, engine.spec, plan, tmp_path / "partial")
    ranges = Ranges.of(graph, seen, manifest_sha256="", tools={})
    frames = open_frontend("nemo_exact").compute(sound)
    expected = logprobs(graph.model, engine.spec, frames).argmax(1)
    assert len(set(expected.tolist())) == 5  # four tones and the blank
    for target in TARGETS:
        found = logprobs(onnx.load_from_string(emit(graph, ranges, target)), engine.spec, frames)
        np.testing.assert_array_equal(found.argmax(1), expected)
