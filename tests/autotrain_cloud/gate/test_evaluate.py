"""Hearing a set with real bundles: shards, resuming, and what is remembered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autotrain_cloud.gate import evaluate as evaluating
from autotrain_cloud.gate.evaluate import Hearing, evaluate, shipping_precision
from autotrain_cloud.gate.sets import EvalSet, read_set
from edge_runtime.bundle import Bundle
from edge_runtime.cli import main
from edge_runtime.errors import BackendError, BundleIncompatible
from edge_runtime.judging import judge, recognise
from edge_runtime.recognizer import Recognizer
from tests.autotrain_cloud.gate.corpus import DEMO, ROOT, read_lines, write_lines

FLOAT = Hearing(precision="float32")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> EvalSet:
    folder = tmp_path_factory.mktemp("samples")
    lines = read_lines(ROOT / "samples" / "manifest.jsonl")[:5]
    for line in lines:
        shutil.copy(ROOT / "samples" / line["audio_filepath"], folder)
    return read_set("samples", write_lines(folder / "samples.jsonl", lines))


def test_a_set_is_heard_as_the_recogniser_hears_it_and_only_once(
    samples: EvalSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.audio import open_audio

    monkeypatch.setattr(evaluating, "SHARD", 2)
    shards: list[tuple[int, int]] = []
    found = evaluate(
        DEMO, samples, FLOAT, tmp_path, jobs=2, on_shard=lambda *done: shards.append(done)
    )
    assert sorted(shards) == [(1, 3), (2, 3), (3, 3)]
    recognizer = Recognizer.open(DEMO, precision="float32")
    for recording, outcome in zip(samples.recordings, found.outcomes, strict=True):
        with open_audio(recording.utterance.audio_filepath) as source:
            judged = judge(recording.utterance.text, recognise(recognizer, source.blocks()))
        assert (outcome.text, outcome.counts) == (judged.text, judged.counts)
        assert tuple(right for _, _, right in outcome.words) == judged.right
    assert found.peak_rss_mb > 20 and found.cpu_per_audio_s > 0
    assert 60 < found.words_per_minute < 400

    monkeypatch.setattr(evaluating, "in_process", None)  # nothing is heard again
    assert evaluate(DEMO, samples, FLOAT, tmp_path) == found


def test_what_was_heard_before_a_kill_is_not_heard_again(
    samples: EvalSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "SHARD", 2)
    hear, calls = evaluating.in_process, 0

    def dies_at_the_third(task: str, **options: object) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise BackendError("killed")
        return hear(task, **options)

    monkeypatch.setattr(evaluating, "in_process", dies_at_the_third)
    with pytest.raises(BackendError, match="killed"):
        evaluate(DEMO, samples, FLOAT, tmp_path)
    [folder] = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 2
    evaluate(DEMO, samples, FLOAT, tmp_path)
    assert calls == 4
    [result] = tmp_path.iterdir()  # the shards are gone, the whole is there
    result.write_bytes(result.read_bytes()[:-50])  # damaged: heard anew instead of believed
    evaluate(DEMO, samples, FLOAT, tmp_path)
    assert calls == 7


def test_a_recording_that_cannot_be_read_is_named(samples: EvalSet, tmp_path: Path) -> None:
    lines = [{"audio_filepath": "bad.flac", "duration": 1.0, "text": "x", "speaker": "s"}]
    (tmp_path / "bad.flac").write_bytes(b"no sound")
    broken = read_set("broken", write_lines(tmp_path / "m.jsonl", lines))
    with pytest.raises(BackendError, match=r"bad\.flac"):
        evaluate(DEMO, broken, FLOAT, tmp_path / "cache")


def test_int8_is_judged_where_a_bundle_has_it(samples: EvalSet, tmp_path: Path) -> None:
    demo = Bundle.open(DEMO)
    assert shipping_precision(demo) == "int8-dynamic"
    assert shipping_precision(demo, "float32") == "float32"
    with pytest.raises(BundleIncompatible, match="has no 'int4'"):
        evaluate(DEMO, samples, Hearing(precision="int4"), tmp_path)


def test_wrong_usage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def gate(*words: object) -> tuple[int, str]:
        code = main(["cloud", "gate", "--champion", str(DEMO), "--challenger", str(DEMO),
                     "--out", str(tmp_path / "out"), *map(str, words)])  # fmt: skip
        return code, capsys.readouterr().err

    audio = tmp_path / "a.wav"
    audio.write_bytes(b"")
    line = {"audio_filepath": "a.wav", "duration": 1.0, "text": "word", "speaker": "s"}
    one = write_lines(tmp_path / "one.jsonl", [line])
    for words, problem in (
        (("--target", tmp_path / "none.jsonl"), "cannot read this manifest"),
        (("--target", one, "--guard", one), "two sets are called one"),
        (("--target", one, "--target", one), "'one' is named twice"),
        (("--target", one, "--noise", one), "1 recordings have words"),
        (("--target", f"={one}"), "expected [NAME=]FILE"),
        (("--target", one, "--settings", tmp_path / "none.toml"), "cannot be read"),
    ):
        code, err = gate(*words)
        assert code == 2 and problem in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "out" / "verdict.json").exists()


def test_a_result_is_plain_json_lines(samples: EvalSet, tmp_path: Path) -> None:
    found = evaluate(DEMO, samples, FLOAT, tmp_path)
    [path] = tmp_path.iterdir()
    head, *lines = map(json.loads, path.read_text("utf-8").splitlines())
    assert head["set"] == samples.digest and head["count"] == len(lines) == 5
    assert head["bundle"] == found.bundle and lines[0]["hits"] == found.outcomes[0].hits
