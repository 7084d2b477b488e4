"""Teachers: recognisers that may be slow, and say what a device should have heard.

    teacher = open_teacher(TeacherSettings(name="pocketsphinx"))
    transcripts = teacher.transcribe([samples, ...])     # f32 [n], 16 kHz, one each

| name | family | model | needs |
|---|---|---|---|
| `openai-whisper` | whisper | a size, or a checkpoint's path | the weights; torch |
| `faster-whisper` | whisper | a size, or a folder | the weights; faster-whisper |
| `pocketsphinx` | sphinx | its own, or a folder | nothing: the offline default |
| `bundle` | vitconformer | a bundle's folder | the bundle |

Two teachers confirm each other only if their families differ: siblings make the same mistakes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from autotrain_cloud.segments import HeardWord, Samples
from edge_runtime.errors import AudioError, ConfigError

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who made a transcript: enough to make it again, and to find all that it made."""

    family: str  # teachers of one family make the same mistakes
    model: str
    version: str  # of the package
    checkpoint_sha256: str
    settings: str  # of decoding, canonical JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What one teacher heard in one segment; None where that teacher has no such number."""

    text: str  # as the teacher writes it
    words: tuple[HeardWord, ...] = ()
    confidence: float  # mean over the words, 0..1; 0 without words
    avg_logprob: float | None = None  # natural log, per token
    no_speech_prob: float | None = None
    compression_ratio: float  # of the text, by zlib; repetition compresses
    language: str = ""
    language_prob: float | None = None
    temperature: float | None = None  # at which it was decoded
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How probable a teacher finds a text that somebody else heard."""

    avg_logprob: float  # natural log, per token, the end included
    sum_logprob: float
    tokens: int  # the end included
    worst_logprob: float  # of the least probable token


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """Which teacher, and how it decodes."""

    name: str = "auto"  # openai-whisper where its weights are, else pocketsphinx
    model: str = ""  # empty: the teacher's own default
    language: str = ""  # empty: the teacher finds out, if it can
    device: str = "cpu"
    batch_size: int = 8
    threads: int = 1
    beam_size: int = 0  # 0: greedy
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # tried in this order
    max_compression_ratio: float = 2.4  # above: try the next temperature
    min_avg_logprob: float = -1.0  # below: try the next temperature
    max_tokens: int = 224  # per piece of at most 30 s
    words: bool = True  # times and confidences of words cost one more forward pass
    seed: int = 0  # of sampling, above temperature 0
    denoise_below_db: float = 0.0  # signal to noise: what is worse is cleaned first; 0: nothing is


class Teacher(Protocol):
    """A recogniser of whole segments."""

    @property
    def provenance(self) -> Provenance: ...

    @property
    def batch_size(self) -> int: ...

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        """One transcript each; what else is in the batch changes nothing.  Raises AudioError."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A teacher that can also weigh a text, without decoding."""

    def score(self, batch: Sequence[Samples], texts: Sequence[str]) -> list[Score]:
        """Teacher-forced log-probability of each text, in one forward pass over the batch."""
        ...


def open_teacher(settings: TeacherSettings) -> Teacher:
    """The teacher of that name.

    Raises ConfigError: an unknown name, or what it needs is not there (which package or file).
    """
    teacher = _named(chosen(settings))
    if settings.denoise_below_db <= 0:
        return teacher
    from autotrain_cloud.teacher.denoise import denoised

    return denoised(teacher, below_db=settings.denoise_below_db)


def _named(settings: TeacherSettings) -> Teacher:
    if settings.name == "openai-whisper":
        from autotrain_cloud.teacher.openai_whisper import OpenAIWhisper

        return OpenAIWhisper.open(settings)
    if settings.name == "faster-whisper":
        from autotrain_cloud.teacher.faster_whisper import FasterWhisper

        return FasterWhisper.open(settings)
    if settings.name == "pocketsphinx":
        from autotrain_cloud.teacher.sphinx import Sphinx

        return Sphinx.open(settings)
    if settings.name == "bundle":
        from autotrain_cloud.teacher.bundle import BundleTeacher

        return BundleTeacher.open(settings)
    raise ConfigError(
        f"unknown teacher {settings.name!r} (expected openai-whisper, faster-whisper, "
        "pocketsphinx, bundle or auto)"
    )


def chosen(settings: TeacherSettings) -> TeacherSettings:
    """The same, with the name of the teacher that `auto` is on this machine. Raises ConfigError."""
    from autotrain_cloud.teacher.checkpoint import find_weights

    if settings.name != "auto":
        return settings
    try:
        find_weights(settings.model)
    except ConfigError as error:
        if settings.model:  # asked for by name: nothing else will do
            raise
        log.warning("labelling with pocketsphinx instead of Whisper: %s", error)
        return replace(settings, name="pocketsphinx")
    return replace(settings, name="openai-whisper")


def checked(batch: Sequence[Samples]) -> Sequence[Samples]:
    """Raises AudioError for NaN or infinite samples, ValueError for another shape or type."""
    for samples in batch:
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise ValueError(f"samples must be f32 [n], not {samples.dtype} {samples.shape}")
        if not np.isfinite(samples).all():
            raise AudioError("NaN or infinite samples; repair or drop the recording")
    return batch


def mean_confidence(words: Sequence[HeardWord]) -> float:
    """Over the words, weighted by their letters: short words are cheap."""
    letters = sum(len(word.word) for word in words)
    return sum(word.confidence * len(word.word) for word in words) / letters if letters else 0.0


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes compressed, as Whisper defines it; 0 for no text."""
    import zlib

    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
