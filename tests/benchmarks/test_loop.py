"""Parts of the loop that need no fleet; the loop itself takes half an hour and is run by hand."""

from __future__ import annotations

import gzip
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from G722 import G722
from rich.console import Console

from autotrain_cloud.service import journal
from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store
from benchmarks.loop import prompts, report, sentences
from benchmarks.loop.__main__ import main
from benchmarks.loop.speech import OWN, SCENARIOS, SHARED, Counts, Speech
from benchmarks.loop.story import Story
from benchmarks.loop.view import View
from benchmarks.loop.world import Pace, World
from edge_runtime.manifest import read_manifest
from tests.autotrain_cloud.processes import wait_until

DICTIONARY = """  1 The licence begins with spaces: "nobody must read this one aloud".
00001740 29 v 01 breathe 0 | draw air; "the {} patient finally breathes well"; "too short"
00002724 29 v 01 choke 0 | "he joined the NATO forces in the U.S. that year"
"""


@pytest.fixture
def wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [a + b + c for a in letters for b in letters for c in letters][:17000]
    for name in sentences.FILES:
        (tmp_path / name).write_text("".join(DICTIONARY.format(word) for word in names))
    monkeypatch.setattr(sentences.examples, "__defaults__", (tmp_path,))
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store.open(
        StoreSettings(url=f"sqlite:///{tmp_path}/store.db", blobs=str(tmp_path / "blobs"))
    )
    yield found
    found.close()


def test_sentences_are_the_usable_examples_each_once(wordnet: Path) -> None:
    found = sentences.examples()
    assert len(found) == len(set(found)) == 17000
    assert found == sentences.examples()
    assert all(text.startswith("The ") and text.endswith(" breathes well.") for text in found)


def test_without_wordnet_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="install Debian's wordnet-base"):
        sentences.examples(tmp_path / "nowhere")


def test_talk_of_the_office_never_repeats_itself_and_is_the_same_for_a_seed() -> None:
    said = list(islice(sentences.office(3), 500))
    assert len(set(said)) == 500
    assert said == list(islice(sentences.office(3), 500))


PROMPTS = """; Core sounds
vm-press-1: Press 1, to hear your messages.
vm-again: press one to hear your messages
beep: [this is a simple beep tone]
digits/2: two
demo-hash: Press # to leave the conference.
dictate/lost: This recording has been lost.
dictate/pause: The recording has been paused.
"""


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A telephone exchange of two prompts, one of which has its sound twice."""
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(PROMPTS.encode()))
    sounds = tmp_path / "sounds"
    (sounds / "dictate").mkdir(parents=True)
    tone = np.asarray(np.sin(np.arange(16_000) * 0.3) * 9000, np.int16)
    for name in ("vm-press-1", "vm-again", "beep", "demo-hash", "dictate/pause"):
        (sounds / f"{name}.g722").write_bytes(G722(16_000, 64_000).encode(tone))
    monkeypatch.setattr(prompts, "LIST", tmp_path / "list.txt.gz")
    monkeypatch.setattr(prompts, "SOUNDS", sounds)
    return tmp_path


def test_prompts_are_decoded_with_their_words_each_text_once(
    exchange: Path, tmp_path: Path
) -> None:
    found = {path.name: text for path, text in prompts.decode_to(tmp_path / "flac")}
    assert found == {
        "vm-press-1.flac": "press one to hear your messages",
        "dictate-pause.flac": "the recording has been paused",
    }
    samples, rate = soundfile.read(tmp_path / "flac" / "vm-press-1.flac")
    assert (len(samples), rate) == (16_000, 16_000)
    tone = np.sin(np.arange(16_000) * 0.3)
    assert max(np.corrcoef(tone[:9000], samples[k : k + 9000])[0, 1] for k in range(50)) > 0.99


def test_without_the_exchange_its_packages_are_named(
    exchange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "SOUNDS", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="asterisk-core-sounds-en-g722"):
        next(prompts.decode_to(tmp_path / "flac"))


def test_the_prompts_are_dealt_to_what_is_played_the_gate_and_the_report(
    exchange: Path, tmp_path: Path, wordnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"press {word} to hear your messages" for word in ("one", "two", "nine", "ten")]
    lines = "".join(f"vm-press-1: {text}\n" for text in texts)
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(lines.encode()))
    speech = Speech(tmp_path / "sets", SCENARIOS["readers"])
    for name in SHARED:  # as if they were there
        speech.manifest(name).parent.mkdir(parents=True)
        speech.manifest(name).touch()
        (speech.manifest(name).parent / "asked").write_text("3" if name == "known-play" else "1")
    speech.make(Counts(1, 1, 1, 1, 1, 1, 1, 1))
    sets = {name: [u.text for u in read_manifest(speech.manifest(name))] for name in OWN}
    assert sorted(text for some in sets.values() for text in some) == sorted(texts)
    assert {name: len(some) for name, some in sets.items()} == {
        "drift-play": 2,
        "target": 1,
        "held-out": 1,
    }


@pytest.mark.slow
def test_sets_share_no_sentence_and_the_gate_has_blocks_of_a_lone_voice(
    wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.loop.speech.KNOWN", "flite-slt")  # the fastest
    speech = Speech(tmp_path / "sets", SCENARIOS["voice"])
    speech.make(Counts(1, 2, 2, 2, 2, 1, 9, 2))
    sets = [{u.text for u in read_manifest(speech.manifest(name))} for name in (*SHARED, *OWN)]
    assert all(len(one) >= count for one, count in zip(sets, (3, 2, 2, 2, 2, 2, 9, 2), strict=True))
    assert len(set.union(*sets)) == sum(map(len, sets))
    target = [json.loads(line) for line in speech.manifest("target").read_text().splitlines()]
    assert len({line["speaker"] for line in target}) == 8
    assert {line["label_source"] for line in target} == {"source"}
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sets/**/*.flac")}
    speech.make(Counts(1, 2, 2, 2, 2, 1, 9, 2))
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sets/*/[!n]*/**/*.flac")}
    assert all(made[path] == when for path, when in again.items())
    speech.make(Counts(1, 2, 2, 2, 2, 1, 9, 20))  # one set is of another size
    assert len([*read_manifest(speech.manifest("held-out"))]) >= 20
    others = {path: when for path, when in again.items() if "held-out" not in path.parts}
    assert others and all(path.stat().st_mtime_ns == when for path, when in others.items())


def test_a_story_has_its_stages_in_seconds_and_knows_its_end(store: Store) -> None:
    told = [
        (12, "alarm", "kitchen", "Slice kitchen: mean confidence fell"),
        (13, "run", "r1", "queued"),
        (90, "run", "r1", "done"),
        (95, "rollout", "r1", "started: approved by nobody, as planned"),
    ]
    story = Story(begun=1000.0)
    with store.begin() as db:
        for at_s, kind, subject, text in told:
            journal.note(db, kind, subject, text, now_ms=(1000 + at_s) * 1000)
    assert len(story.follow(store)) == 4 and story.follow(store) == [] and not story.over
    with store.begin() as db:
        journal.note(db, "rollout", "r1", "completed: all devices", now_ms=1_120_000)
    story.follow(store)
    assert story.over == "completed"
    assert list(story.stages().values()) == [12.0, 13.0, 90.0, 120.0]


def test_a_run_that_the_gate_rejected_ends_the_story_with_the_reason(store: Store) -> None:
    story = Story(begun=0.0)
    with store.begin() as db:
        journal.note(db, "run", "r1", "rejected: guard: known: 4 % worse", now_ms=5000)
    story.follow(store)
    assert story.over == "rejected: guard: known: 4 % worse"
    assert story.stages()["fleet updated"] is None


@pytest.mark.parametrize("terminal", [False, True])
def test_the_view_has_lines_for_a_pipe_and_a_picture_for_a_terminal(
    store: Store, terminal: bool
) -> None:
    story = Story(begun=0.0)
    with store.begin() as db:
        journal.note(db, "alarm", "kitchen", "confidence [fell]", now_ms=5000)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, height=40)
    with View("voice", console) as view:
        view.show(story, story.follow(store), store)
    assert "confidence [fell]" in out.getvalue()
    assert ("kitchen-2" in out.getvalue()) == terminal


def found_by_a_run() -> dict[str, Any]:
    return {
        "scenario": "voice", "what": "a new voice", "over": "completed", "pace": {},
        "stages_s": {"alarm": 66.2, "fleet updated": None},
        "steps": {"label": {"seconds": 10.0, "cpu_seconds": 8.0}},
        "alarms": ["confidence fell"], "segments": 7, "bytes_over_the_air": 1_580_000,
        "updates": [{"device": "hall-1", "at_s": 800.0, "state": "committed", "version": "0.4.1",
                     "error": ""}],
        "confidence": [{"device": "hall-1", "at_s": 3.0, "model": "0.4.0", "utterances": 2,
                        "confidence": 0.7}],
        "data": {"gathered": 9, "gathered_minutes": 1.0, "train": 5, "dev": 1,
                 "train_minutes": 0.5},
        "gate": {"promote": False, "reasons": ["too slow"]},
        "wer": {"held-out": {"before": 0.4, "after": 0.3}, "known": {"before": 0.2, "after": 0.2}},
    }  # fmt: skip


def test_the_page_has_every_number_and_its_pictures(tmp_path: Path) -> None:
    found = found_by_a_run()
    page = report.write(tmp_path, found).read_text()
    for words in ("| 40.0% | 30.0% | -25.0% |", "| alarm | 66 |", "did not happen", "too slow",
                  "1.58 MB", "| hall-1 | committed 0.4.1"):  # fmt: skip
        assert words in page
    assert json.loads((tmp_path / "report.json").read_text()) == found
    for picture in ("confidence.png", "errors.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("alarm", "words"), [(66.2, "**out of patience**"), (None, "**no alarm, so nothing was")]
)
def test_the_page_tells_no_alarm_from_too_little_patience(
    tmp_path: Path, alarm: float | None, words: str
) -> None:
    stages = {"alarm": alarm, "fleet updated": None}
    found = found_by_a_run() | {"over": "", "stages_s": stages}
    assert words in report.write(tmp_path, found).read_text()


def test_a_model_without_its_checkpoint_is_refused_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.tokenizer").mkdir()
    monkeypatch.setattr("sys.argv", ["loop", "--bundle", str(tmp_path / "mine"), "--out", "x"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"not there: {tmp_path}/mine.safetensors\n" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_bundle_that_is_none_is_refused_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "mine.tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine.safetensors").touch()
    monkeypatch.setattr("sys.argv", ["loop", "--bundle", str(tmp_path / "mine"), "--out", "x"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "error: --bundle: " in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_what_a_step_began_ends_with_the_loop(tmp_path: Path) -> None:
    world = World(tmp_path, Speech(tmp_path / "sets", SCENARIOS["voice"]), Pace(4.0, 1, 1.0, 1))
    folder = tmp_path / "pipeline" / "results" / "retrain" / "0.work" / "job"
    folder.mkdir(parents=True)
    job = {"id": "retrain-0", "attempt": "1", "argv": ["sleep", "600"], "cwd": str(tmp_path),
           "env": {}, "timeout_s": 600.0}  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    watched = [sys.executable, "-m", "autotrain_cloud.pipeline.supervise", str(folder)]
    with subprocess.Popen(watched, start_new_session=True) as supervisor:
        try:
            wait_until((folder / "running.json").exists)
            world.stop()
            supervisor.wait(30)
        finally:
            supervisor.kill()  # and its command with it
    assert json.loads((folder / "exit-1.json").read_text())["code"] == -signal.SIGKILL


def test_people_who_cannot_be_read_are_refused_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Path("samples/manifest.jsonl").absolute()
    monkeypatch.chdir(tmp_path)
    speech = ["--speech", "people.jsonl", "--out", "x"]
    Path("empty.jsonl").touch()
    for scenario, more, words in (
        ("readers", (), "people.jsonl: cannot read"),
        ("readers", ("--speech", "empty.jsonl"), "empty.jsonl: holds no utterance"),
        ("readers", ("--speech", str(samples), "--replay-share", "1"), "--replay-share"),
        ("voice", (), "--scenario readers"),
    ):
        monkeypatch.setattr("sys.argv", ["loop", "--scenario", scenario, *speech, *more])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
