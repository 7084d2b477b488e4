"""Streaming log-mel features: 16 kHz samples in [-1, 1] to 80 bins every 10 ms.

    stream = open_frontend("knf_nemo").stream()
    frames = stream.push(samples)     # f32 [n]  ->  f32 [frames, 80], those newly complete
    frames = stream.finish()          # the rest

Frames of 25 ms, pre-emphasis 0.97, an FFT of 512 points, power, 80 Slaney mel bins over 0-8000 Hz:

* `knf_nemo` is what sherpa-onnx 2.0.1 feeds to NeMo CTC models with kaldi-native-fbank, so that a
  model trained here meets the same features in stock software. Frame i is centred on sample
  160·i + 80, both ends of the signal are mirrored, the Hann window is periodic, and the logarithm
  is log(max(x, 2^-23)). There are (n + 80) // 160 frames.
* `nemo_exact` is what NeMo itself computes. Frame i is centred on sample 160·i, the emphasised
  signal has zeros around it, the window is symmetric, and the logarithm is log(x + 2^-24). There
  are n // 160 frames, as in NeMo 2.

The library takes twice as long, much of it to take samples one by one (docs/adr/0010). Here
everything is float64, so what is different is what float32 loses there: 1e-6 in the median.

However the samples are cut into pushes, the frames are the same to the last bit: nothing is used
whose rounding depends on how many frames are computed together, as that of a matrix product may.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.bundle import FRAME_MS, FRONTENDS
from edge_runtime.errors import AudioError, BundleIncompatible

SAMPLE_RATE = 16_000  # Hz
FEATURE_DIM = 80  # mel bins
FRAME_SHIFT = SAMPLE_RATE * FRAME_MS // 1000  # samples
MAX_SAMPLE = 1e6  # far above int16 read as float; beyond 1e16 the power would overflow to infinity
_FRAME = 400  # samples
_FFT = 512
_AT_ONCE = 32  # frames, so that they stay in the cache
_BLOCK = 160_000  # samples of a whole signal, so that its float64 copies stay small
_PREEMPHASIS = float(np.float32(0.97))
_BEYOND = 200  # samples after the end of the signal that its last frame may need

Signal = NDArray[np.float64]


@dataclass(frozen=True)
class Frontend:
    """A feature definition. Immutable and shared; `stream()` makes the state of one stream."""

    name: str

    def stream(self) -> FeatureStream:
        """A fresh stream."""
        return FeatureStream(self)

    def compute(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """All frames of a whole signal: f32 [n] -> f32 [frames, 80]."""
        stream = self.stream()
        parts = [stream.push(samples[at : at + _BLOCK]) for at in range(0, len(samples), _BLOCK)]
        return np.concatenate([*parts, stream.finish()])

    @cached_property
    def is_exact(self) -> bool:
        return self.name == "nemo_exact"

    @cached_property
    def lead(self) -> int:
        """Samples of the first frame that are before the signal."""
        return 200 if self.is_exact else 120

    @cached_property
    def window(self) -> Signal:
        """Hann's, f64 [400]. Its first value is 0, so what precedes a frame does not matter."""
        period = _FRAME - 1 if self.is_exact else _FRAME
        window: Signal = 0.5 - 0.5 * np.cos(2 * np.pi / period * np.arange(_FRAME))
        return window

    def count(self, samples: int) -> int:
        """Frames of a signal of so many samples."""
        return (samples + (0 if self.is_exact else FRAME_SHIFT // 2)) // FRAME_SHIFT

    def log_mel(self, frames: Signal) -> NDArray[np.float32]:
        """f64 [n, 400], emphasised -> f32 [n, 80]."""
        padded = np.zeros((len(frames), _FFT))
        np.multiply(frames, self.window, out=padded[:, :_FRAME])
        spectrum = np.fft.rfft(padded, axis=1)  # c128 [n, 257]
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        mel = _mel(power)
        mel = np.log(mel + 2.0**-24) if self.is_exact else np.log(np.maximum(mel, 2.0**-23))
        return mel.astype(np.float32)


_FRONTENDS = {name: Frontend(name) for name in FRONTENDS}


def open_frontend(name: str) -> Frontend:
    """The front end of that name. Raises BundleIncompatible: names come from bundles."""
    if name not in _FRONTENDS:
        raise BundleIncompatible(
            f"unknown frontend {name!r}",
            expected=" or ".join(FRONTENDS),
            remedy="update vitconformer",
        )
    return _FRONTENDS[name]


class FeatureStream:
    """Features of one stream of audio. `push` until the end, then `finish` once."""

    __slots__ = ("_begun", "_finished", "_frontend", "_received", "_signal", "_taken")

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._begun = False  # then the next frame is `_signal[1:401]`
        self._signal: Signal = np.empty(0)
        self._received = 0  # samples pushed
        self._taken = 0  # frames given
        self._finished = False

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes f32 [n] in [-1, 1], any n; returns the frames it completed, f32 [frames, 80].

        Raises AudioError if a sample is NaN, infinite or absurdly large, ValueError if `samples` is
        not a 1-D float array or the stream is finished; the stream is unchanged then.
        """
        if self._finished:
            raise ValueError("the stream is finished")
        samples = checked(samples)
        self._received += len(samples)
        self._signal = np.concatenate([self._signal, samples])
        if not self._begun and self._received > self._frontend.lead:  # enough to be mirrored
            self._begin()
        if not self._begun:
            return _NONE
        return self._take((len(self._signal) - 1 - _FRAME) // FRAME_SHIFT + 1)

    def finish(self) -> NDArray[np.float32]:
        """The last frames, f32 [frames, 80]; none if called again."""
        left = self._frontend.count(self._received) - self._taken
        if self._finished or not left:
            self._finished = True
            return _NONE
        self._finished = True
        if not self._begun:
            self._begin()
        if self._frontend.is_exact:
            return self._take(left, after=np.zeros(_BEYOND))
        self._signal = np.concatenate([self._signal, self._signal[: -_BEYOND - 1 : -1]])
        return self._take(left)

    def _begin(self) -> None:
        """Puts before the signal what the first frame has there, and the sample before that."""
        self._begun = True
        before = self._frontend.lead + 1
        mode = "constant" if self._frontend.is_exact else "symmetric"
        self._signal = np.pad(self._signal, (before, 0), mode=mode)  # type: ignore[call-overload]

    def _take(self, count: int, after: Signal | None = None) -> NDArray[np.float32]:
        """So many frames of the signal; `after`: what the emphasised signal has after its end."""
        if count <= 0:
            return _NONE
        signal = self._signal
        emphasised = signal[1:] - _PREEMPHASIS * signal[:-1]
        if after is not None:
            emphasised = np.concatenate([emphasised, after])
        step = emphasised.itemsize
        frames: Signal = np.ndarray(
            (count, _FRAME), np.float64, emphasised, strides=(FRAME_SHIFT * step, step)
        )
        log_mel = self._frontend.log_mel
        parts = [log_mel(frames[at : at + _AT_ONCE]) for at in range(0, count, _AT_ONCE)]
        self._signal = signal[count * FRAME_SHIFT :].copy()
        self._taken += count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


_NONE = np.empty((0, FEATURE_DIM), np.float32)
_NONE.flags.writeable = False


def checked(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples as contiguous float32. Raises as `FeatureStream.push`."""
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise ValueError(f"samples must be 1-D float, not {samples.ndim}-D {samples.dtype}")
    samples = np.ascontiguousarray(samples, np.float32)
    if len(samples) and not (
        np.maximum.reduce(samples) <= MAX_SAMPLE and np.minimum.reduce(samples) >= -MAX_SAMPLE
    ):  # false for NaN
        raise AudioError("the audio contains NaN, infinite or absurdly large samples")
    return samples


def _triangles() -> tuple[NDArray[np.intp], Signal, Signal]:
    """Slaney's mel scale and area (Auditory Toolbox, 1998), as librosa and NeMo have it.

    -> the FFT bins at which the 81 bands between the triangles' corners begin, and each bin's share
    of the triangle that rises in its band, and of the one that falls there, f64 [257] each.
    """
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), FEATURE_DIM + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    hz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    starts = np.searchsorted(hz, corners[:-1])
    band = np.minimum(np.searchsorted(corners, hz, side="right") - 1, FEATURE_DIM)
    area = 2 / (corners[2:] - corners[:-2])
    place = (hz - corners[band]) / (corners[band + 1] - corners[band])  # in the band, 0 to 1
    rising = place * np.append(area, 0)[band]
    falling = (1 - place) * np.append(0, area)[band]
    return starts, rising, falling


_STARTS, _RISING, _FALLING = _triangles()


def _mel(power: Signal) -> Signal:
    """f64 [n, 257] -> f64 [n, 80]; each bin is in two triangles at most."""
    rising = np.add.reduceat(power * _RISING, _STARTS, axis=1)  # [n, 81]
    falling = np.add.reduceat(power * _FALLING, _STARTS, axis=1)
    mel: Signal = rising[:, :-1] + falling[:, 1:]
    return mel
