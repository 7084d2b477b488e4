"""Each operation against the same thing done to a waveform, and the promises of the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soxr
from scipy.signal import fftconvolve

from edge_runtime.features import open_frontend
from edge_runtime.manifest import SPEECH_POWER
from training.feature_augment import (
    FLOOR,
    Array,
    FeatureAugmentConfig,
    FeatureAugmenter,
    level,
    reverberate,
    stretch,
    warp,
)

RATE = 16_000
NOTHING = FeatureAugmentConfig(
    p_speed=0, p_warp=0, p_pause=0, p_room=0, p_noise=0, p_faint=0, p_channel=0, p_band_limit=0,
    p_gain=0, noise_only=0,
)  # fmt: skip


def compute(samples: Array) -> Array:
    return open_frontend("knf_nemo").compute(np.float32(samples))


def voice(seconds: float = 2.0, seed: int = 0) -> Array:
    """A gliding harmonic sound with a wandering formant, on and off like syllables."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formant = 900 + 600 * np.sin(2 * np.pi * 1.3 * time)
    sound = sum(
        np.exp(-(((k * pitch - formant) / 400) ** 2)) * np.sin(k * phase) for k in range(1, 60)
    )
    sound = sound + 0.02 * rng.standard_normal(len(time))
    return np.float32(0.05 * sound * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time)))


def config(**fields: object) -> FeatureAugmentConfig:
    values = {name: getattr(NOTHING, name) for name in NOTHING.__dataclass_fields__}
    return FeatureAugmentConfig(**{**values, **fields})  # type: ignore[arg-type]


def audible(log_mel: Array) -> np.ndarray:
    """Where there is sound within 40 dB of the loudest."""
    return log_mel > log_mel.max() - 4 * np.log(10)


def distance(first: Array, second: Array) -> float:
    frames = min(len(first), len(second))
    return float(np.abs(first[:frames] - second[:frames])[audible(second[:frames])].mean())


def test_without_any_change_features_come_back() -> None:
    features = compute(voice())
    augment = FeatureAugmenter(NOTHING)
    result = augment(features, np.random.default_rng(0))
    # Within 0.02 of the floor counts as silence: that is as well as float16 keeps it.
    np.testing.assert_allclose(result, features, atol=0.021)


def test_an_example_is_a_function_of_features_and_generator() -> None:
    features, other = compute(voice()).astype(np.float16), compute(voice(seed=1))
    before = features.copy()
    results = [
        FeatureAugmenter()(features, np.random.default_rng(7), babble=[other]) for _ in range(2)
    ]
    np.testing.assert_array_equal(*results)
    np.testing.assert_array_equal(features, before)
    different = FeatureAugmenter()(features, np.random.default_rng(8), babble=[other])
    assert different.shape != results[0].shape or not np.array_equal(different, results[0])


def test_everything_stays_finite_and_above_the_floor() -> None:
    augment, rng = FeatureAugmenter(), np.random.default_rng(0)
    silence = np.full((30, 80), FLOOR, np.float32)
    for features in (compute(voice()), silence, compute(voice(0.02)), compute(voice() * 1e-4)):
        for babble in ([], [silence], [features, silence]):
            for _ in range(30):
                result = augment(features, rng, babble=babble)
                assert result.dtype == np.float32
                assert np.isfinite(result).all()
                assert result.min() >= FLOOR


def test_lengths_are_those_drawn_ahead() -> None:
    augment, rng = FeatureAugmenter(), np.random.default_rng(0)
    frames = np.array([1, 2, 57, 200, 199])
    timing = augment.draw_timing(frames, rng)
    for index, count in enumerate(frames):
        features = compute(voice())[:count]
        result = augment(features, rng, timing=timing[index])
        assert len(result) == timing.frames[index]


def test_tempo_stays_in_its_range_and_pauses_below_theirs() -> None:
    timing = FeatureAugmenter().draw_timing(np.full(2000, 1000), np.random.default_rng(0))
    spoken = timing.frames - timing.lead - timing.tail
    assert 1000 / 1.18 - 1 <= spoken.min() < 900
    assert 1100 < spoken.max() <= 1000 / 0.85 + 1
    assert timing.lead.min() >= 0
    assert 80 < timing.lead.max() <= 100
    assert not np.array_equal(timing.lead, timing.tail)


def test_pauses_are_digital_silence_where_nothing_else_sounds() -> None:
    augment = FeatureAugmenter(config(p_pause=1.0))
    features = compute(voice())
    timing = augment.draw_timing(np.array([len(features)]), np.random.default_rng(3))[0]
    result = augment(features, np.random.default_rng(0), timing=timing)
    assert timing.lead > 0
    assert timing.tail > 0
    assert (result[: timing.lead] == FLOOR).all()
    assert (result[-timing.tail :] == FLOOR).all()
    np.testing.assert_allclose(result[timing.lead : -timing.tail], features, atol=0.021)


def test_gain_leaves_digital_silence_silent() -> None:
    features = compute(np.concatenate([voice(), np.zeros(RATE, np.float32)]))
    stored = features.astype(np.float16)  # as a store holds it
    augment = FeatureAugmenter(config(p_gain=1.0))
    for seed in range(5):
        result = augment(stored, np.random.default_rng(seed))
        assert (result[-80:] == FLOOR).all()
        change = (result - stored)[:150][audible(features[:150])]
        assert np.ptp(change) < 0.02
        assert abs(change.mean()) < 15 * np.log(10) / 10


@pytest.mark.parametrize("factor", [0.87, 1.1])
def test_tempo_and_tract_together_are_resampling(factor: float) -> None:
    samples = voice()
    faster = soxr.resample(samples, RATE * factor, RATE)
    expected = compute(faster)
    plain = compute(samples)
    changed = warp(stretch(plain, len(expected)), factor)
    assert distance(changed, expected) < 0.5
    assert distance(changed, expected) < 0.4 * distance(plain, expected)


def test_white_noise_is_that_of_the_waveform() -> None:
    samples = voice(4.0)
    rng = np.random.default_rng(1)
    features = compute(samples)
    augment = FeatureAugmenter(config(p_noise=1.0, snr_db=(10.0, 10.0), kinds=(1.0, 0.0, 0.0)))
    added = [np.exp(augment(features, rng)) - np.exp(features) for _ in range(20)]
    noise = rng.standard_normal(len(samples)).astype(np.float32)
    noise *= np.sqrt((samples**2).mean() / (noise**2).mean() / 10)
    expected = np.exp(compute(noise))
    # The level is right whatever the colour of the noise …
    levels = [level(np.maximum(sound, 0)) for sound in added]
    np.testing.assert_allclose(levels, level(expected), rtol=0.05)
    # … and so is how single frames scatter around the mean (of a bin in the middle).
    relative = expected[:, 40] / expected[:, 40].mean()
    scatter = [
        (sound[:, 40] / sound[:, 40].mean()).std()
        for sound in map(augment._stationary, [400] * 20, [rng] * 20)
    ]
    assert np.median(scatter) == pytest.approx(relative.std(), rel=0.5)


def test_level_is_the_mean_square_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    for samples in (voice(), rng.standard_normal(RATE).astype(np.float32) * 0.1):
        mean_square = float((samples**2).mean())
        assert level(np.exp(compute(samples))) == pytest.approx(mean_square, rel=0.1)


def test_babble_is_other_speakers_at_the_level_asked_for() -> None:
    features, other = compute(voice()), compute(voice(1.3, seed=5))
    at_0_db = config(p_noise=1.0, snr_db=(0.0, 0.0), kinds=(0.0, 0.0, 1.0))
    one = FeatureAugmenter(dataclasses.replace(at_0_db, talkers=1))
    added = np.exp(one(features, np.random.default_rng(0), babble=[other])) - np.exp(features)
    assert level(added) == pytest.approx(level(np.exp(features)), rel=0.02)
    # It is what the other says from some moment on.
    spread = []
    for start in range(len(other)):
        spoken = other.take(range(start, start + len(added)), axis=0, mode="wrap")
        ratio = added[audible(spoken)] / np.exp(spoken[audible(spoken)])
        spread.append(ratio.std() / ratio.mean())
    assert min(spread) < 0.05

    # Many together leave fewer gaps.
    def gaps(augment: FeatureAugmenter, seed: int) -> float:
        result = augment(features, np.random.default_rng(seed), babble=[other])
        return float(np.std(np.log((np.exp(result) - np.exp(features)).sum(axis=1).clip(1e-9))))

    many = FeatureAugmenter(dataclasses.replace(at_0_db, talkers=6))
    assert np.mean([gaps(many, seed) for seed in range(20)]) < np.mean(
        [gaps(one, seed) for seed in range(20)]
    )


def test_the_noise_of_a_fleet_is_laid_under_speech_of_any_level_as_loud_as_it_was_heard() -> None:
    rng = np.random.default_rng(2)
    wave = rng.standard_normal(RATE).astype(np.float32)
    wave *= np.sqrt(SPEECH_POWER / 10 ** (6 / 10) / np.mean(wave**2))  # heard at 6 dB
    heard = compute(wave)
    augment = FeatureAugmenter(config(field=1.0, field_snr_db=(2.0, 2.0)), [heard])
    for gain in (0.1, 1.0, 3.0):
        features = compute(gain * voice())
        added = np.exp(augment(features, rng)) - np.exp(features)
        expected = level(np.exp(features)) / 10 ** (8 / 10)
        assert level(np.maximum(added, 0)) == pytest.approx(expected, rel=0.1)


def test_the_noise_of_a_fleet_takes_the_place_of_other_noise_in_its_share_of_the_examples() -> None:
    features, heard = compute(voice()), compute(0.01 * voice(1.0, seed=3))
    augment = FeatureAugmenter(config(field=0.3), [heard])
    rng = np.random.default_rng(0)
    altered = [not np.allclose(augment(features, rng), features, atol=0.021) for _ in range(200)]
    assert np.mean(altered) == pytest.approx(0.3, abs=0.1)
    without = FeatureAugmenter(config(field=1.0))
    np.testing.assert_allclose(without(features, rng), features, atol=0.021)


def test_hum_is_low_and_steady() -> None:
    quiet = np.full((50, 80), FLOOR, np.float32)
    quiet[10:20] = compute(voice())[10:20]
    augment = FeatureAugmenter(config(p_noise=1.0, snr_db=(5.0, 5.0), kinds=(0.0, 1.0, 0.0)))
    result = augment(quiet, np.random.default_rng(0))
    assert np.ptp(result[25:], axis=0).max() == 0
    assert result[30, :10].max() > result[30, 45:].max() + 5


def test_reverberation_is_that_of_a_decaying_room() -> None:
    samples = voice(3.0)
    rng = np.random.default_rng(2)
    time = np.arange(RATE // 2) / RATE
    late = rng.standard_normal(len(time)) * 10 ** (-3 * time / 0.4)
    late[: RATE // 100] = 0
    late *= np.sqrt(10**-0.3 / (late**2).sum())  # 3 dB below the direct sound
    late[0] = 1
    expected = compute(fftconvolve(samples, late)[: len(samples)])
    plain = compute(samples)
    energy = np.exp(plain)
    reverberate(energy, 0.4, 3.0)
    assert distance(np.log(energy), expected) < 0.6 * distance(plain, expected)


def test_reverberation_decays_by_60_db_in_its_time() -> None:
    energy = np.zeros((100, 80), np.float32)
    energy[10] = 1.0
    reverberate(energy, 0.5, 0.0)
    assert (energy[:10] == 0).all()
    assert (energy[10] == 1).all()
    np.testing.assert_allclose(10 * np.log10(energy[61] / energy[11])[:40], -60, atol=0.1)
    assert (energy[61, 40:] < energy[61, :40] / 100).all()  # high frequencies sooner
    np.testing.assert_allclose(energy[11:].sum(axis=0), 1.0, rtol=0.01)


def test_examples_of_noise_have_any_length_and_level() -> None:
    rng = np.random.default_rng(0)
    levels = []
    for frames in [1, 3, 250, 5000] * 10:
        noise = FeatureAugmenter().noise(frames, rng)
        assert noise.shape == (frames, 80)
        assert noise.min() >= FLOOR
        levels.append(noise.mean())
    assert min(levels) == pytest.approx(float(FLOOR))  # digital silence among them
    assert max(levels) > FLOOR + 5


def test_strength_scales_how_often_and_not_how_much() -> None:
    config, half = FeatureAugmentConfig(), FeatureAugmentConfig().scaled(0.5)
    assert half.p_noise == 0.5 * config.p_noise
    assert half.p_speed == 0.5 * config.p_speed
    assert half.snr_db == config.snr_db
    features = np.full((50, 80), -5.0, np.float32)
    augmenter = FeatureAugmenter(FeatureAugmentConfig().scaled(0.0))
    assert np.allclose(augmenter(features, np.random.default_rng(0)), features, atol=1e-4)
