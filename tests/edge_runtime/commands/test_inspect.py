"""`vitconformer inspect`: the facts of a bundle, and its refusal of a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.edge_runtime.command_line import error_line, vitconformer
from tests.edge_runtime.tones import write_tone_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tone_bundle(tmp_path / "bundle").path


def test_the_table_says_what_the_bundle_is_and_how_it_would_run(bundle: Path) -> None:
    done = vitconformer("inspect", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "tones 1.0",
        "Apache-2.0",
        "nemo_exact, 16000 Hz",
        "encoder.onnx (float32: the only one in the bundle) on onnxruntime ",
        "onnxruntime >=1.17 (installed: ",
        " 160 ms    160 ms  default",
        "verified",
        "wer: 160 0",
    ):
        assert words in done.stdout, words


def test_json_holds_the_manifest_the_model_and_the_runtime(bundle: Path) -> None:
    facts = json.loads(vitconformer("inspect", bundle, "--json").stdout)
    assert facts["manifest"] == json.loads((bundle / "manifest.json").read_text())
    assert {file["name"]: file["verified"] for file in facts["files"]} == {
        "encoder.onnx": True,
        "tokens.txt": True,
    }
    assert facts["model"]["chunks"] == [
        {"chunk_ms": 160, "window_frames": 25, "shift_frames": 16, "latency_ms": 160}
    ]
    assert facts["model"]["inputs"][0]["name"] == "audio_signal"
    assert facts["runtime"]["precision"] == "float32"
    assert facts["vocabulary"] == 257


def test_a_changed_file_is_refused_by_name(bundle: Path) -> None:
    with (bundle / "tokens.txt").open("a") as file:
        file.write("x")
    done = vitconformer("inspect", bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert "tokens.txt" in error_line(done)


def test_a_precision_the_bundle_does_not_have_is_refused(bundle: Path) -> None:
    done = vitconformer("inspect", bundle, "--precision", "int8")
    assert done.returncode == 1
    assert "float32" in error_line(done)
