"""A rehearsal of the script for GPUs: on a machine without one, and on the simulated one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import BackendError
from jetson import cuda, trt, verify_gpu
from jetson.goldens import Goldens
from tests.jetson.engines import memory_bundle, memory_goldens
from tests.jetson.simulated import Faults, SimulatedCuda, simulated_tensorrt
from tests.models import memory_model, save

ROOT = Path(__file__).parents[2]
QUICK = ["--chunks", "16,32", "--batches", "1,2", "--steps", "5"]


def rehearse(
    monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path, version: str = "10.3.0", **faults: Any
) -> tuple[int, dict[str, Any]]:
    gpu = SimulatedCuda()
    module = simulated_tensorrt(gpu, version, Faults(**faults))
    monkeypatch.setattr(cuda, "open_cuda", lambda package=None: gpu)
    monkeypatch.setattr(trt, "load", lambda: module)
    code = verify_gpu.main([str(folder), "--out", str(out), *QUICK])
    return code, json.loads(out.read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return memory_bundle(tmp_path / "bundle").path


def test_without_a_gpu_it_says_so_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    try:
        cuda.open_cuda()
    except BackendError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "jetson.verify_gpu", str(folder), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("verify_gpu: no GPU can be used")
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("version", "engines"),
    [
        ("8.6.2", {"int8-weak", "fp16-weak", "float"}),
        ("10.3.0", {"int8", "int8-weak", "fp16", "fp16-weak", "float"}),
        ("11.4.0", {"int8", "fp16", "float"}),
    ],
)
def test_every_engine_that_a_version_builds_is_verified(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path, version: str, engines: set[str]
) -> None:
    code, facts = rehearse(monkeypatch, folder, tmp_path / "result.json", version)
    assert (code, facts["holds"]) == (0, True)
    assert facts["simulated"] is True
    assert set(facts["engines"]) == engines
    for engine in facts["engines"].values():
        assert [(row["chunk_frames"], row["batch"]) for row in engine["profiles"]] == [
            *((16, 1), (16, 2), (32, 1), (32, 2))
        ]
        for row in engine["profiles"]:
            assert row["recorded"]
            assert row["graphs_equal_queued"]
            assert row["against_float"]["argmax"] == row["against_literal"]["argmax"] == 1.0
            assert 0 < row["graphs_on"]["p50_ms"] <= row["graphs_on"]["p99_ms"]


def test_an_engine_that_says_other_words_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    code, facts = rehearse(monkeypatch, folder, tmp_path / "result.json", wrong={"strong": 5.0})
    assert (code, facts["holds"]) == (1, False)
    assert any(
        "onnxruntime on the same file" in text for text in facts["engines"]["int8"]["problems"]
    )
    assert facts["engines"]["float"]["problems"] == []


def test_an_engine_that_cannot_be_built_is_a_problem_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    code, facts = rehearse(monkeypatch, folder, tmp_path / "result.json", out_of_memory=True)
    assert code == 1
    assert all("Out of memory" in engine["problems"][0] for engine in facts["engines"].values())


def test_a_folder_without_a_model_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = SimulatedCuda()
    monkeypatch.setattr(cuda, "open_cuda", lambda package=None: gpu)
    monkeypatch.setattr(trt, "load", lambda: simulated_tensorrt(gpu))
    assert verify_gpu.main([str(tmp_path), "--out", str(tmp_path / "r.json")]) == 1
    assert "encoder.onnx: does not exist" in capsys.readouterr().err


def test_the_literal_evaluation_streams(tmp_path: Path) -> None:
    goldens: Goldens = memory_goldens(tmp_path)
    literal = verify_gpu.literally(save(memory_model(), tmp_path / "encoder.onnx"), goldens)
    np.testing.assert_allclose(literal, goldens.logprobs, atol=1e-5)
