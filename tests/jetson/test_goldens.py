"""`goldens.npz`: what is read is what was written, and an engine that differs is seen to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends.onnx import open_onnx
from edge_runtime.errors import BundleError
from jetson.goldens import Goldens, compare, time_steps
from tests.jetson.engines import memory_engine, memory_goldens, save_goldens
from tests.models import echo_model, memory_model, memory_numpy, save


@pytest.fixture
def goldens(tmp_path: Path) -> Goldens:
    return memory_goldens(tmp_path)


def test_what_is_read_is_what_was_written(tmp_path: Path, goldens: Goldens) -> None:
    save_goldens(goldens, tmp_path / "goldens.npz")
    for source in (tmp_path / "goldens.npz", (tmp_path / "goldens.npz").read_bytes()):
        again = Goldens.load(source)
        assert again.chunk_frames == 16
        assert np.array_equal(again.features, goldens.features)
        assert np.array_equal(again.logprobs, goldens.logprobs)
        assert all(map(np.array_equal, again.states, goldens.states))


def test_the_goldens_are_one_stream(goldens: Goldens) -> None:
    stream = goldens.features.transpose(0, 2, 1).reshape(-1, 80)
    np.testing.assert_allclose(
        goldens.logprobs.reshape(-1, 16), memory_numpy(stream, 16), atol=2e-5
    )


@pytest.mark.parametrize("frames", [8, 16, 32, 64])
def test_other_chunks_of_the_same_sound_are_one_stream_too(
    tmp_path: Path, goldens: Goldens, frames: int
) -> None:
    reference = open_onnx(save(memory_model(), tmp_path / "m.onnx"))
    other = goldens.in_chunks_of(frames, reference)
    stream = goldens.features.transpose(0, 2, 1).reshape(-1, 80)[: other.steps * frames]
    np.testing.assert_allclose(
        other.logprobs.reshape(-1, 16), memory_numpy(stream, frames), atol=2e-5
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_an_engine_that_agrees_does_in_every_row(
    tmp_path: Path, goldens: Goldens, batch: int
) -> None:
    agreement = compare(memory_engine(tmp_path), goldens, batch)
    assert (agreement.argmax, agreement.frames) == (1.0, batch * 12 * 4)
    assert agreement.snr_db > 100


def test_frames_behind_the_sound_s_end_are_not_compared(tmp_path: Path, goldens: Goldens) -> None:
    goldens.lengths[-1] = 5
    goldens.logprobs[-1, 2:] = 0  # two output frames stand for five frames of sound
    agreement = compare(memory_engine(tmp_path), goldens)
    assert (agreement.argmax, agreement.frames) == (1.0, 11 * 4 + 2)


def test_a_wrong_answer_is_counted_and_measured(tmp_path: Path, goldens: Goldens) -> None:
    wanted = goldens.logprobs
    worst = wanted.argmin(2)
    for k in range(3):  # one frame of each of three steps gets another best token
        wanted[k, 0, worst[k, 0]] = 1.0
    agreement = compare(memory_engine(tmp_path), goldens)
    assert agreement.argmax == pytest.approx(1 - 3 / 48)
    assert agreement.snr_db < 30


def test_a_state_that_is_lost_is_noticed(tmp_path: Path, goldens: Goldens) -> None:
    """The engine keeps its own state, so an error there shows in every step after it."""
    backend = memory_engine(tmp_path)
    bind = backend.bind

    def forgetful(shapes: object) -> object:
        binding = bind(shapes)  # type: ignore[arg-type]
        run = binding.run

        def run_and_forget() -> object:
            result = run()
            binding.reset(0)
            return result

        binding.run = run_and_forget  # type: ignore[method-assign, assignment]
        return binding

    backend.bind = forgetful  # type: ignore[method-assign, assignment]
    assert compare(backend, goldens).snr_db < 30


def test_an_answer_of_nan_agrees_with_nothing(tmp_path: Path, goldens: Goldens) -> None:
    goldens.features[2] = np.nan
    assert compare(memory_engine(tmp_path), goldens).snr_db == -200


def test_time_is_given_in_milliseconds_of_a_step(tmp_path: Path, goldens: Goldens) -> None:
    took = time_steps(memory_engine(tmp_path), goldens, steps=20, warm_up=2)
    assert 0 < took["p50_ms"] <= took["p95_ms"] <= took["p99_ms"] < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": None}, "logprobs: is missing"),
        ({"features": np.zeros((3, 80), np.float32)}, r"features: has shape \(3, 80\)"),
        ({"lengths": np.zeros(3, np.int64)}, "as many of every array"),
        ({"chunk_frames": np.int64(17)}, "no longer than its window"),
        ({"state2": np.int64(1)}, "begins within a stream"),
        ({"state0": np.zeros((12, 1, 2, 3), np.float32)}, r"state0: has shape \(12, 1, 2, 3\)"),
    ],
)
def test_a_broken_file_is_refused_by_name(
    tmp_path: Path, goldens: Goldens, change: dict[str, np.ndarray | None], message: str
) -> None:
    path = tmp_path / "goldens.npz"
    save_goldens(goldens, path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files} | change
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(BundleError, match=message) as caught:
        Goldens.load(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "goldens.npz").write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read"):
        Goldens.load(tmp_path / "goldens.npz")


def test_objects_in_an_archive_are_never_loaded(tmp_path: Path, goldens: Goldens) -> None:
    path = tmp_path / "goldens.npz"
    np.savez(path, features=np.array([{"a": 1}], object))
    with pytest.raises(BundleError, match="cannot be read"):
        Goldens.load(path)


def test_goldens_of_another_vocabulary_are_refused(tmp_path: Path, goldens: Goldens) -> None:
    narrow = Goldens(
        chunk_frames=goldens.chunk_frames,
        features=goldens.features,
        lengths=goldens.lengths,
        states=goldens.states,
        logprobs=goldens.logprobs[:, :, :9],
    )
    with pytest.raises(BundleError, match="as the goldens"):
        compare(memory_engine(tmp_path), narrow)


def test_goldens_are_of_their_model(tmp_path: Path, goldens: Goldens) -> None:
    other = open_onnx(save(echo_model(), tmp_path / "echo.onnx"))
    with pytest.raises(BundleError):
        compare(other, goldens)
