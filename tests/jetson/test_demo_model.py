"""The bundle of this repository and its file for TensorRT, through the simulated TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.emit import emit
from calibration.graph import load_graph
from calibration.ranges import Ranges
from edge_runtime.backends.onnx import OnnxBackend, open_onnx
from edge_runtime.engine import Engine
from edge_runtime.modelspec import ModelSpec
from jetson.backend import TensorRTBackend, describe_graph
from jetson.build import BuildRequest, build_plan
from jetson.goldens import Goldens, compare, noise, record
from tests.jetson.simulated import SimulatedCuda, simulated_tensorrt

BUNDLE = Path(__file__).parents[2] / "bundles" / "en-demo"


@pytest.fixture(scope="module")
def reference() -> OnnxBackend:
    return open_onnx(BUNDLE / "encoder.onnx")


@pytest.fixture(scope="module")
def goldens(reference: OnnxBackend) -> Goldens:
    spec = ModelSpec.of(reference, chunk_frames=(32,))
    rows = [shape[1:] for shape in spec.input_shapes(1, spec.default_window)[2:]]
    return record(reference, noise(32 * 10, 32), rows, 32)


def built(model: Path, mode: str, version: str, goldens: Goldens) -> TensorRTBackend:
    cuda = SimulatedCuda()
    trt = simulated_tensorrt(cuda, version)
    request = BuildRequest(
        model=model,
        mode=mode,
        profiles=[goldens.shapes(batch) for batch in (1, 2)],
        timing_cache=model.with_suffix(".timing"),
    )
    return TensorRTBackend(
        cuda, trt, build_plan(trt, request), describe_graph(open_onnx(model), mode)
    )


@pytest.mark.parametrize(
    ("target", "mode", "version"),
    [("trt10", "strong", "10.3.0"), ("trt10", "strong", "11.4.0"), ("trt8", "int8", "8.6.2")],
)
def test_the_int8_file_says_what_the_float_graph_says(
    tmp_path: Path, goldens: Goldens, target: str, mode: str, version: str
) -> None:
    graph = load_graph(BUNDLE / "encoder.onnx")
    model = tmp_path / f"encoder.int8-{target}.onnx"
    model.write_bytes(emit(graph, Ranges.load(BUNDLE / "ranges.json"), target))
    backend = built(model, mode, version, goldens)
    agreement = compare(backend, goldens, 2)
    assert agreement.frames == 2 * 10 * 8
    assert agreement.argmax > 0.9  # on noise, where no token is sure
    assert agreement.snr_db > 20
    assert agreement.snr_db < 80, "float would be as good: nothing was quantised"
    assert ModelSpec.of(backend, chunk_frames=(32,)).vocab_size == 257  # float32 to the hub


def test_the_float_engine_brings_the_frame_statistics(
    tmp_path: Path, reference: OnnxBackend, goldens: Goldens
) -> None:
    model = tmp_path / "encoder.onnx"
    model.write_bytes((BUNDLE / "encoder.onnx").read_bytes())
    backend = built(model, "float", "10.3.0", goldens)
    assert compare(backend, goldens, 2).argmax == 1.0
    spec = ModelSpec.of(backend, chunk_frames=(32,))
    outputs = []
    for one in (backend, reference):
        session = Engine(one, spec).session(2)  # proves the statistics against log-probabilities
        session.push(goldens.features[0].T, 1)
        (out,) = session.step()
        outputs.append(out)
    assert outputs[0].stats is not None
    np.testing.assert_allclose(outputs[0].stats, outputs[1].stats, rtol=1e-4, atol=1e-4)


def test_statistics_that_tensorrt_may_narrow_are_not_shown_to_the_hub(
    tmp_path: Path, goldens: Goldens
) -> None:
    model = tmp_path / "encoder.onnx"
    model.write_bytes((BUNDLE / "encoder.onnx").read_bytes())
    backend = built(model, "fp16", "10.3.0", goldens)
    assert len(backend.outputs) == 5
    assert backend.bind(goldens.shapes(1)).frame_stats is None
    assert compare(backend, goldens).argmax == 1.0
