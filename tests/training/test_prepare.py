"""Against tiny corpora laid out like the real ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_runtime.errors import AudioError, ConfigError
from training.prepare import commonvoice, librispeech, utterances


def clip(path: Path, seconds: float = 0.5, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(seconds * rate)) / 20), rate)


@pytest.fixture
def libri(tmp_path: Path) -> Path:
    for subset, reader in (("train-clean-100", 103), ("dev-clean", 84)):
        chapter = tmp_path / "LibriSpeech" / subset / str(reader) / "7"
        for index in range(2):
            clip(chapter / f"{reader}-7-{index:04d}.flac", 0.5 + index)
        (chapter / f"{reader}-7.trans.txt").write_text(
            f"{reader}-7-0000 MISTER I O U SAID SHE'D GONE\n{reader}-7-0001 AND SO ON\n"
        )
    return tmp_path / "LibriSpeech"


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    base = tmp_path / "cv" / "en"
    header = "client_id\tpath\tsentence\tup_votes\n"
    (base / "clips").mkdir(parents=True)
    for name in ("a", "b", "c"):
        clip(base / "clips" / f"{name}.mp3", 0.8, 32_000)
    (base / "train.tsv").write_text(
        header
        + f'{"f" * 128}\ta.mp3\tHe paid $5, "twice".\t2\n'
        + f"{'e' * 128}\tb.mp3\t日本語\t2\n"
    )
    (base / "test.tsv").write_text(header + f"{'d' * 128}\tc.mp3\tThat's all.\t2\n")
    (base / "dev.tsv").write_text(header)
    return tmp_path / "cv"


def test_librispeech_becomes_one_list_per_subset(libri: Path) -> None:
    subsets = librispeech(libri)
    assert sorted(subsets) == ["dev-clean", "train-clean-100"]
    left_out: Counter[str] = Counter()
    first, second = utterances(subsets["train-clean-100"], left_out)
    assert first.text == "mister i o u said she'd gone"
    assert first.audio_filepath == libri / "train-clean-100" / "103" / "7" / "103-7-0000.flac"
    assert (first.speaker, first.duration, second.duration) == ("103", 0.5, 1.5)
    assert not left_out


def test_a_single_subset_of_librispeech_is_enough(libri: Path) -> None:
    assert list(librispeech(libri / "dev-clean")) == ["dev-clean"]


def test_common_voice_becomes_one_list_per_split(voice: Path) -> None:
    lists = commonvoice(voice, "en")
    assert list(lists) == ["train", "test"]  # an empty list is none
    left_out: Counter[str] = Counter()
    (utterance,) = utterances(lists["train"], left_out)
    assert utterance.text == "he paid five dollars twice"
    assert utterance.speaker == "f" * 16
    assert utterance.audio_filepath == voice / "en" / "clips" / "a.mp3"
    assert utterance.duration == pytest.approx(0.8, abs=0.1)  # MP3 pads
    assert left_out == {"text cannot be written in a-z and apostrophes": 1}


def test_common_voice_is_found_from_inside_as_well(voice: Path) -> None:
    assert commonvoice(voice / "en", "en") == commonvoice(voice, "en")


def test_durations_the_corpus_states_are_not_read_from_the_audio(voice: Path) -> None:
    (voice / "en" / "clip_durations.tsv").write_text("clip\tduration[ms]\nc.mp3\t1234\n")
    (voice / "en" / "clips" / "c.mp3").unlink()
    (utterance,) = utterances(commonvoice(voice, "en")["test"], Counter())
    assert utterance.duration == 1.234


def test_a_missing_recording_is_named(libri: Path) -> None:
    (libri / "dev-clean" / "84" / "7" / "84-7-0001.flac").unlink()
    with pytest.raises(AudioError, match=r"84-7-0001\.flac"):
        list(utterances(librispeech(libri)["dev-clean"], Counter()))


def test_recordings_without_sound_are_left_out(voice: Path) -> None:
    (voice / "en" / "clip_durations.tsv").write_text("clip\tduration[ms]\nc.mp3\t0\n")
    left_out: Counter[str] = Counter()
    assert list(utterances(commonvoice(voice, "en")["test"], left_out)) == []
    assert left_out == {"no sound": 1}


def test_what_is_not_such_a_corpus_is_said(libri: Path, voice: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LibriSpeech"):
        librispeech(voice)
    with pytest.raises(ConfigError, match=r"train\.tsv"):
        commonvoice(libri, "en")
    (libri / "dev-clean" / "84" / "7" / "84-7.trans.txt").write_text("84-7-0000\n")
    with pytest.raises(ConfigError, match=r"84-7\.trans\.txt:1"):
        librispeech(libri)
    (voice / "en" / "train.tsv").write_text("client_id\tpath\nx\ta.mp3\n")
    with pytest.raises(ConfigError, match=r"train\.tsv: no column 'sentence'"):
        commonvoice(voice, "en")
    (voice / "en" / "train.tsv").write_text("client_id\tpath\tsentence\nx\ta.mp3\n")
    with pytest.raises(ConfigError, match=r"train\.tsv:2"):
        commonvoice(voice, "en")
