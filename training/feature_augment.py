"""Augmentation of log-mel features: new tempo, vocal tract, room, microphone and noise every epoch.

    augment = FeatureAugmenter()
    altered = augment(features, rng, babble=others)     # f32 [frames, 80] -> f32 [frames', 80]

The same changes made to waveforms cost a filter bank per example and epoch; here an example costs a
few passes over an array a two-hundredth the size.  What makes this possible is that the interesting
operations are nearly exact on log-mel energies: a channel adds a curve, independent sounds add in
power, late reverberation is an exponential decay of energy, and tempo and vocal-tract length only
move energy along an axis.  What it cannot do are early reflections, pitch, codecs and clipping:
those belong to the waveform (`training.augment`).

Order is that of nature: voice (tempo, tract), pauses before and after, room, noise beside it, then
one microphone and one volume control for all.  Digital silence, energy 0, stays silent throughout.
Everything random comes from `rng`, so an example is a function of (features, rng).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_runtime.features import FEATURE_DIM, SAMPLE_RATE, open_frontend
from edge_runtime.manifest import SPEECH_POWER

Array: TypeAlias = NDArray[np.float32]

FLOOR_ENERGY = np.float32(np.finfo(np.float32).eps)  # knf_nemo's log(max(energy, FLT_EPSILON))
FLOOR = np.float32(np.log(FLOOR_ENERGY))  # log-mel of digital silence
_SILENT = FLOOR + np.float32(0.02)  # float16 keeps the floor to 0.004
_FRAME_S = 0.01
_DB = np.float32(np.log(10) / 10)  # nats of energy per decibel
_BANK_S = 40.0  # s of noise to cut pieces from


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureAugmentConfig:
    """How often (`p_*`) and how strongly. Ranges are drawn from evenly unless said otherwise."""

    p_speed: float = 0.8
    speed: tuple[float, float] = (0.85, 1.18)  # 1.1: 10 % faster
    p_warp: float = 0.7
    warp: tuple[float, float] = (0.85, 1.15)  # factor on frequencies; > 1: a shorter vocal tract
    p_pause: float = 0.6  # before, and again after
    pause_s: float = 1.0  # at most; short ones are drawn more often

    p_room: float = 0.35
    rt60_s: tuple[float, float] = (0.1, 0.6)
    direct_to_late_db: tuple[float, float] = (-2.0, 18.0)

    p_noise: float = 0.65
    snr_db: tuple[float, float] = (-5.0, 30.0)  # the upper half drawn three times as often
    p_faint: float = 0.6  # of the rest: a microphone's own noise
    faint_snr_db: tuple[float, float] = (30.0, 60.0)
    kinds: tuple[float, float, float] = (0.4, 0.1, 0.5)  # stationary, hum, babble
    talkers: int = 6  # at most, in babble
    field: float = 0.5  # share of examples that get the noise of a fleet, where there is any
    field_snr_db: tuple[float, float] = (-3.0, 6.0)  # beside the ratio it was heard at

    p_channel: float = 0.6
    channel_db: float = 10.0  # of each knot of the curve, either way
    p_band_limit: float = 0.15
    p_gain: float = 0.8
    gain_db: float = 15.0  # either way

    noise_only: float = 0.02  # share of examples that become noise without text

    def scaled(self, strength: float) -> FeatureAugmentConfig:
        """The same changes, each happening `strength` times as often."""
        names = [field.name for field in dataclasses.fields(self) if field.name.startswith("p_")]
        return dataclasses.replace(self, **{n: strength * getattr(self, n) for n in names})


@dataclass(frozen=True, slots=True)
class Timing:
    """What changes lengths, drawn ahead of the rest so that batches can be cut to measure.

    Arrays (n,) for n examples; `timing[i]` is that of one, with scalars.
    """

    speed: NDArray[np.float64]
    lead: NDArray[np.int64]  # frames of pause before …
    tail: NDArray[np.int64]  # … and after
    frames: NDArray[np.int64]  # of the result

    def __getitem__(self, index: object) -> Timing:
        return Timing(*(getattr(self, name)[index] for name in ("speed", "lead", "tail", "frames")))


class FeatureAugmenter:
    """Immutable, but for the noise it makes itself on first use (0.2 s)."""

    def __init__(
        self,
        config: FeatureAugmentConfig | None = None,
        field: Sequence[NDArray[np.floating]] = (),
    ) -> None:
        """`field`: log-mel [frames, 80] of noise as loud as beside speech of SPEECH_POWER."""
        self.config = config or FeatureAugmentConfig()
        self.field = field

    def __call__(
        self,
        features: NDArray[np.floating],
        rng: np.random.Generator,
        *,
        babble: Sequence[NDArray[np.floating]] = (),
        timing: Timing | None = None,
    ) -> Array:
        """One altered example.

        Args:
            features: [frames, 80] log-mel, at least one frame.
            babble: [any, 80] log-mel of others speaking; without them there is no babble.
            timing: one entry of `draw_timing`; drawn here if None.

        Returns:
            f32 [timing.frames, 80], nowhere below FLOOR.
        """
        config = self.config
        if timing is None:
            timing = self.draw_timing(np.array([len(features)]), rng)[0]
        log_mel = np.asarray(features, np.float32)
        spoken = int(timing.frames - timing.lead - timing.tail)
        if spoken != len(log_mel):
            log_mel = stretch(log_mel, spoken)
        if rng.random() < config.p_warp:
            log_mel = warp(log_mel, rng.uniform(*config.warp))
        energy = np.zeros((int(timing.frames), FEATURE_DIM), np.float32)
        voice = energy[timing.lead : timing.lead + spoken]
        np.exp(log_mel, out=voice)
        voice[log_mel < _SILENT] = 0.0
        loudness = level(voice)
        if rng.random() < config.p_room:
            reverberate(energy, rng.uniform(*config.rt60_s), rng.uniform(*config.direct_to_late_db))
        if loudness > 0:
            self._add_noise(energy, loudness, rng, babble)
        self._record(energy, rng)
        return np.log(np.maximum(energy, FLOOR_ENERGY, out=energy), out=energy)

    def draw_timing(self, frames: NDArray[np.integer], rng: np.random.Generator) -> Timing:
        """Tempo and pauses of examples of `frames` (n,) frames."""
        config, n = self.config, len(frames)
        speed = np.where(rng.random(n) < config.p_speed, rng.uniform(*config.speed, n), 1.0)
        lead, tail = (
            (
                (rng.random(n) < config.p_pause) * rng.random(n) ** 2 * config.pause_s / _FRAME_S
            ).astype(np.int64)
            for _ in range(2)
        )
        spoken = np.maximum(1, np.round(frames / speed).astype(np.int64))
        return Timing(speed, lead, tail, spoken + lead + tail)

    def noise(self, frames: int, rng: np.random.Generator) -> Array:
        """An example without speech: noise at any level, or digital silence; f32 [frames, 80]."""
        energy = np.zeros((frames, FEATURE_DIM), np.float32)
        if rng.random() < 0.8:
            # The mean square of speech is around 0.003; this is noise of speech up to 60 dB below.
            self._add_noise(energy, 0.003 * 10 ** rng.uniform(-6, 0), rng)
        self._record(energy, rng)
        return np.log(np.maximum(energy, FLOOR_ENERGY, out=energy), out=energy)

    def _add_noise(
        self,
        energy: Array,
        loudness: float,
        rng: np.random.Generator,
        babble: Sequence[NDArray[np.floating]] = (),
    ) -> None:
        """Add to `energy` [frames, 80] in place what goes with speech of level `loudness`."""
        config = self.config
        if len(self.field) and rng.random() < config.field:
            heard = _piece(self.field[int(rng.integers(len(self.field)))], len(energy), rng)
            snr = rng.uniform(*config.field_snr_db)
            energy += heard * np.float32(loudness / SPEECH_POWER * 10 ** (-snr / 10))
            return
        if rng.random() < config.p_noise:
            low, high = config.snr_db
            snr = low + (high - low) * np.sqrt(rng.random())
            kind = rng.choice(3, p=config.kinds)
        elif rng.random() < config.p_faint:
            snr, kind = rng.uniform(*config.faint_snr_db), 0
        else:
            return
        if kind == 2 and babble:
            sound = self._babble(len(energy), rng, babble)
        elif kind == 1:
            sound = np.broadcast_to(_hum(rng), energy.shape)
        else:
            sound = self._stationary(len(energy), rng)
        if (present := level(sound)) > 0:
            energy += sound * np.float32(loudness / present * 10 ** (-snr / 10))

    def _babble(
        self, frames: int, rng: np.random.Generator, babble: Sequence[NDArray[np.floating]]
    ) -> Array:
        """One to `talkers` of the others, equally loud, each from a place of its own."""
        sound = np.zeros((frames, FEATURE_DIM), np.float32)
        for _ in range(rng.integers(1, self.config.talkers + 1)):
            energy = _piece(babble[int(rng.integers(len(babble)))], frames, rng)
            if (present := level(energy)) > 0:
                sound += energy / np.float32(present)
        return sound

    def _stationary(self, frames: int, rng: np.random.Generator) -> Array:
        """Noise of a random colour whose level wanders: energy [frames, 80]."""
        bank = _noise_bank()
        start = int(rng.integers(len(bank)))
        sound = bank.take(range(start, start + frames), axis=0, mode="wrap")
        # White to brown and a little beyond, with a random curve on top.
        slope = np.float32(rng.uniform(-0.3, 2.2))
        colour = _curve(rng, 6.0) - slope * _LOG_HZ
        sound *= np.exp(colour - colour.max())
        if rng.random() < 0.5:
            knots = max(2, frames // 50)
            wander = np.interp(
                np.arange(frames), np.linspace(0, frames, knots), rng.normal(0, 4.0, knots)
            )  # dB
            sound *= np.exp(wander.astype(np.float32) * _DB)[:, None]
        return sound

    def _record(self, energy: Array, rng: np.random.Generator) -> None:
        """Microphone and volume, in place."""
        config = self.config
        curve = np.zeros(FEATURE_DIM, np.float32)  # nats
        if rng.random() < config.p_channel:
            curve += _curve(rng, config.channel_db)
        if rng.random() < config.p_band_limit:
            curve += _band_limit(rng)
        if rng.random() < config.p_gain:
            curve += np.float32(rng.uniform(-config.gain_db, config.gain_db)) * _DB
        energy *= np.exp(curve)


# -- the operations --------------------------------------------------------------------------------


def stretch(log_mel: Array, frames: int) -> Array:
    """Linear interpolation in time to `frames` frames: f32 [t, 80] -> f32 [frames, 80]."""
    # Frame centres: sample i of the result lies at (i + 0.5) * ratio - 0.5 of the source.
    position = (np.arange(frames) + 0.5) * (len(log_mel) / frames) - 0.5
    position = np.clip(position, 0, len(log_mel) - 1)
    below = position.astype(np.intp)
    above = np.minimum(below + 1, len(log_mel) - 1)
    weight = (position - below).astype(np.float32)[:, None]
    result = log_mel[above]
    result -= (base := log_mel[below])
    result *= weight
    result += base
    return result


def warp(log_mel: Array, factor: float) -> Array:
    """Scale all frequencies by `factor`, piecewise so that the band's upper edge stays in place.

    Vocal tract length perturbation (Jaitly & Hinton 2013). f32 [t, 80] -> f32 [t, 80].
    """
    # Bin m shows what was at frequency f_m / factor; above the knee a straight line to the edge.
    knee = 0.6 * _EDGE_HZ * min(factor, 1.0)
    source = np.interp(_HZ, [0.0, knee, _EDGE_HZ], [0.0, knee / factor, _EDGE_HZ])
    position = np.interp(source, _HZ, np.arange(FEATURE_DIM))
    below = np.minimum(position.astype(np.intp), FEATURE_DIM - 2)
    weight = (position - below).astype(np.float32)
    matrix = np.zeros((FEATURE_DIM, FEATURE_DIM), np.float32)
    matrix[below, np.arange(FEATURE_DIM)] = 1 - weight
    matrix[below + 1, np.arange(FEATURE_DIM)] += weight
    return log_mel @ matrix  # a product of this size costs less than gathering columns


def reverberate(energy: Array, rt60_s: float, direct_to_late_db: float) -> None:
    """Late reverberation in place: every frame's energy decays by 60 dB in `rt60_s`.

    Air and walls swallow high frequencies sooner: the upper half of the bins decays in 0.7 rt60.
    """
    from scipy.signal import lfilter

    half = FEATURE_DIM // 2
    for band, seconds in ((energy[:, :half], rt60_s), (energy[:, half:], 0.7 * rt60_s)):
        decay = 10 ** (-6 * _FRAME_S / seconds)
        late = (1 - decay) * 10 ** (-direct_to_late_db / 10)
        # r[t] = late x[t-1] + decay r[t-1]: sums to direct_to_late_db below the direct sound.
        band += lfilter(
            np.array([0, late], np.float32), np.array([1, -decay], np.float32), band, axis=0
        )


def level(energy: Array) -> float:
    """Mean square of the samples behind mel energies [t, 80]; within a few percent on speech."""
    return float(energy.mean(axis=0) @ _TO_POWER)


def _piece(log_mel: NDArray[np.floating], frames: int, rng: np.random.Generator) -> Array:
    """Energies [frames, 80] of a recording [any, 80] from somewhere on, again and again."""
    start = int(rng.integers(len(log_mel)))
    taken = np.asarray(log_mel, np.float32).take(range(start, start + frames), axis=0, mode="wrap")
    return np.exp(taken, out=taken)


# -- what the bins mean ----------------------------------------------------------------------------


def _bin_hz() -> NDArray[np.float64]:
    """Centres of the 80 bins and the upper edge: evenly spaced on Slaney's mel scale, 0-8000 Hz."""
    # Slaney 1998: linear to 1 kHz (3 mel = 200 Hz), then a factor of 6.4 every 27 mel.
    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    mel = np.linspace(0, top, FEATURE_DIM + 2)
    hz: NDArray[np.float64] = np.where(
        mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) / 27 * np.log(6.4))
    )
    return hz


_EDGES = _bin_hz()
_HZ, _EDGE_HZ = _EDGES[1:-1], _EDGES[-1]
_LOG_HZ = np.log(_HZ).astype(np.float32)
# |1 - 0.97 exp(-iw)|^2, what the front end's pre-emphasis does to a bin
_PREEMPHASIS = (1 + 0.97**2 - 2 * 0.97 * np.cos(2 * np.pi * _HZ / SAMPLE_RATE)).astype(np.float32)
_BANDWIDTH = ((_EDGES[2:] - _EDGES[:-2]) / 2).astype(np.float32)  # Hz
# Filters have unit area, so an energy times its bandwidth is the sum of |X|^2 over its FFT bins;
# by Parseval all 256 bins sum to 256 times the sum of the squared, windowed samples.
_HANN_SQUARED = 150  # sum of hann(400)^2
_TO_POWER = _BANDWIDTH / _PREEMPHASIS / np.float32(256 * _HANN_SQUARED)


@functools.cache
def _noise_bank() -> Array:
    """Mel energies of real white noise: f32 [4000, 80], mean 1 without the pre-emphasis.

    Made with the front end itself, so the fluctuation of a bin, and how it is shared with the next
    bin and the next frame, are those of noise in a recording.
    """
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(int(_BANK_S * SAMPLE_RATE), np.float32) * np.float32(0.1)
    energy = np.exp(open_frontend("knf_nemo").compute(samples))
    return energy * (_PREEMPHASIS / energy.mean(axis=0))


def _curve(rng: np.random.Generator, spread_db: float) -> Array:
    """A smooth random curve over the bins, nats: [80]."""
    knots = rng.uniform(-spread_db, spread_db, int(rng.integers(2, 7)))
    bins = np.linspace(0, FEATURE_DIM - 1, len(knots))
    return np.interp(np.arange(FEATURE_DIM), bins, knots).astype(np.float32) * _DB


def _band_limit(rng: np.random.Generator) -> Array:
    """Telephones, small loudspeakers: outside the band 15 to 50 dB weaker. Nats, [80]."""
    low, high = rng.uniform(50, 400), rng.choice([3400.0, rng.uniform(3000, 7000)])
    # 24 dB per octave outside the band, down to a bottom
    octaves = np.maximum(0, np.log2(low / _HZ)) + np.maximum(0, np.log2(_HZ / high)) * 4
    return (-np.minimum(24 * octaves, rng.uniform(15, 50))).astype(np.float32) * _DB


def _hum(rng: np.random.Generator) -> Array:
    """Mains hum and its overtones: energy [80], constant in time."""
    mains = rng.choice([50.0, 60.0]) * rng.choice([1, 2])  # Hz; rectifiers hum an octave higher
    overtone = mains * np.arange(1, 13)[:, None]
    strength = 10 ** (-rng.uniform(0.1, 0.6) * np.arange(12) - rng.uniform(0, 1.0, 12))[:, None]
    # The main lobe of a 25 ms Hann window is 160 Hz wide from zero to zero.
    lobe = np.exp(-0.5 * ((_HZ - overtone) / 35.0) ** 2) / _BANDWIDTH
    energy: Array = ((strength * lobe).sum(axis=0) * _PREEMPHASIS).astype(np.float32)
    return energy
