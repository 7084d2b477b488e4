"""RNNoise before a teacher: with its real weights, and pocketsphinx where it is to help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from autotrain_cloud.segments import Samples, Segment, segment_audio
from autotrain_cloud.speech import find_speech
from autotrain_cloud.teacher import (
    Provenance,
    Score,
    Scorer,
    Teacher,
    TeacherSettings,
    Transcript,
    open_teacher,
)
from autotrain_cloud.teacher.denoise import Denoiser, denoised
from edge_runtime.errors import AudioError, ConfigError
from edge_runtime.manifest import read_manifest
from edge_runtime.metrics import ErrorCounts, word_errors

ROOT = Path(__file__).parents[3]
LINES = [
    line
    for line in read_manifest(ROOT / "samples" / "manifest.jsonl")
    if line.audio_filepath.name.startswith(("flite", "festival"))
]


def speech(line: int) -> Samples:
    path = str(LINES[line].audio_filepath)
    return segment_audio(Segment(id="a", audio=path, duration_s=1, text="", device="d"), Path())


def in_noise(samples: Samples, snr_db: float) -> Samples:
    """With the rumble of an engine: most of it is low, none of it is steady in phase."""
    rng = np.random.default_rng(len(samples))
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    f = np.maximum(np.fft.rfftfreq(len(samples), 1 / 16_000), 20.0)
    noise = np.fft.irfft(spectrum / f, len(samples))
    gain = np.sqrt(np.mean(samples**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    mixed = samples + gain * noise
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


@dataclass
class Ear:
    """A teacher that remembers what it was given."""

    heard: list[Samples] = field(default_factory=list)
    batch_size: int = 4

    @property
    def provenance(self) -> Provenance:
        return Provenance(
            family="ear", model="e", version="1", checkpoint_sha256="0", settings='{"beam":4}'
        )

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        self.heard += batch
        made = Transcript(
            text="", confidence=0.0, compression_ratio=0.0, provenance=self.provenance
        )
        return [made for _ in batch]


class Scale(Ear):
    """One that can weigh a text as well."""

    def score(self, batch: Sequence[Samples], texts: Sequence[str]) -> list[Score]:
        self.heard += batch
        return [Score(avg_logprob=0, sum_logprob=0, tokens=1, worst_logprob=0) for _ in texts]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser.open()


def test_pocketsphinx_understands_more_in_the_noise_of_an_engine() -> None:
    settings = TeacherSettings(name="pocketsphinx")
    plain = open_teacher(settings)
    cleaning = open_teacher(TeacherSettings(name="pocketsphinx", denoise_below_db=20.0))
    before, after = ErrorCounts(), ErrorCounts()
    for number, line in enumerate(LINES[:2]):
        noisy = in_noise(speech(number), 0.0)
        before += word_errors(line.text, plain.transcribe([noisy])[0].text)
        after += word_errors(line.text, cleaning.transcribe([noisy])[0].text)
    assert after.rate < 0.8 * before.rate, (before, after)


def test_what_comes_out_is_as_long_in_step_and_less_noisy(denoiser: Denoiser) -> None:
    clean = speech(0)
    cleaned = denoiser(in_noise(clean, 5.0))
    assert (cleaned.dtype, cleaned.shape) == (np.float32, clean.shape)
    middle = slice(2000, len(clean) - 2000)
    likeness = {
        shift: float(np.dot(clean[middle], np.roll(cleaned, -shift)[middle]))
        for shift in range(-400, 401)
    }
    assert abs(max(likeness, key=likeness.__getitem__)) <= 2
    assert find_speech(cleaned).snr_db > find_speech(in_noise(clean, 5.0)).snr_db + 5


@pytest.mark.parametrize("count", [0, 1, 159, 160, 161, 4801])
def test_segments_of_any_length_keep_it(denoiser: Denoiser, count: int) -> None:
    assert denoiser(np.full(count, 0.1, np.float32)).shape == (count,)


def test_nothing_is_remembered_from_one_segment_to_the_next(denoiser: Denoiser) -> None:
    noisy = in_noise(speech(1), 5.0)
    first = denoiser(noisy)
    denoiser(in_noise(speech(2), 0.0))
    np.testing.assert_array_equal(denoiser(noisy), first)


def test_only_what_is_noisy_is_cleaned_and_the_label_will_say_so() -> None:
    ear, quiet = Ear(), speech(0)
    teacher = denoised(ear, below_db=15.0)
    found = teacher.transcribe([quiet, in_noise(quiet, 5.0)])
    np.testing.assert_array_equal(ear.heard[0], quiet)
    assert find_speech(ear.heard[1]).snr_db > 15.0
    assert [one.provenance for one in found] == [teacher.provenance] * 2
    assert '"beam": 4' in teacher.provenance.settings
    assert '"denoise_below_db": 15.0' in teacher.provenance.settings
    assert teacher.provenance.family == "ear" and teacher.batch_size == 4


def test_a_teacher_that_weighs_texts_goes_on_to_do_so() -> None:
    scale = Scale()
    teacher: Teacher = denoised(scale, below_db=15.0)
    assert isinstance(teacher, Scorer) and not isinstance(denoised(Ear(), below_db=1.0), Scorer)
    noisy = in_noise(speech(0), 5.0)
    assert len(teacher.score([noisy], ["a"])) == 1
    assert not np.array_equal(scale.heard[0], noisy)


def test_samples_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(AudioError, match="NaN"):
        denoised(Ear(), below_db=15.0).transcribe([np.full(1600, np.nan, np.float32)])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrnnoise", None)
    with pytest.raises(ConfigError, match="pip install pyrnnoise"):
        open_teacher(TeacherSettings(name="pocketsphinx", denoise_below_db=15.0))
