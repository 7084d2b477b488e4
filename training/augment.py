"""Waveform augmentation: what happens to speech between a mouth and a model.

The stages are in the order of the real path, each with its own probability::

    speaker   speed, pitch
    room      reflections and a decaying tail
    noise     white, pink, brown, mains hum, or other people talking, at a stated SNR
    device    band limits, gain, clipping

`Augmenter` is a pure function of the samples and the generator: the same seed gives the same bits.
No stage shifts the speech in time: the direct sound leads the room's response, and filters have
fractions of a millisecond of delay.  Speed alone changes the length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr
from scipy import signal

Samples = npt.NDArray[np.float32]
Range = tuple[float, float]

RATE = 16_000  # Hz
_SOUND = 343.0  # m/s


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How often each thing happens, and how strongly. The defaults do nothing."""

    p_speed: float = 0.0
    speed: Range = (0.9, 1.1)  # tempo and pitch together. Ko et al. 2015
    p_pitch: float = 0.0
    pitch: Range = (-2.0, 2.0)  # semitones, at the same tempo
    p_room: float = 0.0
    rt60: Range = (0.1, 0.6)  # s, from a furnished room to a hall
    distance: Range = (0.3, 2.0)  # m between mouth and microphone
    p_noise: float = 0.0
    snr: Range = (5.0, 30.0)  # dB, speech while it is active against the noise
    noises: tuple[str, ...] = ("white", "pink", "brown", "hum", "babble")
    p_band: float = 0.0
    lowest: Range = (50.0, 300.0)  # Hz
    highest: Range = (3400.0, 7500.0)  # Hz
    p_gain: float = 0.0
    gain: Range = (-15.0, 6.0)  # dB
    p_clip: float = 0.0
    clip: Range = (0.3, 0.9)  # of the peak


AUGMENTATIONS: Mapping[str, AugmentConfig] = {
    "none": AugmentConfig(),
    "light": AugmentConfig(
        p_speed=0.3, p_room=0.2, rt60=(0.1, 0.3), distance=(0.3, 1.0), p_noise=0.3,
        snr=(15.0, 35.0), p_gain=0.3,
    ),
    "full": AugmentConfig(
        p_speed=0.5, p_pitch=0.25, p_room=0.5, p_noise=0.7, p_band=0.25, p_gain=0.5, p_clip=0.05,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Augmenter:
    """Applies a configuration: `Augmenter(AUGMENTATIONS["full"])(samples, rng)`."""

    config: AugmentConfig

    def __call__(
        self, samples: Samples, rng: np.random.Generator, *, babble: Sequence[Samples] = ()
    ) -> Samples:
        """f32 [n] in [-1, 1] at 16 kHz -> f32 [m] in [-1, 1].

        `babble` is speech to mix as background talk; `samples` itself is passed over in it, and
        where there is no other, pink noise stands in.
        """
        if not len(samples):
            return samples
        c = self.config
        if _happens(c.p_speed, rng):
            samples = change_speed(samples, rng.uniform(*c.speed))
        if _happens(c.p_pitch, rng):
            samples = shift_pitch(samples, rng.uniform(*c.pitch))
        if _happens(c.p_room, rng):
            response = room_response(rng.uniform(*c.rt60), rng.uniform(*c.distance), rng)
            samples = reverberate(samples, response)
        if _happens(c.p_noise, rng):
            kind = c.noises[rng.integers(len(c.noises))]
            others = [other for other in babble if other is not samples]
            samples = add_noise(
                samples, make_noise(kind, len(samples), rng, others), rng.uniform(*c.snr)
            )
        if _happens(c.p_band, rng):
            samples = band_limit(samples, rng.uniform(*c.lowest), rng.uniform(*c.highest))
        if _happens(c.p_gain, rng):
            samples = samples * np.float32(10 ** (rng.uniform(*c.gain) / 20))
        if _happens(c.p_clip, rng):
            limit = np.float32(np.abs(samples).max(initial=0.0) * rng.uniform(*c.clip))
            samples = np.clip(samples, -limit, limit)
        return np.clip(samples, np.float32(-1.0), np.float32(1.0))


def _happens(probability: float, rng: np.random.Generator) -> bool:
    # The draw is made even for probability 0, so that presets see the same random numbers.
    return bool(rng.random() < probability)


def change_speed(samples: Samples, factor: float) -> Samples:
    """Play `factor` times as fast, and as high: [n] -> [n / factor]."""
    return np.asarray(soxr.resample(samples, factor * RATE, RATE), np.float32)


def stretch(samples: Samples, factor: float) -> Samples:
    """Make speech `factor` times as long at its own pitch: [n] -> [n * factor].

    WSOLA (Verhelst & Roelands 1993): overlapping frames are laid at a fixed hop, each taken from
    where the source best continues the frame before it, within 8 ms of where tempo asks for.
    """
    frame, reach = RATE // 40, RATE // 125  # 25 ms, 8 ms
    hop = frame // 2
    window = np.hanning(frame + 1)[:-1].astype(np.float32)  # halves sum to one
    n_out = round(len(samples) * factor)
    n_frames = -(-n_out // hop) + 1
    source = np.pad(samples, (hop + reach, frame + hop + 2 * reach + hop))
    total = np.cumsum(np.pad(source.astype(np.float64) ** 2, (1, 0)))
    energy = total[frame:] - total[:-frame]  # of the frame that begins at each sample
    out = np.zeros((n_frames + 1) * hop, np.float32)
    at = reach  # where the frame is taken from, in `source`
    for i in range(n_frames):
        if i:
            ideal = min(int(i * hop / factor) + reach, len(source) - frame - reach - hop)
            natural = source[at + hop : at + hop + frame]  # what would follow the last frame
            near = slice(ideal - reach, ideal + reach + 1)
            match = np.correlate(source[near.start : near.stop - 1 + frame], natural, "valid")
            at = near.start + int(np.argmax(match / np.sqrt(energy[near] + 1e-6)))
        out[i * hop : i * hop + frame] += window * source[at : at + frame]
    return out[hop : hop + n_out]


def shift_pitch(samples: Samples, semitones: float) -> Samples:
    """Higher or lower at the same tempo: [n] -> [n]."""
    factor = 2 ** (semitones / 12)
    shifted = change_speed(stretch(samples, factor), factor)[: len(samples)]
    return np.pad(shifted, (0, len(samples) - len(shifted)))


def room_response(rt60: float, distance: float, rng: np.random.Generator) -> Samples:
    """Impulse response of a random shoebox room: f32 [rt60 * 16000]; [0] = 1 is the direct sound.

    Early reflections by the image method (Allen & Berkley 1979), then a diffuse tail of noise that
    falls by 60 dB in `rt60` seconds, at the level that diffuse-field theory gives for `distance`
    metres (critical distance 0.057 * sqrt(V / RT60)).
    """
    size = rng.uniform((3.0, 2.5, 2.3), (9.0, 7.0, 3.5))  # m
    mouth = rng.uniform(0.15, 0.85, 3) * size
    direction = rng.standard_normal(3)
    ear = np.clip(mouth + direction / np.linalg.norm(direction) * distance, 0.05, size - 0.05)
    distance = max(float(np.linalg.norm(ear - mouth)), 0.1)
    volume = float(np.prod(size))
    surface = 2 * float(size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    # Eyring: reflection = sqrt(1 - absorption) of the walls that would give this RT60
    reflection = float(np.exp(-0.1611 * volume / (surface * rt60) / 2))

    turns = np.arange(-2, 3)
    turned = 2 * turns[:, None] * size  # [5, 3]
    images = np.concatenate((turned + mouth, turned - mouth))  # [10, 3], per axis
    bounces = np.concatenate((abs(2 * turns), abs(2 * turns - 1)))  # [10] walls met
    dx, dy, dz = np.meshgrid(*(images - ear).T, indexing="ij")  # each [10, 10, 10]
    paths = np.sqrt(dx**2 + dy**2 + dz**2)  # m from every image
    order = bounces[:, None, None] + bounces[None, :, None] + bounces
    delay = np.rint((paths - distance) / _SOUND * RATE).astype(int)
    n = int(rt60 * RATE)
    mixing = min(int(2e-3 * volume**0.5 * RATE), n)  # twice sqrt(V) ms: then the field is diffuse
    early = (order > 0) & (delay >= 0) & (delay < mixing)
    response = np.zeros(n)
    sign = rng.choice((-1.0, 1.0), order.shape)  # walls scatter: no comb of equal signs
    np.add.at(response, delay[early], (sign * reflection**order * distance / paths)[early])

    # Diffuse energy relative to the direct sound's, spread over an exponential decay.
    diffuse = (distance / 0.057) ** 2 * rt60 / volume
    decay = 6 * np.log(10) / (rt60 * RATE)  # of energy, per sample
    tail = rng.standard_normal(n) * np.sqrt(diffuse * decay * np.exp(-decay * np.arange(n)))
    response[mixing:] += tail[mixing:]
    response[0] = 1.0
    return response.astype(np.float32)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """Speech in a room, cut to its own length and scaled to its own peak: [n] -> [n]."""
    wet = signal.fftconvolve(samples, response)[: len(samples)].astype(np.float32)
    peak = np.abs(wet).max(initial=0.0)
    scale = np.abs(samples).max(initial=0.0) / peak if peak > 0 else 1.0
    return np.asarray(wet * np.float32(scale), np.float32)


def make_noise(
    kind: str, n: int, rng: np.random.Generator, babble: Sequence[Samples] = ()
) -> Samples:
    """Noise of one kind, f32 [n], at any level. Raises ValueError for an unknown kind."""
    if kind == "hum":
        seconds = np.arange(n) / RATE
        mains = rng.choice((50.0, 60.0))
        total = np.zeros(n)
        for harmonic in range(1, 9):
            level, phase = rng.uniform(0, 1 / harmonic), rng.uniform(0, 2 * np.pi)
            total += level * np.sin(2 * np.pi * mains * harmonic * seconds + phase)
        return total.astype(np.float32)
    voices = [voice for voice in babble if voice.any()]
    if kind == "babble" and voices:
        total = np.zeros(n)
        for _ in range(rng.integers(2, 7)):
            voice = voices[rng.integers(len(voices))]
            told = np.roll(np.resize(voice, max(n, len(voice))), rng.integers(len(voice)))[:n]
            total += told / np.sqrt(np.mean(voice**2))
        return total.astype(np.float32)
    slopes = {"white": 0.0, "pink": -0.5, "brown": -1.0, "babble": -0.5}  # of amplitude over f
    if kind not in slopes:
        raise ValueError(f"unknown noise {kind!r}")
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 20.0)  # flat below hearing
    return np.asarray(np.fft.irfft(spectrum * f ** slopes[kind], n), np.float32)


def active_power(samples: Samples) -> float:
    """Mean square of the 20 ms frames within 30 dB of the loudest: pauses do not count."""
    frame = RATE // 50
    n = max(len(samples) // frame, 1) * frame
    power = (np.resize(samples, n).reshape(-1, frame).astype(np.float64) ** 2).mean(axis=1)
    return float(power[power >= power.max() * 1e-3].mean())


def add_noise(samples: Samples, noise: Samples, snr: float) -> Samples:
    """Mix in `noise` ([n], any level) `snr` dB below the active speech; scaled down if it clips."""
    noise_power = float(np.mean(noise.astype(np.float64) ** 2))
    if noise_power == 0.0 or not samples.any():
        return samples
    gain = np.sqrt(active_power(samples) / noise_power * 10 ** (-snr / 10))
    mixed = samples + noise * np.float32(gain)
    return np.asarray(mixed / max(np.abs(mixed).max(), 1.0), np.float32)


def band_limit(samples: Samples, lowest: float, highest: float) -> Samples:
    """Keep `lowest`..`highest` Hz, as a small microphone or a telephone does: [n] -> [n]."""
    sos = signal.butter(4, (lowest, highest), "bandpass", fs=RATE, output="sos")
    return np.asarray(signal.sosfilt(sos, samples), np.float32)
