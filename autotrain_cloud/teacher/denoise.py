"""Cleaning for teachers that noise hurts more than it hurts the devices.

RNNoise (Valin, MMSP 2018) is a small recurrent network for full-band speech in steady noise. It
gives pocketsphinx half its words back where an engine or a fan runs, and takes some where it is
quiet: so only what has a low signal-to-noise ratio is cleaned (`TeacherSettings.denoise_below_db`).

    teacher = denoised(teacher, below_db=15)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soxr

from autotrain_cloud.segments import Samples
from autotrain_cloud.speech import find_speech
from autotrain_cloud.teacher import (
    SAMPLE_RATE,
    Provenance,
    Score,
    Scorer,
    Teacher,
    Transcript,
    checked,
)
from edge_runtime.errors import ConfigError

_RATE = 48_000  # Hz, the only one that it knows
_FRAME = 480  # samples
_LATE = 2 * _FRAME  # what comes out
_SCALE = 32_767


@dataclass(frozen=True, slots=True)
class Denoiser:
    """RNNoise for whole segments: nothing is remembered from one to the next."""

    version: str
    _rnnoise: Any

    @classmethod
    def open(cls) -> Denoiser:
        """Raises ConfigError where the package is missing."""
        try:
            from pyrnnoise import rnnoise
        except ImportError as error:
            raise ConfigError(
                "denoise_below_db: the package pyrnnoise is not installed: pip install pyrnnoise"
            ) from error
        from importlib.metadata import version

        return cls(version("pyrnnoise"), rnnoise)

    def __call__(self, samples: Samples) -> Samples:
        """f32 [n] in [-1, 1] at 16 kHz -> f32 [n], in step with what went in."""
        if not len(samples):
            return samples
        fast = soxr.resample(samples, SAMPLE_RATE, _RATE)  # f32 [3 n]
        frames = -(-(len(fast) + _LATE) // _FRAME)
        heard = np.zeros(frames * _FRAME, np.int16)
        heard[: len(fast)] = np.clip(fast, -1, 1) * _SCALE
        cleaned = np.empty_like(heard)
        state = self._rnnoise.create()
        try:
            for start in range(0, len(heard), _FRAME):
                piece = slice(start, start + _FRAME)
                cleaned[piece], _ = self._rnnoise.process_mono_frame(state, heard[piece])
        finally:
            self._rnnoise.destroy(state)
        in_step = cleaned[_LATE : _LATE + len(fast)].astype(np.float32) / _SCALE
        slow: Samples = soxr.resample(in_step, _RATE, SAMPLE_RATE)[: len(samples)]
        return slow


@dataclass(frozen=True, slots=True)
class Denoised:
    """A teacher that hears segments below `below_db` without their noise."""

    teacher: Teacher
    below_db: float
    denoiser: Denoiser
    provenance: Provenance

    @property
    def batch_size(self) -> int:
        return self.teacher.batch_size

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        found = self.teacher.transcribe(self._heard(batch))
        return [replace(transcript, provenance=self.provenance) for transcript in found]

    def _heard(self, batch: Sequence[Samples]) -> list[Samples]:
        return [
            self.denoiser(samples) if find_speech(samples).snr_db < self.below_db else samples
            for samples in checked(batch)
        ]


class DenoisedScorer(Denoised):
    """The same for one that can also weigh a text."""

    __slots__ = ()

    def score(self, batch: Sequence[Samples], texts: Sequence[str]) -> list[Score]:
        assert isinstance(self.teacher, Scorer)
        return self.teacher.score(self._heard(batch), texts)


def denoised(teacher: Teacher, *, below_db: float) -> Teacher:
    """Raises ConfigError where the package is missing."""
    denoiser = Denoiser.open()
    settings = json.loads(teacher.provenance.settings) | {
        "denoise_below_db": below_db,
        "denoiser": f"pyrnnoise {denoiser.version}",
    }
    about = replace(teacher.provenance, settings=json.dumps(settings, sort_keys=True))
    kind = DenoisedScorer if isinstance(teacher, Scorer) else Denoised
    return kind(teacher, below_db, denoiser, about)
