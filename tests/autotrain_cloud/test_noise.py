from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from autotrain_cloud.noise import MANIFEST, heard_between, write_noise
from autotrain_cloud.segments import Samples, Segment, segment_audio
from autotrain_cloud.tables import write_rows
from edge_runtime.audio import SAMPLE_RATE
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import SPEECH_POWER, read_manifest
from training.store import build_store

SAMPLES = Path(__file__).parents[2] / "samples"
PAUSE = np.zeros(SAMPLE_RATE // 2, np.float32)


def speech() -> Samples:
    """A sentence between two pauses, f32 [n], at the reference level."""
    path = min(SAMPLES.glob("*.flac"))
    said = segment_audio(
        Segment(id="a", audio=str(path), duration_s=1, text="", device="d"), Path()
    )
    said = said * np.float32(np.sqrt(SPEECH_POWER / power(said)))
    return np.concatenate([PAUSE, said, PAUSE])


def fan(count: int) -> Samples:
    """Brown noise of mean square 1."""
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(count))
    wave = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20), count)
    return np.asarray(wave / np.sqrt(power(wave)), np.float32)


def power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def decibel(ratio: float) -> float:
    return float(10 * np.log10(ratio))


@pytest.mark.parametrize("gain", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("snr_db", [-3.0, 3.0, 15.0])
def test_a_clip_is_as_loud_as_it_was_beside_the_speech_however_loud_both_were(
    snr_db: float, gain: float
) -> None:
    said = speech()
    room = fan(len(said)) * np.float32(np.sqrt(SPEECH_POWER / 10 ** (snr_db / 10)))
    clips = heard_between(gain * (said + room))
    heard = power(np.concatenate(clips))
    # Speech is measured from its first loud frame to its last, 1.3 dB above the whole sentence;
    # below 0 dB some noise stands out too and widens that span: then it comes out 2.4 dB too low.
    assert decibel(SPEECH_POWER / heard) == pytest.approx(snr_db, abs=2.5)


def test_clips_hold_noise_and_hardly_any_speech() -> None:
    said = speech()
    room = fan(len(said)) * np.float32(np.sqrt(SPEECH_POWER / 10))
    mixed = said + room
    clips = heard_between(mixed)
    assert sum(map(len, clips)) > 0.5 * SAMPLE_RATE
    spoken = 0.0
    for clip in clips:  # where it was: there it fits but for one factor
        start = int(np.argmax(np.correlate(mixed, clip / np.sqrt(power(clip)), "valid")))
        spoken += power(said[start : start + len(clip)]) * len(clip)
    assert decibel(spoken / sum(map(len, clips)) / power(room)) < -10


def test_a_quiet_place_has_no_noise_to_learn() -> None:
    said = speech()
    assert heard_between(said) == []  # the pauses are digital silence
    faint = fan(len(said)) * np.float32(np.sqrt(SPEECH_POWER / 10**2.5))
    assert heard_between(said + faint) == []  # 25 dB below


def test_where_nobody_speaks_noise_has_nothing_to_be_measured_by() -> None:
    assert heard_between(0.01 * fan(2 * SAMPLE_RATE)) == []
    assert heard_between(np.zeros(0, np.float32)) == []
    assert heard_between(np.zeros(SAMPLE_RATE, np.float32)) == []


def test_clips_of_a_fleet_become_a_store_and_one_broken_recording_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = speech()
    room = fan(len(said)) * np.float32(np.sqrt(SPEECH_POWER / 2))
    soundfile.write(tmp_path / "loud.flac", said + room, SAMPLE_RATE)
    soundfile.write(tmp_path / "clean.flac", said, SAMPLE_RATE)
    (tmp_path / "broken.flac").write_bytes(b"fLaC, or not")
    shard = tmp_path / "segments.jsonl"
    write_rows(shard, Segment, [
        Segment(id=name, audio=f"{name}.flac", duration_s=2, text="", device="d")
        for name in ("broken", "clean", "loud")
    ])  # fmt: skip
    with caplog.at_level(logging.WARNING):
        count = write_noise([shard], tmp_path / "noise")
    assert "broken" in caplog.text
    found = read_manifest(tmp_path / "noise" / MANIFEST)
    assert len(found) == count > 0
    assert {clip.text for clip in found} == {""}
    assert all(clip.audio_filepath.name.startswith("loud-") for clip in found)
    store = build_store([tmp_path / "noise" / MANIFEST], tmp_path / "store")
    assert len(store) == count


def test_a_quiet_fleet_makes_an_empty_store(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clean.flac", speech(), SAMPLE_RATE)
    shard = tmp_path / "segments.jsonl"
    shard.write_text(
        json.dumps({"id": "a", "audio": "clean.flac", "duration_s": 2, "text": "", "device": "d"})
    )
    assert write_noise([shard], tmp_path / "noise") == 0
    with pytest.raises(ConfigError, match="no utterances"):
        build_store([tmp_path / "noise" / MANIFEST], tmp_path / "store")
    store = build_store([tmp_path / "noise" / MANIFEST], tmp_path / "store", allow_empty=True)
    assert len(store) == 0
    assert store.seconds == 0
