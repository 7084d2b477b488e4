"""Observation is streaming, covers every condition, and survives being killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from calibration.graph import load_graph
from calibration.observe import CONDITIONS, Plan, observe, run_stream, session_of, streams
from edge_runtime.engine import Engine
from edge_runtime.errors import AudioError, ConfigError
from edge_runtime.manifest import Utterance
from tests.calibration.graphs import features, logprobs, spec_of, write_encoder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder.onnx")


def utterances(folder: Path, count: int, seconds: float = 0.7) -> tuple[Utterance, ...]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
        speaker = "often" if number < count - 1 else "rare"
        found.append(Utterance(audio_filepath=path, duration=seconds, text="a", speaker=speaker))
    return tuple(found)


def test_windows_and_states_are_those_of_the_engine(model: Path) -> None:
    import onnx

    spec, sound = spec_of(model), features(1.37)
    engine = Engine.open(model, chunk_frames=(8, 16, 32), default_chunk_ms=160)
    session = engine.session(chunk_frames=16)
    session.push(sound)
    session.finish()
    parts = []
    while outputs := session.step():
        parts.append(outputs[0].logprobs.copy())
    expected = np.concatenate(parts)
    found = logprobs(onnx.load(model), spec, sound)
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5)


def test_every_utterance_meets_every_condition_and_speakers_take_turns(
    tmp_path: Path, model: Path
) -> None:
    spec = spec_of(model)
    plan = Plan(utterances=utterances(tmp_path, 6))
    found = [s for s in streams(plan, spec.windows) if s.utterance is not None]
    met = {(s.utterance.audio_filepath.name, s.condition) for s in found if s.utterance}
    assert len(met) == 6 * len(CONDITIONS)
    assert {s.window for s in found} == set(spec.windows)
    # The rare speaker's only utterance is among the first two, however many the other has.
    assert "rare" in {s.utterance.speaker for s in found[:2] if s.utterance}


def test_a_killed_observation_goes_on_to_the_very_same_result(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, spec = load_graph(model), spec_of(model)
    plan = Plan(utterances=utterances(tmp_path, 8), chunks=120)
    whole = observe(graph, spec, plan, tmp_path / "whole")

    def killed(chunks: int) -> None:
        if chunks > 80:
            raise KeyboardInterrupt

    monkeypatch.setattr("calibration.observe._SAVE_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        observe(graph, spec, plan, tmp_path / "partial", progress=killed)
    seen: list[int] = []
    again = observe(graph, spec, plan, tmp_path / "partial", progress=seen.append)
    assert seen[0] > 40, "it began from nothing"
    assert (again.chunks, again.streams) == (whole.chunks, whole.streams)
    for name, histogram in whole.histograms.items():
        other = again.histograms[name]
        np.testing.assert_array_equal(histogram.counts, other.counts)
        assert (histogram.limit, histogram.low, histogram.high) == (
            other.limit, other.low, other.high,
        )  # fmt: skip


def test_what_is_known_completely_is_not_observed_again(tmp_path: Path, model: Path) -> None:
    graph, spec = load_graph(model), spec_of(model)
    plan = Plan(utterances=utterances(tmp_path, 4), chunks=40)
    whole = observe(graph, spec, plan, tmp_path / "partial")
    seen: list[int] = []
    again = observe(graph, spec, plan, tmp_path / "partial", progress=seen.append)
    assert not seen and (again.chunks, again.streams) == (whole.chunks, whole.streams)


def test_what_was_known_of_another_calibration_is_not_used(tmp_path: Path, model: Path) -> None:
    graph, spec, partial = load_graph(model), spec_of(model), tmp_path / "partial"
    plan = Plan(utterances=utterances(tmp_path, 4), chunks=40)
    expected = observe(graph, spec, plan, partial)
    partial.write_bytes(b"half a fi")
    again = observe(graph, spec, plan, partial)
    assert again.streams == expected.streams


def test_too_little_audio_says_how_much_there_is(tmp_path: Path, model: Path) -> None:
    plan = Plan(utterances=utterances(tmp_path, 2, seconds=0.3), chunks=5000)
    with pytest.raises(ConfigError, match=r"audio for \d+ chunks .* 5000 are wanted"):
        observe(load_graph(model), spec_of(model), plan, tmp_path / "partial")


def test_a_missing_recording_is_named(tmp_path: Path, model: Path) -> None:
    gone = Utterance(audio_filepath=tmp_path / "gone.wav", duration=1.0, text="")
    with pytest.raises(AudioError, match=r"gone\.wav"):
        observe(load_graph(model), spec_of(model), Plan(utterances=(gone,)), tmp_path / "partial")


def test_a_stream_shorter_than_a_window_is_one_window(model: Path) -> None:
    spec = spec_of(model)
    session = session_of(model)
    names = [node.name for node in session.get_inputs()]
    steps = list(
        run_stream(
            lambda feeds: session.run(None, dict(zip(names, feeds, strict=True))),
            spec,
            spec.default_window,
            features(0.05),
        )
    )
    assert len(steps) == 1
