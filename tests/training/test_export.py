"""The exported graph: equal to torch for every arm, to the contract, and to stock sherpa-onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edge_runtime.confidence import FrameStats
from edge_runtime.engine import Engine
from edge_runtime.errors import BackendError, BundleError
from tests.training.encoders import random_encoder, small
from training.bundle import encoder_onnx, round_to_half
from training.config import ARMS, encoder_config
from training.export import contract_metadata, parity, set_metadata, streaming_onnx


@pytest.mark.parametrize("arm", ARMS)
def test_the_graph_streams_what_torch_computes_offline(arm: str) -> None:
    encoder = small(arm)
    model = streaming_onnx(encoder, contract_metadata(encoder, window=32))
    assert parity(model, encoder) < 1e-4


def test_the_shipped_size_is_equal_too_with_weights_stored_as_half() -> None:
    encoder = random_encoder(encoder_config("XS", "vit_conformer"))
    round_to_half(encoder)
    model = encoder_onnx(encoder, window=32, half=True)
    assert parity(model, encoder, seed=1) < 1e-4
    assert model.ByteSize() < 6.5e6


def test_an_unequal_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small("cnn")
    other = small("cnn")
    with torch.no_grad():
        other.head.bias += 1e-3 * torch.arange(33)
    graph = streaming_onnx(other, contract_metadata(other, window=32))
    monkeypatch.setattr("training.bundle.streaming_onnx", lambda *_, **__: graph)
    with pytest.raises(BundleError, match="differs from torch"):
        encoder_onnx(encoder, window=32, half=False)


def test_inputs_outputs_and_metadata_are_the_contract() -> None:
    encoder = small("vit_conformer")
    model = streaming_onnx(encoder, contract_metadata(encoder, window=32))
    assert [i.name for i in model.graph.input] == [
        "audio_signal", "length", "cache_last_channel", "cache_last_time", "cache_last_channel_len",
    ]  # fmt: skip
    assert [o.name for o in model.graph.output] == [
        "logprobs", "encoded_lengths", "cache_last_channel_next", "cache_last_time_next",
        "cache_last_channel_next_len", "frame_stats",
    ]  # fmt: skip
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    shapes = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input}
    for cache in ("cache_last_channel", "cache_last_time"):
        for axis in (1, 2, 3):
            assert int(metadata[f"{cache}_dim{axis}"]) == shapes[cache][axis].dim_value
    assert metadata["window_size"] == metadata["chunk_shift"] == "32"
    assert metadata["subsampling_factor"] == "4"
    assert metadata["vocab_size"] == "32"


def test_the_graph_computes_the_statistics_of_frames_that_the_host_would(tmp_path: Path) -> None:
    encoder = random_encoder(encoder_config("XS", "vit_conformer"))
    model = encoder_onnx(encoder, window=32, half=False)
    onnx.save(model, tmp_path / "encoder.onnx")
    session = Engine.open(tmp_path / "encoder.onnx", chunk_frames=[32]).session(batch=2)
    rng = np.random.default_rng(5)
    for row in range(2):
        session.push(rng.normal(-8, 4, (77, 80)).astype(np.float32), row)
        session.finish(row)
    from_graph, from_host = FrameStats(), FrameStats()
    while outputs := session.step():
        assert outputs[1].stats is not None
        assert len(outputs[1].stats) == len(outputs[1].logprobs)
        from_host.push(outputs[1].logprobs)
        from_graph.push(outputs[1].logprobs, outputs[1].stats)
    assert from_graph.end == from_host.end == 20
    np.testing.assert_allclose(from_graph.rows(0, 20), from_host.rows(0, 20), rtol=2e-6)


def test_a_graph_that_turns_to_nan_is_found_out_by_its_statistics(tmp_path: Path) -> None:
    encoder = small("vit_conformer")
    model = streaming_onnx(encoder, contract_metadata(encoder, window=8))
    onnx.save(model, tmp_path / "encoder.onnx")
    session = Engine.open(tmp_path / "encoder.onnx").session()
    session.push(np.full((8, 80), np.inf, np.float32))
    with pytest.raises(BackendError, match="NaN"):
        session.step()


def test_statistics_that_are_not_those_of_the_log_probabilities_are_refused(
    tmp_path: Path,
) -> None:
    encoder = small("vit_conformer")
    model = streaming_onnx(encoder, contract_metadata(encoder, window=8))
    (last,) = [node for node in model.graph.node if "frame_stats" in node.output]
    last.input[1], last.input[2] = last.input[2], last.input[1]
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(BundleError, match="frame_stats: are not the statistics"):
        Engine.open(tmp_path / "encoder.onnx").session()


def test_only_the_metadata_differs_between_chunk_sizes() -> None:
    encoder = small("vit_conformer")
    one = streaming_onnx(encoder, contract_metadata(encoder, window=8))
    two = streaming_onnx(encoder, contract_metadata(encoder, window=64))
    set_metadata(one, contract_metadata(encoder, window=64))
    assert one.SerializeToString() == two.SerializeToString()


SHERPA = """
import json, sys, numpy as np, sherpa_onnx
model, tokens, audio = sys.argv[1:]
recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(model=model, tokens=tokens, num_threads=1)
found = []
for samples in np.load(audio):
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, samples)
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    found.append(recognizer.tokens(stream))
print(json.dumps(found))
"""


@pytest.mark.parametrize("chunk_ms", [80, 320])
def test_stock_sherpa_onnx_decodes_the_same_tokens(tmp_path: Path, chunk_ms: int) -> None:
    from edge_runtime.engine import Engine
    from edge_runtime.features import open_frontend

    encoder = small("vit_conformer")
    with torch.no_grad():
        encoder.head.weight *= 4  # an untrained head is nearly flat: make it say something
    model = streaming_onnx(encoder, contract_metadata(encoder, window=chunk_ms // 10))
    onnx.save(model, tmp_path / "encoder.onnx")
    pieces = [*(f"p{i}" for i in range(32)), "<blk>"]
    (tmp_path / "tokens.txt").write_text("".join(f"{p} {i}\n" for i, p in enumerate(pieces)))
    rng = np.random.default_rng(0)
    envelope = np.abs(np.sin(np.linspace(0, 20, 16_000 * 4)))
    audio = (0.1 * rng.normal(size=(6, 16_000 * 4)) * envelope).astype(np.float32)
    np.save(tmp_path / "audio.npy", audio)
    done = subprocess.run(
        [sys.executable, "-c", SHERPA, "encoder.onnx", "tokens.txt", "audio.npy"], cwd=tmp_path,
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    theirs = json.loads(done.stdout.splitlines()[-1])

    engine, frontend = Engine.open(tmp_path / "encoder.onnx"), open_frontend("knf_nemo")
    lengths = []
    for samples, expected in zip(audio, theirs, strict=True):
        session = engine.session()
        session.push(frontend.stream().push(samples))  # no flush: sherpa never flushes
        tokens, last = [], 32
        while outputs := session.step():
            for unit in outputs[0].logprobs.argmax(-1).tolist():
                if unit not in (last, 32):
                    tokens.append(pieces[unit])
                last = unit
        # sherpa waits for one frame more than a window before it runs the window.
        assert tokens[: len(expected)] == expected
        assert len(tokens) - len(expected) <= chunk_ms // 40
        lengths.append(len(expected))
    assert min(lengths) > 3
