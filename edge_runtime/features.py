"""Streaming log-mel features: 16 kHz samples in [-1, 1] to 80 bins every 10 ms.

    stream = open_frontend("knf_nemo").stream()
    frames = stream.push(samples)     # f32 [n]  ->  f32 [frames, 80], those newly complete
    frames = stream.finish()          # the rest

Both front ends are kaldi-native-fbank's, with 25 ms frames, FFT 512 and Slaney mel bins 0-8000 Hz:

* `knf_nemo` is what sherpa-onnx 2.0.1 feeds to NeMo CTC models, so that a model trained here meets
  the same features in stock software. Frame i is centred on sample 160·i + 80.
* `nemo_exact` is what NeMo itself computes. It differs in four places: frame i is centred on sample
  160·i, the Hann window is symmetric, pre-emphasis runs over the whole signal instead of inside
  each frame, and the logarithm is log(x + 2^-24). There are n // 160 frames, as in NeMo 2.

However the samples are cut into pushes, the frames are the same to the last bit: the library sees
one growing signal, and the pre-emphasis done here is elementwise. Frames already handed out are
dropped, so memory does not grow with the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.bundle import FRAME_MS, FRONTENDS
from edge_runtime.errors import AudioError, BundleIncompatible, ConfigError

if TYPE_CHECKING:
    import kaldi_native_fbank as knf

SAMPLE_RATE = 16_000  # Hz
FEATURE_DIM = 80  # mel bins
FRAME_SHIFT = SAMPLE_RATE * FRAME_MS // 1000  # samples
MAX_SAMPLE = 1e6  # far above int16 read as float; beyond 1e16 the power would overflow to infinity
_PREEMPHASIS = np.float32(0.97)

# nemo_exact in kaldi's framing: with the signal delayed by 400 samples, kaldi's frame i + 2 is
# centred on our sample 160·i, and no frame that is kept touches kaldi's mirrored signal start.
_NEMO_DELAY, _NEMO_SKIP = 400, 2


@dataclass(frozen=True, slots=True)
class Frontend:
    """A feature definition. Immutable and shared; `stream()` makes the state of one stream."""

    name: str

    def stream(self) -> FeatureStream:
        """A fresh stream."""
        return FeatureStream(exact=self.name == "nemo_exact")

    def compute(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """All frames of a whole signal: f32 [n] -> f32 [frames, 80]."""
        stream = self.stream()
        return np.concatenate([stream.push(samples), stream.finish()])


def open_frontend(name: str) -> Frontend:
    """The front end of that name. Raises BundleIncompatible: names come from bundles."""
    if name not in FRONTENDS:
        raise BundleIncompatible(
            f"unknown frontend {name!r}",
            expected=" or ".join(FRONTENDS),
            remedy="update vitconformer",
        )
    return Frontend(name)


class FeatureStream:
    """Features of one stream of audio. `push` until the end, then `finish` once."""

    __slots__ = ("_accept", "_exact", "_fbank", "_finished", "_get", "_last", "_received", "_taken")

    _fbank: knf.OnlineFbank
    _accept: Callable[[float, memoryview], None]
    _get: Callable[[int], NDArray[np.float32]]

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._taken = 0  # frames of the library already handed out or skipped
        self._received = 0  # samples pushed
        self._last = np.zeros(1, np.float32)  # last sample pushed, for the pre-emphasis
        self._finished = False

    def _open(self) -> None:
        """The library's stream: not before it is used, its tables cost what three frames do."""
        self._fbank = _nemo_fbank() if self._exact else _knf_fbank()
        self._accept = self._fbank.accept_waveform
        self._get = self._fbank.get_frame
        if self._exact:
            self._accept(SAMPLE_RATE, np.zeros(_NEMO_DELAY, np.float32).data)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes f32 [n] in [-1, 1], any n; returns the frames it completed, f32 [frames, 80].

        Raises AudioError if a sample is NaN, infinite or absurdly large, ValueError if `samples` is
        not a 1-D float array or the stream is finished; the stream is unchanged then.
        """
        if self._finished:  # the library would end the process
            raise ValueError("the stream is finished")
        samples = checked(samples)
        if not len(samples):
            return np.empty((0, FEATURE_DIM), np.float32)
        if not self._received:
            self._open()
        self._received += len(samples)
        if self._exact:
            previous = np.concatenate([self._last, samples[:-1]])
            self._last = samples[-1:].copy()
            samples = np.subtract(samples, _PREEMPHASIS * previous, dtype=np.float32)
        # A memoryview because the binding converts element by element: half the time of an array.
        self._accept(SAMPLE_RATE, samples.data)
        return self._take(self._fbank.num_frames_ready)

    def finish(self) -> NDArray[np.float32]:
        """The last frames, f32 [frames, 80]; none if called again."""
        if self._finished:
            return np.empty((0, FEATURE_DIM), np.float32)
        self._finished = True
        if not self._received:
            return np.empty((0, FEATURE_DIM), np.float32)
        if self._exact:  # NeMo pads with zeros where kaldi would mirror the signal
            self._accept(SAMPLE_RATE, np.zeros(_NEMO_DELAY, np.float32).data)
            return self._take(self._received // FRAME_SHIFT + _NEMO_SKIP)
        self._fbank.input_finished()
        return self._take(self._fbank.num_frames_ready)

    def _take(self, ready: int) -> NDArray[np.float32]:
        """Frames up to the library's frame `ready`, which the library then forgets."""
        start = max(self._taken, _NEMO_SKIP) if self._exact else self._taken
        frames = [self._get(i) for i in range(start, ready)]  # views, hence the copy before pop
        features = np.concatenate(frames) if frames else np.empty(0, np.float32)
        if ready > self._taken:
            self._fbank.pop(ready - self._taken)
            self._taken = ready
        return features.reshape(-1, FEATURE_DIM)


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


def _options(window: str) -> knf.FbankOptions:
    try:
        import kaldi_native_fbank as knf
    except ImportError as error:
        raise ConfigError(
            "features need kaldi-native-fbank: pip install 'vitconformer[edge]'"
        ) from error
    options = knf.FbankOptions()
    frame = options.frame_opts
    frame.samp_freq = SAMPLE_RATE
    frame.frame_length_ms = 25
    frame.frame_shift_ms = FRAME_MS
    frame.snip_edges = False
    frame.dither = 0
    frame.remove_dc_offset = False
    frame.preemph_coeff = float(_PREEMPHASIS)
    frame.window_type = window
    mel = options.mel_opts
    mel.num_bins = FEATURE_DIM
    mel.low_freq = 0
    mel.high_freq = SAMPLE_RATE / 2
    mel.is_librosa = True  # Slaney's scale and area normalisation
    return options


def _knf_fbank() -> knf.OnlineFbank:
    import kaldi_native_fbank as knf

    return knf.OnlineFbank(_options("hann"))  # periodic; log(max(x, FLT_EPSILON)) is the default


def _nemo_fbank() -> knf.OnlineFbank:
    import kaldi_native_fbank as knf

    options = _options("hanning")  # symmetric
    options.frame_opts.preemph_coeff = 0  # done over the whole signal in push
    options.use_log_floor = False  # log(x + eps)
    options.eps = 2.0**-24
    return knf.OnlineFbank(options)
