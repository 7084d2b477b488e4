"""ONNX to a plan: what every version of TensorRT is asked for, and what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import BackendError, BundleIncompatible
from jetson.build import BuildRequest, build_plan, precision_setup
from tests.jetson.engines import shapes
from tests.jetson.simulated import Faults, SimulatedCuda, simulated_tensorrt
from tests.models import memory_model, save


def request(folder: Path, mode: str = "float") -> BuildRequest:
    return BuildRequest(
        model=save(memory_model(), folder / "encoder.onnx"),
        mode=mode,
        profiles=[shapes(1, 8)],
        timing_cache=folder / "timing",
    )


@pytest.mark.parametrize(
    ("version", "mode", "network", "flags"),
    [
        ("8.6.2", "int8", 0b01, ["INT8", "FP16"]),
        ("8.6.2", "fp16", 0b01, ["FP16"]),
        ("8.6.2", "float", 0b01, []),
        ("10.3.0", "strong", 0b10, []),
        ("10.3.0", "int8", 0, ["INT8", "FP16"]),
        ("10.3.0", "fp16", 0, ["FP16"]),
        ("11.4.0", "strong", 0, []),
        ("11.4.0", "float", 0, []),
    ],
)
def test_each_version_is_asked_in_its_own_way(
    version: str, mode: str, network: int, flags: list[str]
) -> None:
    trt = simulated_tensorrt(SimulatedCuda(), version)
    expected = tuple(getattr(trt.BuilderFlag, name) for name in flags)
    assert precision_setup(trt, mode) == (network, expected)


@pytest.mark.parametrize(
    ("version", "mode"), [("8.6.2", "strong"), ("11.4.0", "int8"), ("11.4.0", "fp16")]
)
def test_a_mode_that_a_version_lacks_is_refused(version: str, mode: str) -> None:
    with pytest.raises(BackendError, match=f"TensorRT {version} .*'{mode}'"):
        precision_setup(simulated_tensorrt(SimulatedCuda(), version), mode)


def test_the_timing_cache_is_kept_between_builds(tmp_path: Path) -> None:
    trt = simulated_tensorrt(SimulatedCuda())
    for builds in range(1, 4):
        build_plan(trt, request(tmp_path))
        assert (tmp_path / "timing").read_bytes() == b"." * builds


def test_running_out_of_memory_is_said_with_a_remedy(tmp_path: Path) -> None:
    trt = simulated_tensorrt(SimulatedCuda(), faults=Faults(out_of_memory=True))
    with pytest.raises(BackendError, match=r"encoder.onnx: .*Out of memory.*--workspace"):
        build_plan(trt, request(tmp_path))
    assert not (tmp_path / "timing").exists()


def test_what_the_parser_says_is_passed_on(tmp_path: Path) -> None:
    said = "No importer registered for op: MatMulIntegerToFloat"
    trt = simulated_tensorrt(SimulatedCuda(), faults=Faults(unsupported=said))
    with pytest.raises(BundleIncompatible, match=rf"encoder.onnx: TensorRT 10.3.0 .*{said}"):
        build_plan(trt, request(tmp_path))


def test_what_is_no_onnx_is_incompatible(tmp_path: Path) -> None:
    wanted = request(tmp_path)
    wanted.model.write_bytes(b"not a graph")
    with pytest.raises(BundleIncompatible, match=r"encoder\.onnx"):
        build_plan(simulated_tensorrt(SimulatedCuda()), wanted)
