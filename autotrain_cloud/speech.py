"""Is there speech at all?  Asked before a teacher is, because teachers answer anyway.

Two marks of speech, both from the audio alone:

* `speech_s`: frames that stand out of the recording's own noise.  Per mel band the floor is a low
  percentile over the recording; a frame's score is the mean over the bands of the log-likelihood
  ratio of speech against noise, both Gaussian (Sohn et al., IEEE SPL 6(1), 1999), with the
  maximum-likelihood ratio of energies for the a-priori one.
* `voiced_s`: frames among those whose autocorrelation has a strong peak between 60 and 400 Hz,
  at a lag that changes: speech is voiced and intoned, a hum is voiced and does not move.

Speech over steady noise passes; another voice in the background is speech, and passes too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.segments import Samples
from edge_runtime.features import open_frontend

_RATE = 16_000  # Hz
_HOP_S = 0.01
_FLOOR_PERCENTILE = 15
_FLOOR_BIAS = 0.6  # nats: the percentile of noise lies below its mean
_SCORE = 0.35  # of a frame, to count as speech
_MIN_LEVEL = 1e-4  # full scale is 1: below -80 dBFS nothing was recorded
_WINDOW = 640  # samples of a pitch frame
_LAGS = (_RATE // 400, _RATE // 60)
_PERIODICITY = 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEvidence:
    """What the gate measured."""

    speech_s: float
    voiced_s: float
    snr_db: float  # of the frames that stand out, over the floor
    level_db: float  # RMS of the recording, full scale is 0


def find_speech(samples: Samples) -> SpeechEvidence:
    """f32 [n] at 16 kHz."""
    level = _level(samples)
    level_db = 20 * float(np.log10(max(level, 1e-6)))
    if len(samples) < _WINDOW or level < _MIN_LEVEL:
        return SpeechEvidence(speech_s=0.0, voiced_s=0.0, snr_db=0.0, level_db=level_db)
    heard = _heard(samples, level)
    loud, excess = _standing_out(heard)
    return SpeechEvidence(
        speech_s=float(loud.sum()) * _HOP_S,
        voiced_s=_voiced(heard, loud),
        snr_db=10 / np.log(10) * float(excess[loud].mean()) if loud.any() else 0.0,
        level_db=level_db,
    )


def speech_frames(samples: Samples) -> NDArray[np.bool_]:
    """f32 [n] at 16 kHz -> [frames of 10 ms]: which stand out of the recording's own noise."""
    level = _level(samples)
    if len(samples) < _WINDOW or level < _MIN_LEVEL:
        return np.zeros(len(open_frontend("knf_nemo").compute(samples)), np.bool_)
    return _standing_out(_heard(samples, level))[0]


def _level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def _heard(samples: Samples, level: float) -> Samples:
    """At one level, with a trace of noise, 60 dB down: digital silence has no floor."""
    noise = np.random.default_rng(0).standard_normal(len(samples), np.float32)
    return ((samples + 1e-3 * level * noise) / (10 * level)).astype(np.float32)


def _standing_out(heard: Samples) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """[frames], and by how much each band does [frames, bands], nats."""
    mel = open_frontend("knf_nemo").compute(heard)[:, 4:60]  # ln of the energy
    excess = mel - (np.percentile(mel, _FLOOR_PERCENTILE, axis=0) + _FLOOR_BIAS)
    ratio = np.exp(np.clip(excess, -10, 10))  # energy over the noise's
    score = np.where(ratio > 1, ratio - np.log(ratio) - 1, 0.0)
    # A single loud band must not carry a frame.
    return np.log1p(score).mean(1) > _SCORE, excess


def _voiced(samples: Samples, loud: NDArray[np.bool_]) -> float:
    """Seconds of loud frames with a pitch, if the pitch moves."""
    starts = np.arange(0, len(samples) - _WINDOW + 1, 2 * 160)
    frames = np.stack([samples[start : start + _WINDOW] for start in starts]).astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    spectrum = np.fft.rfft(frames, 2 * _WINDOW)
    correlation = np.fft.irfft(np.square(np.abs(spectrum)))[:, : _LAGS[1] + 1]
    taper = 1 - np.arange(_LAGS[1] + 1) / _WINDOW  # fewer samples overlap at long lags
    normal = correlation / np.maximum(correlation[:, :1], 1e-12) / taper
    inside = normal[:, _LAGS[0] :]
    peak = inside.max(1)
    # The first of the high ones: multiples of a period are as high, and would jump.
    lags = (inside >= 0.9 * peak[:, None]).argmax(1) + _LAGS[0]
    centre = np.minimum((starts + _WINDOW // 2) // 160, len(loud) - 1)
    voiced = (peak > _PERIODICITY) & loud[centre]
    if voiced.sum() < 3 or np.ptp(np.log2(np.percentile(lags[voiced], (10, 90)))) < 0.03:
        return 0.0
    return float(voiced.sum()) * 2 * _HOP_S
