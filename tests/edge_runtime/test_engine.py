"""Windows, state and batches, proven on models whose outputs tests can compute themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.bundle import write_bundle
from edge_runtime.engine import Engine, Session
from edge_runtime.errors import BackendError, BundleIncompatible, ConfigError
from edge_runtime.features import open_frontend
from tests.models import (
    NEMO_TOKENS,
    Graph,
    bundle_manifest,
    contract_model,
    echo_model,
    echo_numpy,
    memory_model,
    memory_numpy,
    nemo_model,
    save,
    tiny_bundle,
    tokens_text,
)

Array = NDArray[np.float32]
CHUNKS = (8, 16, 32, 64)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = save(memory_model(), tmp_path_factory.mktemp("memory") / "encoder.onnx")
    return Engine.open(path, chunk_frames=CHUNKS)


@pytest.fixture(scope="module")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.open(save(nemo_model(), tmp_path_factory.mktemp("nemo") / "encoder.onnx"))


def features(frames: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(-8.0, 4.0, (frames, 80)).astype(np.float32)


def drain(session: Session, row: int = 0) -> list[Array]:
    outputs = []
    while step := session.step():
        outputs += [out.logprobs.copy() for out in step if out.row == row]
    return outputs


def decode(session: Session, frames: Array, row: int = 0) -> Array:
    """Everything the session gives for one whole stream, [T', V]."""
    session.reset(row)
    session.push(frames, row)
    session.finish(row)
    width = session.spec.vocab_size
    return np.concatenate([np.zeros((0, width), np.float32), *drain(session, row)])


# --- one stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("frames", [4, 8, 60, 64, 100, 256])
def test_state_is_carried_from_window_to_window(memory: Engine, chunk: int, frames: int) -> None:
    x = features(frames)
    actual = decode(memory.session(chunk_frames=chunk), x)
    np.testing.assert_allclose(actual, memory_numpy(x, chunk), atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_pushes_give_the_same_bits_as_one(memory: Engine, data: st.DataObject) -> None:
    frames = data.draw(st.integers(0, 300))
    cuts = sorted(data.draw(st.lists(st.integers(0, frames), max_size=10)))
    chunk = data.draw(st.sampled_from(CHUNKS))
    x = features(frames)
    session = memory.session(chunk_frames=chunk)
    outputs: list[Array] = []
    for piece in np.split(x, cuts):
        session.push(piece)
        outputs += drain(session)
    session.finish()
    outputs += drain(session)
    chunked = np.concatenate([np.zeros((0, 16), np.float32), *outputs])
    assert chunked.tobytes() == decode(memory.session(chunk_frames=chunk), x).tobytes()
    assert len(chunked) == -(-frames // 4)


def test_a_window_runs_as_soon_as_it_is_complete_and_not_before(memory: Engine) -> None:
    session = memory.session(chunk_frames=32)
    session.push(features(31))
    assert not session.ready()
    assert session.step() == []
    session.push(features(1))
    assert session.ready()
    assert [out.logprobs.shape for out in session.step()] == [(8, 16)]
    assert not session.ready()


def test_output_frames_are_counted_from_the_start_of_the_stream(memory: Engine) -> None:
    session = memory.session(chunk_frames=16)
    session.push(features(38))
    session.finish()
    steps = [out for _ in range(3) for out in session.step()]
    assert [(out.first_frame, len(out.logprobs)) for out in steps] == [(0, 4), (4, 4), (8, 2)]
    assert [session.frame_time(t) for t in (0, 1, 9)] == [0.0, 0.04, 0.36]


def test_a_reset_stream_is_a_fresh_stream(memory: Engine) -> None:
    session = memory.session(chunk_frames=16)
    fresh = decode(session, features(100, seed=1))
    session.reset()
    session.push(features(90, seed=2))  # five windows run, ten frames left waiting
    drain(session)
    assert decode(session, features(100, seed=1)).tobytes() == fresh.tobytes()


def test_two_sessions_of_one_engine_do_not_meet(memory: Engine) -> None:
    one, other = memory.session(chunk_frames=16), memory.session(chunk_frames=16)
    x, y = features(160, seed=1), features(160, seed=2)
    outputs: list[Array] = []
    for start in range(0, 160, 16):
        one.push(x[start : start + 16])
        other.push(y[start : start + 16])
        outputs += drain(one)
        drain(other)
    assert np.concatenate(outputs).tobytes() == decode(one, x).tobytes()


def test_pushing_does_not_keep_the_callers_array(memory: Engine) -> None:
    x = features(32)
    session = memory.session(chunk_frames=32)
    buffer = x.copy()
    session.push(buffer)
    buffer[:] = 0
    assert drain(session)[0].tobytes() == decode(session, x).tobytes()


def test_an_empty_stream_gives_nothing(memory: Engine) -> None:
    session = memory.session()
    session.finish()
    assert session.step() == []


def test_mistakes_of_the_caller_are_value_errors(memory: Engine) -> None:
    session = memory.session()
    with pytest.raises(ValueError, match="80"):
        session.push(np.zeros((4, 81), np.float32))
    session.finish()
    with pytest.raises(ValueError, match="finished"):
        session.push(features(4))


# --- batches ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_row_never_depends_on_its_neighbours(memory: Engine, data: st.DataObject) -> None:
    """Rows start, pause, end and restart at random; each must equal the same row run alone."""
    rows, chunk = 3, 8
    lengths = [data.draw(st.integers(0, 60), label=f"length {row}") for row in range(rows)]
    streams = [features(length, seed=row) for row, length in enumerate(lengths)]
    alone = [decode(memory.session(rows, chunk_frames=chunk), x, i) for i, x in enumerate(streams)]

    session = memory.session(rows, chunk_frames=chunk)
    given_: list[list[Array]] = [[] for _ in range(rows)]
    position = [0] * rows
    restarts = [data.draw(st.integers(0, 1), label=f"restarts {row}") for row in range(rows)]
    for _ in range(200):
        if all(session._rows[i].finished and not session.ready(i) for i in range(rows)):
            break
        row = data.draw(st.integers(0, rows - 1))
        if position[row] < lengths[row]:
            size = data.draw(st.integers(1, 20))
            session.push(streams[row][position[row] : position[row] + size], row)
            position[row] = min(position[row] + size, lengths[row])
        elif restarts[row] and not session._rows[row].finished:
            restarts[row], position[row], given_[row] = 0, 0, []
            session.reset(row)
        else:
            session.finish(row)
        for out in session.step():
            given_[out.row].append(out.logprobs.copy())
    for row in range(rows):
        if session._rows[row].finished:
            whole = np.concatenate([np.zeros((0, 16), np.float32), *given_[row]])
            assert whole.tobytes() == alone[row].tobytes()


def test_a_row_that_waits_keeps_its_state_to_the_bit(memory: Engine) -> None:
    session = memory.session(2, chunk_frames=8)
    session.push(features(8), 0)
    session.push(features(8), 1)
    session.step()
    before = session._binding.read_state(1)
    assert any(part.any() for part in before)
    session.push(features(24, seed=3), 0)
    for _ in range(3):
        assert [out.row for out in session.step()] == [0]
    after = session._binding.read_state(1)
    assert [part.tobytes() for part in after] == [part.tobytes() for part in before]


def test_resetting_a_row_leaves_the_others(memory: Engine) -> None:
    x = features(32)
    session = memory.session(2, chunk_frames=16)
    session.push(x[:16], 0)
    session.push(x[:16], 1)
    first = {out.row: out.logprobs.copy() for out in session.step()}
    session.reset(0)
    session.push(x[:16], 0)
    session.push(x[16:], 1)
    second = {out.row: out.logprobs.copy() for out in session.step()}
    assert second[0].tobytes() == first[0].tobytes()
    np.testing.assert_allclose(second[1], memory_numpy(x, 16)[4:], atol=2e-5)


def test_batched_is_single(memory: Engine) -> None:
    streams = [features(50 + 9 * row, seed=row) for row in range(5)]
    session = memory.session(5, chunk_frames=16)
    for row, x in enumerate(streams):
        batched = decode(session, x, row)
        single = decode(memory.session(chunk_frames=16), x)
        np.testing.assert_allclose(batched, single, atol=1e-5)


# --- NeMo's windows -----------------------------------------------------------------------------


def bursts(seconds: float, at: list[float]) -> Array:
    """Silence with a 2 kHz tone of 80 ms at each of these times."""
    t = np.arange(int(seconds * 16000)) / 16000
    on = np.any([(t >= start) & (t < start + 0.08) for start in at], axis=0)
    return (0.5 * np.sin(2 * np.pi * 2000 * t) * on).astype(np.float32)


def tone_times(session: Session, frames: Array) -> list[float]:
    """Start of each run of non-blank output frames, in seconds."""
    session.reset()
    session.push(frames)
    session.finish()
    times, before = [], False
    while step := session.step():
        for out in step:
            tones = out.logprobs.argmax(axis=1) != NEMO_TOKENS
            for j, tone in enumerate(tones):
                if tone and not before:
                    times.append(session.frame_time(out.first_frame + j))
                before = bool(tone)
    return times


def test_times_are_right_with_overlapping_windows(nemo: Engine) -> None:
    frames = open_frontend("nemo_exact").compute(bursts(3.0, [0.5, 1.01, 2.9]))
    session = nemo.session()
    assert tone_times(session, frames) == pytest.approx([0.5, 1.01, 2.9], abs=0.08)
    assert session.frame_time(0) == pytest.approx(0.09)  # (8t + window - shift) * 10 ms
    assert session.frame_time(5) == pytest.approx(0.49)


def test_time_never_runs_backwards_where_windows_give_too_many_frames(nemo: Engine) -> None:
    session = nemo.session()
    session._frames_per_window = 4  # 16 feature frames per window, 8 per output frame
    times = [session.frame_time(t) for t in range(13)]
    assert times == sorted(times)
    assert times[::4] == pytest.approx([0.09, 0.25, 0.41, 0.57])


def test_padding_the_start_recovers_the_first_ninety_milliseconds(nemo: Engine) -> None:
    frames = open_frontend("nemo_exact").compute(bursts(1.0, [0.0, 0.5]))
    assert tone_times(nemo.session(), frames) == pytest.approx([0.5], abs=0.08)
    padded = nemo.session(pad_start=True)
    assert tone_times(padded, frames) == pytest.approx([0.0, 0.5], abs=0.08)
    assert padded.frame_time(0) == 0.0
    padded.reset()
    assert tone_times(padded, frames) == pytest.approx([0.0, 0.5], abs=0.08)


@pytest.mark.parametrize("frames", range(0, 60))
@pytest.mark.parametrize("pad_start", [False, True])
def test_every_feature_frame_reaches_an_output(nemo: Engine, frames: int, pad_start: bool) -> None:
    session = nemo.session(pad_start=pad_start)
    outputs = decode(session, features(frames))
    context = 0 if pad_start else 9
    assert len(outputs) == -(-max(0, frames - context) // 8)


def test_a_graph_without_our_metadata_gets_nemos_features(tmp_path: Path) -> None:
    model = nemo_model()
    kept = [entry for entry in model.metadata_props if entry.key != "frontend"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    path = save(model, tmp_path / "encoder.onnx")
    assert Engine.open(path).spec.frontend == "nemo_exact"
    assert Engine.open(path, frontend="knf_nemo").spec.frontend == "knf_nemo"


# --- choosing -----------------------------------------------------------------------------------


def test_a_bundle_says_which_chunks_its_graph_takes(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b", echo_model(), default_chunk_ms=160)
    engine = Engine.from_bundle(bundle)
    assert [window.chunk_ms for window in engine.spec.windows] == [80, 160, 320, 640]
    assert engine.session().window.shift == 16
    x = features(128)
    for chunk in CHUNKS:
        logprobs = decode(engine.session(chunk_frames=chunk), x)
        assert logprobs.argmax(axis=1).tolist() == echo_numpy(x).tolist()
    with pytest.raises(ConfigError, match=r"no chunk of 120 ms .*80, 160, 320, 640"):
        engine.window(120)
    with pytest.raises(ConfigError, match="120 ms"):
        engine.session(chunk_frames=12)


def test_without_a_manifest_only_the_window_of_the_metadata_is_known(tmp_path: Path) -> None:
    engine = Engine.open(save(echo_model(), tmp_path / "encoder.onnx"))
    assert [window.chunk_ms for window in engine.spec.windows] == [320]


@pytest.mark.parametrize("batch", [0, -1, 10**9])
def test_an_absurd_batch_is_refused(memory: Engine, batch: int) -> None:
    with pytest.raises(ConfigError, match="batch"):
        memory.session(batch)


def test_a_bundle_whose_manifest_contradicts_its_graph_is_incompatible(tmp_path: Path) -> None:
    wrong_frontend = tiny_bundle(tmp_path / "a", echo_model(), frontend="nemo_exact")
    with pytest.raises(BundleIncompatible, match="frontend"):
        Engine.from_bundle(wrong_frontend)
    wrong_chunks = tiny_bundle(tmp_path / "b", echo_model(), chunk_frames=(8, 30, 32))
    with pytest.raises(BundleIncompatible, match=r"chunk_frames: hold 30 .*multiples of 4"):
        Engine.from_bundle(wrong_chunks)
    one_window = tiny_bundle(tmp_path / "c", nemo_model({"frontend": "knf_nemo"}))
    with pytest.raises(BundleIncompatible, match="16 only"):
        Engine.from_bundle(one_window)


def test_a_bundle_whose_tokens_do_not_fit_its_graph_is_incompatible(tmp_path: Path) -> None:
    files: dict[str, Path | bytes] = {
        "encoder.onnx": echo_model().SerializeToString(),
        "tokens.txt": tokens_text(63).encode(),
    }
    with pytest.raises(BundleIncompatible, match=r"tokens\.txt: has 64 tokens .*65"):
        Engine.from_bundle(write_bundle(tmp_path / "b", bundle_manifest(), files))


def test_inspection_is_plain_json(nemo: Engine, memory: Engine) -> None:
    report = json.loads(json.dumps(nemo.inspect()))
    assert [tensor["name"] for tensor in report["inputs"]][:2] == ["audio_signal", "length"]
    assert report["metadata"]["window_size"] == "25"
    assert report["output_frame_ms"] == 80
    assert report["chunks"] == [
        {"chunk_ms": 160, "window_frames": 25, "shift_frames": 16, "latency_ms": 160}
    ]
    assert report["state_bytes_per_stream"] == 4 * (2 * 70 * 16 + 2 * 16 * 8) + 8
    assert [chunk["chunk_ms"] for chunk in memory.inspect()["chunks"]] == [80, 160, 320, 640]


def test_nan_while_running_is_an_error_of_the_backend(tmp_path: Path) -> None:
    """log of the features: defined on the zeros it is tried with, not on negative numbers."""
    graph = Graph()
    frames = graph.op("Transpose", "audio_signal", perm=[0, 2, 1])
    frames = graph.op("Reshape", frames, graph.ints(0, -1, 320))
    graph.op("Log", graph.slice(frames, 0, 4, axis=2), out="logprobs")
    graph.op("Identity", "length", out="encoded_lengths")
    graph.op("Identity", "cache_last_channel", out="cache_last_channel_next")
    graph.op("Identity", "cache_last_time", out="cache_last_time_next")
    graph.op("Identity", "cache_last_channel_len", out="cache_last_channel_next_len")
    model = contract_model(
        graph, window=8, shift=8, subsampling=4, tokens=3, channel=(1, 1, 1), time=(1, 1, 1)
    )
    session = Engine.open(save(model, tmp_path / "encoder.onnx")).session()
    session.push(features(8))
    with pytest.raises(BackendError, match="NaN"):
        session.step()
