"""Goldens are one stream of the float model, always the same bytes; an engine agrees with them."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.goldens import STEPS, goldens
from edge_runtime.engine import Engine
from edge_runtime.errors import ConfigError
from tests import models
from tests.calibration.graphs import features, spec_of, write_encoder


def content(data: bytes) -> dict[str, NDArray[np.generic]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)


def test_the_engine_gives_the_same_answers_to_the_same_stream(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx", half=True)
    engine = Engine.open(path, chunk_frames=(8, 16, 32), default_chunk_ms=160)
    found = content(goldens(path, engine.spec, [features(1.0, 1), features(4.0, 2)]))
    assert found["chunk_frames"] == 16
    assert found["features"].shape == (STEPS, 80, 16)
    assert found["lengths"].tolist() == [16] * STEPS
    assert found["logprobs"].shape[0] == STEPS
    assert [found[f"state{i}"].shape for i in (0, 1)] == list(engine.spec.caches)
    assert not any(found[f"state{i}"].any() for i in range(3))
    assert [found[f"state{i}"].dtype for i in range(3)] == [np.float32, np.float32, np.int64]

    session = engine.session(chunk_frames=16)
    session.push(np.concatenate([window.T for window in found["features"]]))
    for expected in found["logprobs"]:
        (output,) = session.step()
        np.testing.assert_allclose(output.logprobs, expected, atol=1e-5)


def test_features_lose_nothing_as_float16_and_the_reference_ran_on_them(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    spec = spec_of(path)
    sound = features(4.0)
    first = content(goldens(path, spec, [sound]))
    kept = first["features"]
    np.testing.assert_array_equal(kept, kept.astype(np.float16).astype(np.float32))
    assert (sound[:16] != kept[0].T).any(), "nothing was rounded: the test shows nothing"
    # Rounding again changes nothing, so neither do the answers.
    again = content(goldens(path, spec, [np.concatenate([w.T for w in kept])]))
    np.testing.assert_array_equal(first["logprobs"], again["logprobs"])


def test_made_at_another_time_it_is_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    first = goldens(path, spec_of(path), [features(4.0)])
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert goldens(path, spec_of(path), [features(4.0)]) == first
    finally:
        monkeypatch.undo()
        time.tzset()
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_short_stream_has_fewer_steps_and_none_is_an_error(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    found = content(goldens(path, spec_of(path), [features(0.40)]))
    assert found["features"].shape[0] == 2
    with pytest.raises(ConfigError, match=r"have 15 frames, and .* wants 16 at least"):
        goldens(path, spec_of(path), [features(0.15)])


def test_windows_that_overlap_are_stored_whole(tmp_path: Path) -> None:
    path = models.save(models.nemo_model(), tmp_path / "nemo.onnx")
    found = content(goldens(path, Engine.open(path).spec, [features(3.0)]))
    windows = found["features"]
    assert found["chunk_frames"] == 16 and windows.shape == (16, 80, 25)
    np.testing.assert_array_equal(windows[:-1, :, 16:], windows[1:, :, :9])
