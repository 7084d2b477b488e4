"""Stock sherpa-onnx decodes the same tokens from the same graph and audio.

The echo model's tokens are a hash of the features, so it guards their definition; the memory
model's depend on everything carried from window to window, so it guards the stepping. sherpa-onnx
runs in a process of its own: a model that it does not like ends the interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_runtime.engine import Engine
from edge_runtime.features import open_frontend
from edge_runtime.tokens import Vocabulary
from tests.models import echo_model, memory_model, save

pytest.importorskip("sherpa_onnx")

SHERPA = """
import json, sys
import numpy as np
import sherpa_onnx
directory, count = sys.argv[1], int(sys.argv[2])
recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
    tokens=directory + "/tokens.txt", model=directory + "/encoder.onnx", num_threads=1
)
for i in range(count):
    stream = recognizer.create_stream()
    for chunk in np.array_split(np.load(f"{directory}/{i}.npy"), 7):
        stream.accept_waveform(16000, chunk)
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    print(json.dumps(list(recognizer.get_result_all(stream).tokens)))
"""


def sound(seed: int) -> np.ndarray:
    """Tones, sweeps, noise of any level and digital silence.

    Its length leaves seven frames after the last full window: sherpa-onnx waits for one frame more
    than a window and never flushes the rest.
    """
    rng = np.random.default_rng(seed)
    samples = 160 * (32 * int(rng.integers(2, 8)) + 7) + 280
    t = np.arange(samples) / 16000
    sweep = 0.3 * np.sin(2 * np.pi * (200 + 300 * seed * t) * t) * (np.sin(9 * t) > 0)
    x = sweep + 10 ** rng.uniform(-5, -1) * rng.standard_normal(samples)
    if seed % 3 == 0:
        x[samples // 3 : samples // 2] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("model", [echo_model(), memory_model()], ids=["echo", "memory"])
def test_sherpa_onnx_decodes_the_same_tokens(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = save(model, tmp_path / "encoder.onnx")
    sounds = [sound(seed) for seed in range(12)]
    for i, x in enumerate(sounds):
        np.save(tmp_path / f"{i}.npy", x)
    result = subprocess.run(
        [sys.executable, "-c", SHERPA, str(tmp_path), str(len(sounds))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    theirs = [json.loads(line) for line in result.stdout.splitlines()]

    session = Engine.open(path).session()
    vocabulary = Vocabulary.load(tmp_path / "tokens.txt")
    seen: set[str] = set()
    for x, their_tokens in zip(sounds, theirs, strict=True):
        session.reset()
        session.push(open_frontend("knf_nemo").stream().push(x))
        ours, before = [], vocabulary.blank_id
        while step := session.step():
            for token in step[0].logprobs.argmax(axis=1).tolist():
                if token not in (before, vocabulary.blank_id):
                    ours.append(vocabulary.pieces[token].replace("\u2581", " "))
                before = token
        assert ours == their_tokens
        seen.update(ours)
    assert len(seen) > 8  # equal because right, not because constant
