"""Pocketsphinx and a bundle for real; faster-whisper against a stand-in, for its mapping only."""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from autotrain_cloud import teacher as teachers
from autotrain_cloud.segments import Samples, Segment, segment_audio
from autotrain_cloud.teacher import Teacher, TeacherSettings, open_teacher
from edge_runtime.errors import ConfigError
from edge_runtime.metrics import word_errors

ROOT = Path(__file__).parents[3]
SAMPLE = "flite-slt.flac"


@pytest.fixture(scope="module")
def speech() -> Samples:
    segment = Segment(
        id="a", audio=str(ROOT / "samples" / SAMPLE), duration_s=1, text="", device="d"
    )
    return segment_audio(segment, Path())


@pytest.fixture(scope="module")
def reference() -> str:
    from edge_runtime.manifest import read_manifest

    lines = read_manifest(ROOT / "samples" / "manifest.jsonl")
    return next(line.text for line in lines if line.audio_filepath.name == SAMPLE)


@pytest.fixture(scope="module")
def sphinx() -> Teacher:
    return open_teacher(TeacherSettings(name="pocketsphinx"))


def test_pocketsphinx_hears_a_synthetic_voice_well(
    sphinx: Teacher, speech: Samples, reference: str
) -> None:
    [found] = sphinx.transcribe([speech])
    assert word_errors(reference, found.text).rate < 0.3
    assert " ".join(word.word for word in found.words) == found.text
    assert all(0 <= word.confidence <= 1 for word in found.words)
    times = [time for word in found.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times) and times[-1] <= len(speech) / 16_000 + 0.05
    assert (found.language, found.avg_logprob) == ("en", None)
    assert found.provenance.family == "sphinx"


def test_what_was_heard_before_changes_nothing(sphinx: Teacher, speech: Samples) -> None:
    clip = speech[:32_000]
    [first] = sphinx.transcribe([clip])
    _, again = sphinx.transcribe([(0.05 * speech[-24_000:]).astype(np.float32), clip])
    assert again == first


def test_silence_has_no_words(sphinx: Teacher) -> None:
    for found in sphinx.transcribe([np.zeros(0, np.float32), np.zeros(32_000, np.float32)]):
        assert (found.text, found.words, found.confidence) == ("", (), 0.0)


def test_a_bundle_teaches_with_its_language_model(speech: Samples, reference: str) -> None:
    bundle = ROOT / "bundles" / "en-demo"
    teacher = open_teacher(TeacherSettings(name="bundle", model=str(bundle)))
    [found] = teacher.transcribe([speech])
    assert word_errors(reference, found.text).rate < 0.3
    assert (teacher.provenance.family, teacher.provenance.model) == ("vitconformer", "en-demo")
    assert '"lm": true' in teacher.provenance.settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TeacherSettings(name="whisperx"), "unknown teacher 'whisperx'"),
        (TeacherSettings(name="bundle"), "name a bundle's folder as model"),
        (TeacherSettings(name="bundle", model="nowhere"), "nowhere: does not exist"),
        (TeacherSettings(name="pocketsphinx", model="nowhere"), "nowhere: no such folder"),
        (TeacherSettings(name="pocketsphinx", language="de"), "its own model is English"),
    ],
)
def test_what_is_wrong_with_a_teacher_is_said(settings: TeacherSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_teacher(settings)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no hmm"):
        open_teacher(TeacherSettings(name="pocketsphinx", model=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "package", "advice"),
    [
        ("openai-whisper", "whisper", r"pip install 'vitconformer\[whisper\]'"),
        ("faster-whisper", "faster_whisper", "pip install faster-whisper"),
        ("pocketsphinx", "pocketsphinx", "pip install pocketsphinx"),
    ],
)
def test_a_missing_package_is_named(
    name: str, package: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"{name}: the package is not installed: {advice}"):
        open_teacher(TeacherSettings(name=name))


def test_without_weights_the_automatic_teacher_is_pocketsphinx_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_teacher(TeacherSettings()).provenance.family == "sphinx"
    assert "pocketsphinx instead of Whisper" in caplog.text
    with pytest.raises(ConfigError, match=r"mine\.pt: no such checkpoint"):
        open_teacher(TeacherSettings(model="mine.pt"))  # asked for by name: nothing else will do


# --- faster-whisper -------------------------------------------------------------------------------

Word = namedtuple("Word", "word start end probability")
Piece = namedtuple(
    "Piece", "text words tokens avg_logprob no_speech_prob compression_ratio temperature"
)


class StandIn:
    """Answers as faster_whisper 1.2's WhisperModel does."""

    def __init__(self, path: str, **options: object) -> None:
        assert options["local_files_only"] is True

    def transcribe(self, samples: Samples, **options: object) -> tuple[object, object]:
        assert options["condition_on_previous_text"] is False
        assert samples.dtype == np.float32
        pieces = (
            Piece(" Hello there.", [Word(" Hello", 0.1, 0.4, 0.9), Word(" there.", 0.4, 0.9, 0.7)],
                  [1, 2, 3], -0.2, 0.3, 1.0, 0.0),
            Piece(" Bye.", [Word(" Bye.", 1.0, 1.5, 0.5)], [4], -0.8, 0.1, 1.0, 0.2),
        )  # fmt: skip
        return iter(pieces), SimpleNamespace(language="en", language_probability=0.97)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("faster_whisper")
    module.__dict__.update(WhisperModel=StandIn, __version__="1.2.1")

    def missing(name: str, local_files_only: bool) -> str:
        raise ValueError(f"Invalid model size '{name}'")

    module.__dict__["download_model"] = missing
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    return module


def test_results_of_faster_whisper_are_mapped(tmp_path: Path, stand_in: ModuleType) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    teacher = open_teacher(TeacherSettings(name="faster-whisper", model=str(tmp_path)))
    [found] = teacher.transcribe([np.zeros(16_000, np.float32)])
    assert found.text == "Hello there. Bye."
    assert [word.word for word in found.words] == ["Hello", "there.", "Bye."]
    assert found.avg_logprob == pytest.approx((-0.2 * 4 - 0.8 * 2) / 6)
    assert (found.no_speech_prob, found.temperature) == (0.1, 0.2)
    assert (found.language, found.language_prob) == ("en", 0.97)
    assert teacher.provenance.version == "1.2.1"


def test_weights_of_faster_whisper_that_are_missing_are_named(
    tmp_path: Path, stand_in: ModuleType
) -> None:
    with pytest.raises(ConfigError, match="small: no such folder, and no cached size"):
        open_teacher(TeacherSettings(name="faster-whisper"))
    with pytest.raises(ConfigError, match=r"model\.bin: no such file"):
        open_teacher(TeacherSettings(name="faster-whisper", model=str(tmp_path)))


def test_every_teacher_of_the_table_can_be_asked_for() -> None:
    table = [line.split("`")[1] for line in (teachers.__doc__ or "").splitlines() if "| `" in line]
    for name in table:
        try:
            open_teacher(TeacherSettings(name=name, model="nowhere"))
        except ConfigError as error:
            assert "unknown teacher" not in str(error)
