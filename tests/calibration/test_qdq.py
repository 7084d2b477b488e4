"""TensorRT's files: the form it reads, and the grid of the CPU files, by literal evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from calibration import compare, qdq
from calibration.calibrate import TENSORRT
from calibration.emit import emit
from calibration.graph import load_graph
from calibration.lint import lint
from edge_runtime.errors import BundleError
from tests.calibration.graphs import EXACT, features, logprobs, ranges_of, spec_of, write_encoder
from training.config import ARMS

SOUND = features(2.0)


def literally(content: bytes, path: Path) -> np.ndarray:
    """[T', V] with every pair computed as it stands."""
    model = onnx.load_from_string(content)
    (found,) = compare.logprobs(model, spec_of(path), [SOUND], config=compare.LITERAL)
    return found


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("target", qdq.TARGETS)
def test_files_are_valid_and_what_tensorrt_reads(tmp_path: Path, arm: str, target: str) -> None:
    graph, ranges = ranges_of(write_encoder(tmp_path / "encoder.onnx", arm), SOUND)
    content = emit(graph, ranges, target)
    assert content == emit(load_graph(tmp_path / "encoder.onnx"), ranges, target)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert lint(model, tensorrt=TENSORRT[target]) == []
    assert [o.name for o in model.graph.output] == [o.name for o in graph.model.graph.output][:5]
    before = {entry.key: entry.value for entry in graph.model.metadata_props}
    assert {entry.key: entry.value for entry in model.metadata_props} == before


@pytest.mark.parametrize("arm", ARMS)
def test_float32_pairs_are_the_grid_of_the_cpu_files(tmp_path: Path, arm: str) -> None:
    path = write_encoder(tmp_path / "encoder.onnx", arm)
    graph, ranges = ranges_of(path, SOUND)
    found = literally(emit(graph, ranges, "trt8"), path)
    x86 = onnx.load_from_string(emit(graph, ranges, "x86"))
    cpu = logprobs(x86, spec_of(path), SOUND, EXACT)
    difference = np.abs(found - cpu)
    # Where a value lies on an edge between two steps sums in another order decide (test_emit).
    assert np.median(difference[:4]) < 2e-4 and difference.mean() < 2e-2


@pytest.mark.parametrize("arm", ARMS)
def test_float16_between_the_pairs_is_as_near_to_the_float_model(tmp_path: Path, arm: str) -> None:
    path = write_encoder(tmp_path / "encoder.onnx", arm)
    graph, ranges = ranges_of(path, SOUND)
    expected = logprobs(graph.model, spec_of(path), SOUND)

    def snr(target: str) -> float:
        found = literally(emit(graph, ranges, target), path)
        return float(10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()))

    # Rounded to half, a few values in a hundred fall to the other side of an edge, either way.
    assert snr("trt10") > snr("trt8") - 1.5  # dB
    assert snr("trt10") > 40
    assert snr("float16-trt10") > snr("trt10") + 10


def test_types_are_strong_and_states_are_half(tmp_path: Path) -> None:
    graph, ranges = ranges_of(write_encoder(tmp_path / "encoder.onnx"), SOUND)
    model = onnx.load_from_string(emit(graph, ranges, "trt10"))
    types = {
        v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)
    }
    half = {name for name, kind in types.items() if kind == TensorProto.FLOAT16}
    assert half == {
        "audio_signal", "cache_last_channel", "cache_last_time",
        "cache_last_channel_next", "cache_last_time_next",
    }  # fmt: skip
    assert types["logprobs"] == TensorProto.FLOAT
    wide = {
        tensor.name: tensor.dims
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
    }
    assert not wide, "a matrix is stored in float32"
    assert sum(
        t.data_type == TensorProto.INT8 and len(t.dims) == 2 for t in model.graph.initializer
    )


@pytest.mark.parametrize("target", qdq.TARGETS)
def test_a_stream_of_days_has_the_angles_of_a_fresh_one(tmp_path: Path, target: str) -> None:
    """Positions grow without end; half precision would lose them after 2048."""
    path = write_encoder(tmp_path / "encoder.onnx")
    graph, ranges = ranges_of(path, SOUND)
    model = onnx.load_from_string(emit(graph, ranges, target))
    from calibration.observe import session_of

    session = session_of(model, config=compare.LITERAL)
    dtypes = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int64)": np.int64}
    spec, rng = spec_of(path), np.random.default_rng(0)
    shapes = spec.input_shapes(1, spec.default_window)
    feeds = [rng.normal(-1, 0.5, s).astype(dtypes[n.type])
             for n, s in zip(session.get_inputs(), shapes, strict=True)]  # fmt: skip
    feeds[1][:] = spec.default_window.size

    def at(position: int) -> np.ndarray:
        feeds[4][:] = position
        names = [node.name for node in session.get_inputs()]
        found: np.ndarray = session.run(None, dict(zip(names, feeds, strict=True)))[0]
        return found

    period = 4096  # tokens, after which the angles of `training.model.rope_cycles` repeat
    np.testing.assert_array_equal(at(100), at(100 + 1000 * period))


def test_ranges_of_another_model_are_refused(tmp_path: Path) -> None:
    _, ranges = ranges_of(write_encoder(tmp_path / "encoder.onnx"), SOUND)
    other = load_graph(write_encoder(tmp_path / "other.onnx", "conformer"))
    with pytest.raises(BundleError, match="another model"):
        emit(other, ranges, "trt10")
