"""`import`: models from elsewhere become bundles that transcribe, or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_runtime.recognizer import Recognizer
from tests import models
from tests.edge_runtime.command_line import vitconformer
from tests.edge_runtime.tones import RATE, say


@pytest.fixture
def nemo(tmp_path: Path) -> Path:
    return models.save(models.nemo_model(), tmp_path / "model.onnx")


def test_an_imported_nemo_model_transcribes(nemo: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    done = vitconformer("import", str(nemo), str(nemo.parent / "tokens.txt"), "--out", str(out))
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    soundfile.write(tmp_path / "talk.wav", say("t50 t61 t55"), RATE)
    done = vitconformer("transcribe", "--json", "--bundle", str(out), str(tmp_path / "talk.wav"))
    final = json.loads(done.stdout.splitlines()[-1])
    assert final["text"] == "t50 t61 t55"


@pytest.mark.parametrize("lead_s", [0.0, 0.03, 0.3])
def test_what_is_said_at_once_is_heard_with_padding_only(
    nemo: Path, tmp_path: Path, lead_s: float
) -> None:
    path = models.tiny_bundle(
        tmp_path / "bundle", models.nemo_model(), frontend="nemo_exact", chunk_frames=(16,),
        default_chunk_ms=160,
    ).path  # fmt: skip
    starts = {}
    for pad_start in (True, False):
        stream = Recognizer.open(path, pad_start=pad_start).stream()
        events = stream.push(say("t50 t61", lead_s=lead_s)) + stream.finish()
        assert events[-1].text == "t50 t61"
        starts[pad_start] = events[-1].words[0].start
    assert starts[True] == pytest.approx(lead_s, abs=0.08)  # one output frame
    assert starts[False] >= 0.09  # the first nine frames were only looked back on


def test_the_wrong_tokens_are_refused_and_nothing_is_written(nemo: Path, tmp_path: Path) -> None:
    tokens = models.write_tokens(tmp_path / "few.txt", 7)
    done = vitconformer("import", str(nemo), str(tokens), "--out", str(tmp_path / "bundle"))
    assert done.returncode == 1
    assert "has 8 tokens (expected 257, as the model)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(np.arange(256, dtype=np.uint8))])
def test_a_file_that_is_no_model_is_refused(nemo: Path, tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(content)
    tokens = str(nemo.parent / "tokens.txt")
    done = vitconformer("import", str(broken), tokens, "--out", str(tmp_path / "bundle"))
    assert done.returncode == 1
    assert "broken.onnx" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "bundle").exists()
