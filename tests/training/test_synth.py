import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_runtime.errors import ConfigError
from training.commands import synth as command
from training.synth import RATE, Settings, finish, plan, speech_span, synthesise
from training.text import Utterance, cardinal, is_transcript, split_of
from training.voices import VOICES, select

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="no espeak-ng here")
REPOSITORY = Path(__file__).parents[2]


def numbered(n: int) -> tuple[Utterance, ...]:
    return tuple(Utterance(text=cardinal(i), spoken=cardinal(i) + ".") for i in range(n))


def settings(**changes: Any) -> Settings:
    return Settings(
        **{"utterances": numbered(150), "voices": ("espeak-en-us+m1", "espeak-en+f2"), "shard": 16}
        | changes
    )


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_every_stretch_of_a_corpus_has_every_voice_in_its_share() -> None:
    voices = select()
    corpus = settings(voices=tuple(voice.name for voice in voices))
    jobs = [job for shard in range(64) for job in plan(corpus, shard)]
    dealt = Counter(job.voice.name for job in jobs)
    total = sum(voice.share for voice in voices)
    for voice in voices:
        assert dealt[voice.name] == pytest.approx(len(jobs) * voice.share / total, abs=4)
    first = Counter(job.voice.name for job in jobs[:100])
    assert first["flite-slt"] == pytest.approx(100 * VOICES["flite-slt"].share / total, abs=3)


def test_a_text_is_read_again_only_after_all_the_others() -> None:
    corpus = settings(utterances=numbered(100))
    texts = [job.utterance.text for shard in range(19) for job in plan(corpus, shard)]
    for epoch in range(3):
        assert len(set(texts[100 * epoch : 100 * (epoch + 1)])) == 100
    assert texts[:100] != texts[100:200]  # in another order


def test_silence_at_the_ends_is_trimmed_to_a_random_length_and_never_missing() -> None:
    speech = np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE).astype(np.float32)
    for before, after in ((0, 0), (2 * RATE, RATE)):
        leads = []
        for seed in range(30):
            take = finish(np.pad(speech, (before, after)), 3, np.random.default_rng(seed))
            assert not isinstance(take, str)
            start, end = speech_span(take)
            assert end - start == pytest.approx(RATE, abs=400)
            leads += [start / RATE, (len(take) - end) / RATE]
            assert -18.5 < 20 * np.log10(np.abs(take).max()) <= -0.9
            assert np.count_nonzero(take == 0) < 100  # a noise floor, not digital silence
        assert 0.0 <= min(leads) < 0.1 and 0.2 < max(leads) <= 0.31


@pytest.mark.parametrize(
    ("seconds", "words", "why"), [(1.0, 8, "too fast"), (4.0, 3, "too slow"), (0.0, 1, "silent")]
)
def test_bad_audio_is_refused_with_a_reason(seconds: float, words: int, why: str) -> None:
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(int(seconds * RATE)).astype(np.float32) * np.float32(0.1)
    assert finish(np.pad(speech, 1600), words, rng) == why


@needs_espeak
def test_a_manifest_says_what_is_in_the_files(tmp_path: Path) -> None:
    skipped = synthesise(settings(), tmp_path, count=60)
    entries = manifest(tmp_path)
    assert len(entries) == 60 and not skipped
    for entry in entries:
        audio, rate = soundfile.read(tmp_path / entry["audio_filepath"], dtype="float32")
        assert rate == RATE and audio.ndim == 1
        assert entry["duration"] == pytest.approx(len(audio) / RATE, abs=1e-3)
        assert is_transcript(entry["text"])
        assert VOICES[entry["speaker"]].engine == entry["engine"] == "espeak-ng"
    assert len({entry["audio_filepath"] for entry in entries}) == 60


@needs_espeak
@pytest.mark.slow
def test_neither_workers_nor_being_killed_change_a_single_byte(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    synthesise(settings(), whole, count=100)

    program = (
        "import sys; from pathlib import Path; from tests.training.test_synth import settings;"
        "from training.synth import synthesise;"
        "synthesise(settings(), Path(sys.argv[1]), count=100, jobs=int(sys.argv[2]))"
    )
    run = [sys.executable, "-c", program, str(killed), "2"]
    process = subprocess.Popen(run, cwd=REPOSITORY, start_new_session=True)
    while not (killed / "manifest.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(manifest(killed)) < 100
    give_up = time.monotonic() + 30.0
    with pytest.raises(ProcessLookupError):  # its workers do not outlive it
        while time.monotonic() < give_up:
            os.killpg(process.pid, 0)
            time.sleep(0.05)

    subprocess.run(run, cwd=REPOSITORY, check=True)
    assert (killed / "manifest.jsonl").read_bytes() == (whole / "manifest.jsonl").read_bytes()
    for entry in manifest(whole):
        path = entry["audio_filepath"]
        assert (killed / path).read_bytes() == (whole / path).read_bytes()
    assert not list((killed / "audio").glob(".*"))


@needs_espeak
def test_more_hours_extend_a_corpus_and_other_settings_are_refused(tmp_path: Path) -> None:
    synthesise(settings(), tmp_path, count=20)
    first = (tmp_path / "manifest.jsonl").read_text()
    synthesise(settings(), tmp_path, hours=150 / 3600)
    longer = (tmp_path / "manifest.jsonl").read_text()
    assert longer.startswith(first) and len(longer) > len(first)
    assert sum(entry["duration"] for entry in manifest(tmp_path)) >= 150
    for change in ({"seed": 1}, {"utterances": numbered(9)}, {"augment": "full"}):
        with pytest.raises(ConfigError, match="other text, voices, seed or augmentation"):
            synthesise(settings(**change), tmp_path, count=20)
    assert (tmp_path / "manifest.jsonl").read_text() == longer


@needs_espeak
def test_augmented_speech_has_the_same_texts_and_other_sound(tmp_path: Path) -> None:
    for augment in ("none", "full"):
        synthesise(settings(augment=augment), tmp_path / augment, count=30)
    clean, noisy = manifest(tmp_path / "none"), manifest(tmp_path / "full")
    assert [e["text"] for e in clean] == [e["text"] for e in noisy]
    different = 0
    for a, b in zip(clean, noisy, strict=True):
        left = (tmp_path / "none" / a["audio_filepath"]).read_bytes()
        different += left != (tmp_path / "full" / b["audio_filepath"]).read_bytes()
    assert different > 20


def test_voices_that_fail_on_everything_stop_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flite = tmp_path / "flite"
    flite.write_text("#!/bin/sh\necho slt\n")  # has the voice, never leaves a file
    flite.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="engine failed"):
        synthesise(settings(voices=("flite-slt",)), tmp_path / "out", count=10)


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no text"):
        synthesise(settings(utterances=()), tmp_path, count=1)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return parser.parse_args(words)


@needs_espeak
@pytest.mark.slow
def test_the_command_puts_every_sentence_into_one_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"He counted {n} sheep." for n in range(400)))
    said = {word for n in range(400) for word in f"he counted {cardinal(n)} sheep".split()}
    out = tmp_path / "out"
    words = ["--text", str(book), "--out", str(out), "--utterances", "50", "--voices", "espeak-ng"]
    assert command.run(arguments(*words)) == 0
    sizes = {}
    for split in ("train", "dev", "test"):
        entries = manifest(out / split)
        sizes[split] = len(entries)
        assert all(split_of(entry["text"]) == split for entry in entries)
        assert all(set(entry["text"].split()) <= said for entry in entries)
    assert sizes == {"train": 48, "dev": 1, "test": 1}
    captured = capsys.readouterr()
    assert captured.out == "" and "skipped: none" in captured.err


def test_the_command_says_what_is_wrong_with_its_text(tmp_path: Path) -> None:
    common = ["--out", str(tmp_path / "out"), "--utterances", "1"]
    with pytest.raises(ConfigError, match=r"no \.txt file"):
        command.run(arguments("--text", str(tmp_path), *common))
    with pytest.raises(ConfigError, match="No such file"):
        command.run(arguments("--text", str(tmp_path / "missing.txt"), *common))
