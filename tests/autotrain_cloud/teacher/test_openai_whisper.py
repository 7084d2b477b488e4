from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotrain_cloud.teacher import Scorer, TeacherSettings, open_teacher
from autotrain_cloud.teacher.checkpoint import find_weights
from autotrain_cloud.teacher.forced import force, timed_words
from autotrain_cloud.teacher.openai_whisper import WINDOW, OpenAIWhisper, _pieces
from edge_runtime.errors import AudioError, ConfigError

torch = pytest.importorskip("torch")
whisper = pytest.importorskip("whisper")

from tests.autotrain_cloud.teacher.whispers import save, sound, taught, untaught  # noqa: E402

TEXTS = ("The cat sat down.", "guten morgen alle zusammen", "one two three four")
LANGUAGES = ("en", "de", "en")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lessons = {
        t: (lang, sound(i)) for i, (t, lang) in enumerate(zip(TEXTS, LANGUAGES, strict=True))
    }
    return save(tmp_path_factory.mktemp("weights") / "taught.pt", taught(lessons))


@pytest.fixture(scope="module")
def teacher(checkpoint: Path) -> OpenAIWhisper:
    found = open_teacher(TeacherSettings(name="openai-whisper", model=str(checkpoint)))
    assert isinstance(found, OpenAIWhisper)
    return found


def test_what_was_taught_is_heard_with_language_words_and_confidence(
    teacher: OpenAIWhisper,
) -> None:
    found = teacher.transcribe([sound(i) for i in range(3)])
    assert [t.text for t in found] == list(TEXTS)
    assert [t.language for t in found] == list(LANGUAGES)
    for transcript in found:
        assert transcript.language_prob is not None and transcript.language_prob > 0.8
        assert transcript.avg_logprob is not None and transcript.avg_logprob > -0.5
        assert transcript.temperature == 0.0
        assert transcript.confidence > 0.5
        assert " ".join(w.word for w in transcript.words) == transcript.text
        times = [t for w in transcript.words for t in (w.start_s, w.end_s)]
        assert times == sorted(times) and times[-1] <= 2.0


def test_a_batch_says_what_its_segments_say_alone(teacher: OpenAIWhisper) -> None:
    batch = [sound(0), sound(1, 1.2), sound(2), sound(7)]
    together = teacher.transcribe(batch)
    for alone, shared in zip((teacher.transcribe([s])[0] for s in batch), together, strict=True):
        assert shared.text == alone.text
        assert shared.temperature == alone.temperature
        assert shared.avg_logprob == pytest.approx(alone.avg_logprob, abs=1e-3)


@pytest.mark.slow  # numba compiles the reference
def test_times_and_confidences_are_those_of_whisper_itself(
    teacher: OpenAIWhisper, checkpoint: Path
) -> None:
    from whisper.audio import log_mel_spectrogram, pad_or_trim
    from whisper.timing import find_alignment

    model = whisper.load_model(str(checkpoint), device="cpu")
    tokenizer = teacher._tokenizer("en")
    mel = log_mel_spectrogram(pad_or_trim(sound(0)))
    theirs = find_alignment(model, tokenizer, tokenizer.encode(" The cat sat down"), mel, 200)
    features = teacher._encode([sound(0)])
    tokens = tokenizer.encode(" The cat sat down")
    start = tokenizer.sot_sequence_including_notimestamps
    [forced] = force(model, features, [tokens], [start], tokenizer.eot, frames=[100])
    ours = timed_words(forced, *tokenizer.split_to_word_tokens([*tokens, tokenizer.eot]), 0.0)
    assert [w.word for w in ours] == [w.word.strip() for w in theirs[: len(ours)]]
    for our, their in zip(ours, theirs[: len(ours)], strict=True):
        assert our.confidence == pytest.approx(their.probability, abs=1e-3)
        assert our.start_s == pytest.approx(their.start, abs=0.021)
        assert our.end_s == pytest.approx(their.end, abs=0.021)


def test_the_text_that_was_said_scores_higher_than_another(teacher: OpenAIWhisper) -> None:
    assert isinstance(teacher, Scorer)
    right, wrong, empty = teacher.score(
        [sound(0), sound(0), sound(0)], ["The cat sat down.", "one two three four", ""]
    )
    assert right.avg_logprob > wrong.avg_logprob + 0.5
    assert right.sum_logprob > empty.sum_logprob
    assert empty.tokens == 1  # the end alone
    assert right.worst_logprob <= right.avg_logprob


def test_a_score_is_the_probability_that_decoding_found(teacher: OpenAIWhisper) -> None:
    [heard] = teacher.transcribe([sound(2)])
    [score] = teacher.score([sound(2)], [heard.text])
    assert heard.avg_logprob is not None
    # Decoding also bans some tokens, which makes the others a little likelier.
    assert score.avg_logprob == pytest.approx(heard.avg_logprob, abs=0.05)


def test_only_pieces_that_failed_are_decoded_at_higher_temperatures(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [sound(0), sound(1), sound(2)]
    once = TeacherSettings(name="openai-whisper", model=str(checkpoint), temperatures=(0.0,))
    sure = sorted(t.avg_logprob or 0.0 for t in open_teacher(once).transcribe(batch))
    limit = (sure[0] + sure[1]) / 2  # that exactly one of them breaks
    teacher = open_teacher(replace(once, temperatures=(0.0, 0.5), min_avg_logprob=limit))
    rows: list[tuple[int, float]] = []
    decode = whisper.decode

    def spy(model: object, features: torch.Tensor, options: whisper.DecodingOptions) -> object:
        rows.append((len(features), options.temperature))
        return decode(model, features, options)

    monkeypatch.setattr(whisper, "decode", spy)
    teacher.transcribe(batch)
    assert rows == [(3, 0.0), (1, 0.5)]


def test_sampling_depends_on_the_segment_and_the_seed_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "random.pt", untaught())
    settings = TeacherSettings(
        name="openai-whisper", model=str(path), temperatures=(0.8,), max_tokens=8, language="en"
    )
    teacher = open_teacher(settings)
    torch.manual_seed(1)
    [first] = teacher.transcribe([sound(0)])
    torch.manual_seed(2)
    _, again = teacher.transcribe([sound(1), sound(0)])
    assert again.text == first.text
    assert first.temperature == 0.8


def test_no_audio_is_no_words(teacher: OpenAIWhisper) -> None:
    [found] = teacher.transcribe([np.zeros(0, np.float32)])
    assert (found.text, found.words, found.avg_logprob) == ("", (), None)
    assert teacher.transcribe([]) == []


def test_long_audio_is_cut_where_it_is_quiet_and_nothing_is_lost() -> None:
    samples = sound(3, 70.0)
    samples[28 * 16_000 : 28 * 16_000 + 1600] = 0
    pieces = list(_pieces(samples, 0))
    assert all(len(piece.samples) <= WINDOW for piece in pieces)
    assert abs(pieces[1].start - 28.05 * 16_000) < 1600
    np.testing.assert_array_equal(np.concatenate([p.samples for p in pieces]), samples)


def test_times_of_a_later_piece_go_on(teacher: OpenAIWhisper) -> None:
    gap = np.zeros(29 * 16_000, np.float32)
    [found] = teacher.transcribe([np.concatenate([sound(0), gap, sound(2)])])
    assert found.words[-1].end_s > 25


def test_nan_samples_are_an_error(teacher: OpenAIWhisper) -> None:
    with pytest.raises(AudioError, match="NaN"):
        teacher.transcribe([np.full(1600, np.nan, np.float32)])


def test_provenance_tells_checkpoints_and_settings_apart(
    teacher: OpenAIWhisper, checkpoint: Path, tmp_path: Path
) -> None:
    about = teacher.provenance
    assert (about.family, about.model) == ("whisper", "taught.pt")
    assert json.loads(about.settings)["temperatures"][0] == 0.0
    other = save(tmp_path / "taught.pt", untaught(1))
    changed = open_teacher(TeacherSettings(name="openai-whisper", model=str(other))).provenance
    assert changed.checkpoint_sha256 != about.checkpoint_sha256
    warmer = open_teacher(
        TeacherSettings(name="openai-whisper", model=str(checkpoint), temperatures=(0.4,))
    ).provenance
    assert warmer.checkpoint_sha256 == about.checkpoint_sha256
    assert warmer.settings != about.settings


def test_weights_that_are_not_there_are_named_and_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"whisper/small\.pt: the weights of 'small' are not there"
    ):
        open_teacher(TeacherSettings(name="openai-whisper", model="small"))
    with pytest.raises(ConfigError, match=r"nothing\.pt: no such checkpoint file"):
        find_weights("nothing.pt")
    assert list(tmp_path.rglob("*.pt")) == []


def test_a_damaged_cached_size_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "tiny.pt").write_bytes(b"half of it")
    with pytest.raises(ConfigError, match=r"tiny\.pt: damaged"):
        open_teacher(TeacherSettings(name="openai-whisper", model="tiny"))


@pytest.mark.parametrize(
    "content", [b"", b"RIFF....WAVE", b"PK\x03\x04 not a checkpoint"], ids=["empty", "wav", "zip"]
)
def test_a_file_of_another_format_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"model\.pt: not a checkpoint in openai-whisper's format"
    ):
        open_teacher(TeacherSettings(name="openai-whisper", model=str(path)))


def test_a_checkpoint_without_dims_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": {"weight": torch.zeros(1)}}, path)
    with pytest.raises(ConfigError, match=r"other\.pt: not a checkpoint .* KeyError"):
        open_teacher(TeacherSettings(name="openai-whisper", model=str(path)))


def test_an_unknown_language_is_an_error(checkpoint: Path) -> None:
    settings = TeacherSettings(name="openai-whisper", model=str(checkpoint), language="xx")
    with pytest.raises(ConfigError, match="language 'xx'"):
        open_teacher(settings)
