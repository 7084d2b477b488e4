from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotrain_cloud.labels.filters import FilterSettings, check_speech, failed
from autotrain_cloud.segments import Samples, Segment, segment_audio
from autotrain_cloud.speech import find_speech

SAMPLES = Path(__file__).parents[2] / "samples"
RATE = 16_000


def passes(samples: Samples) -> bool:
    return not failed(check_speech(find_speech(samples), FilterSettings()))


def speech(name: str) -> Samples:
    segment = Segment(id="a", audio=str(SAMPLES / name), duration_s=1, text="", device="d")
    return segment_audio(segment, Path())


def noise(slope: float, seconds: float, level: float, seed: int = 0) -> Samples:
    """Power falls with frequency to the `slope`: 0 white, 1 pink, 2 brown."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(round(seconds * RATE)))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-slope / 2)
    wave = np.fft.irfft(spectrum, round(seconds * RATE))
    return (level * wave / np.sqrt(np.mean(np.square(wave)))).astype(np.float32)


def harmonics(seconds: float, pitch: float) -> Samples:
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.1 * sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3))).astype(np.float32)


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.flac")))
def test_speech_passes_quiet_or_loud_clean_or_noisy(name: str) -> None:
    samples = speech(name)
    assert passes(samples)
    assert passes((0.02 * samples).astype(np.float32))
    level = float(np.sqrt(np.mean(np.square(samples))))
    noisy = samples + noise(1, len(samples) / RATE, level * 0.5)
    assert passes(noisy.astype(np.float32))


@pytest.mark.parametrize("seconds", [0.5, 2, 8])
@pytest.mark.parametrize("level", [0.001, 0.03, 0.3])
@pytest.mark.parametrize("slope", [0, 1, 2])
def test_noise_does_not_pass(slope: float, level: float, seconds: float) -> None:
    assert not passes(noise(slope, seconds, level))


def test_neither_silence_nor_a_hum_nor_beeps_nor_clicks_pass() -> None:
    hiss = noise(0, 4, 0.001)
    beeps = np.where(np.arange(4 * RATE) // 8000 % 2 == 0, harmonics(4, 880), 0)
    clicks = hiss.copy()
    clicks[:: RATE // 2] += 0.5
    for samples in (
        np.zeros(4 * RATE),
        hiss + harmonics(4, 100),
        hiss + beeps,
        clicks,
        np.zeros(0),
    ):
        assert not passes(samples.astype(np.float32))


def test_evidence_adds_up() -> None:
    samples = speech("flite-slt.flac")
    found = find_speech(samples)
    assert 0 < found.voiced_s <= found.speech_s + 0.1 <= len(samples) / RATE + 0.1
    assert found.snr_db > 10
    quieter = find_speech((samples / 10).astype(np.float32))
    assert quieter.level_db == pytest.approx(found.level_db - 20, abs=0.1)
