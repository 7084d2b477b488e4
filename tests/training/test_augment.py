import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import (
    AUGMENTATIONS,
    RATE,
    AugmentConfig,
    Augmenter,
    Samples,
    active_power,
    add_noise,
    band_limit,
    change_speed,
    make_noise,
    reverberate,
    room_response,
    shift_pitch,
    stretch,
)


def tone(hertz: float, seconds: float = 1.0) -> Samples:
    t = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def speechlike(seed: int = 0, seconds: float = 2.0) -> Samples:
    """Syllables: bursts of a voiced sound with pauses between."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    syllables = np.clip(np.sin(2 * np.pi * 3.0 * np.arange(n) / RATE), 0.0, 1.0)
    voice = np.sign(tone(120.0 + 10 * seed, seconds)) + 0.1 * rng.standard_normal(n)
    return (0.3 * syllables * voice).astype(np.float32)


def pitch_of(samples: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * RATE / len(samples)


def test_no_augmentation_returns_the_very_samples() -> None:
    x = speechlike()
    assert np.array_equal(Augmenter(AUGMENTATIONS["none"])(x, np.random.default_rng(0)), x)


@pytest.mark.parametrize("name", ["light", "full"])
def test_the_seed_decides_everything(name: str) -> None:
    augment, x, babble = (
        Augmenter(AUGMENTATIONS[name]),
        speechlike(),
        [speechlike(1), speechlike(2)],
    )
    runs = [
        [augment(x, np.random.default_rng(seed), babble=babble) for seed in range(12)]
        for _ in range(2)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    assert len({a.tobytes() for a in runs[0]}) > 6  # and seeds differ


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 50, 400, 8000]),
    st.sampled_from(["speech", "silence", "loud"]),
)
def test_any_length_and_level_stays_finite_and_within_full_scale(
    seed: int, n: int, kind: str
) -> None:
    x = {
        "speech": speechlike(),
        "silence": np.zeros(32000, np.float32),
        "loud": np.ones(32000, np.float32),
    }[kind][:n]
    everything = AugmentConfig(
        p_speed=1, p_pitch=1, p_room=1, p_noise=1, p_band=1, p_gain=1, p_clip=1, gain=(-40, 40)
    )  # fmt: skip
    before = x.copy()
    y = Augmenter(everything)(x, np.random.default_rng(seed), babble=[speechlike(1)])
    assert y.dtype == np.float32 and y.ndim == 1
    assert np.isfinite(y).all() and np.abs(y).max(initial=0.0) <= 1.0
    assert np.array_equal(x, before)  # the caller's samples are left alone


def test_speed_changes_length_and_pitch_together() -> None:
    y = change_speed(tone(200.0), 1.25)
    assert len(y) == pytest.approx(RATE / 1.25, abs=2)
    assert pitch_of(y) == pytest.approx(250.0, rel=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_stretching_keeps_pitch_and_level(factor: float) -> None:
    x = tone(200.0)
    y = stretch(x, factor)
    assert len(y) == round(len(x) * factor)
    assert pitch_of(y) == pytest.approx(200.0, rel=0.01)
    assert np.std(y[1000:-1000]) == pytest.approx(np.std(x), rel=0.02)


@pytest.mark.parametrize("semitones", [-3.0, 2.0])
def test_shifting_pitch_keeps_length(semitones: float) -> None:
    x = tone(200.0)
    y = shift_pitch(x, semitones)
    assert len(y) == len(x)
    assert pitch_of(y) == pytest.approx(200.0 * 2 ** (semitones / 12), rel=0.01)


@pytest.mark.parametrize("rt60", [0.2, 0.4, 0.6])
def test_a_room_decays_by_60_db_in_its_reverberation_time(rt60: float) -> None:
    measured = []
    for seed in range(8):
        h = room_response(rt60, 1.5, np.random.default_rng(seed)).astype(np.float64)
        energy = np.cumsum(h[::-1] ** 2)[::-1]  # Schroeder integration (1965)
        level = 10 * np.log10(energy / energy[0] + 1e-12)
        measured.append((np.argmax(level < -25) - np.argmax(level < -5)) / RATE * 3)
    assert np.median(measured) == pytest.approx(rt60, rel=0.25)


def test_the_direct_sound_leads_so_that_nothing_moves_in_time() -> None:
    h = room_response(0.4, 1.0, np.random.default_rng(0))
    assert h[0] == 1.0
    click = np.zeros(RATE, np.float32)
    click[5000] = 0.5
    wet = reverberate(click, h)
    assert len(wet) == len(click)
    assert not np.abs(wet[:5000]).max() > 1e-6
    assert np.abs(wet).max() == pytest.approx(0.5, rel=1e-5)


def test_a_farther_speaker_is_heard_through_more_room() -> None:
    def reverberant(distance: float) -> float:
        rooms = (room_response(0.4, distance, np.random.default_rng(s)) for s in range(10))
        return float(np.mean([np.sum(h[1:] ** 2) for h in rooms]))

    assert reverberant(0.3) < reverberant(1.0) < reverberant(2.0)


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "hum", "babble"])
@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_the_stated_ratio_to_the_active_speech(kind: str, snr: float) -> None:
    x = 0.1 * speechlike()  # quiet enough not to be scaled down
    noise = make_noise(kind, len(x), np.random.default_rng(1), [speechlike(1), speechlike(2)])
    added = add_noise(x, noise, snr) - x
    ratio = 10 * np.log10(active_power(x) / np.mean(added.astype(np.float64) ** 2))
    assert ratio == pytest.approx(snr, abs=0.05)


def test_pauses_do_not_count_as_speech() -> None:
    x = speechlike()
    padded = np.pad(x, RATE)
    assert active_power(padded) == pytest.approx(active_power(x), rel=0.02)


def test_coloured_noise_slopes_as_it_should() -> None:
    for kind, db_per_octave in (("white", 0.0), ("pink", -3.0), ("brown", -6.0)):
        power = np.abs(np.fft.rfft(make_noise(kind, 2**17, np.random.default_rng(0)))) ** 2
        octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(10, 16)]
        assert np.mean(np.diff(10 * np.log10(octaves))) == pytest.approx(db_per_octave, abs=0.2)


def test_nobody_is_their_own_background_talk() -> None:
    config = AugmentConfig(p_noise=1.0, noises=("babble",), snr=(0.0, 0.0))
    x = speechlike()
    alone = Augmenter(config)(x, np.random.default_rng(0))
    assert np.array_equal(Augmenter(config)(x, np.random.default_rng(0), babble=[x]), alone)
    assert not np.array_equal(
        Augmenter(config)(x, np.random.default_rng(0), babble=[speechlike(1)]), alone
    )


def test_an_unknown_noise_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="unknown noise 'blue'"):
        make_noise("blue", 100, np.random.default_rng(0))


def test_a_band_limit_removes_what_is_outside_and_keeps_what_is_inside() -> None:
    low, middle, high = (
        np.std(band_limit(tone(f), 300, 3400)) / np.std(tone(f)) for f in (50, 1000, 7000)
    )
    assert low < 0.05 and high < 0.05 and middle == pytest.approx(1.0, abs=0.05)
