"""`vitconformer bench`: the numbers are there, add up, and belong to what was asked."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile

from edge_runtime.commands.bench import Timer
from edge_runtime.recognizer import Recognizer
from tests.edge_runtime.command_line import error_line, vitconformer
from tests.edge_runtime.tones import RATE, say, write_tone_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    write_tone_bundle(path / "bundle")
    soundfile.write(path / "a.wav", say("t20 t35, t50"), RATE)
    return path


def test_the_parts_add_up_to_the_whole(folder: Path) -> None:
    done = vitconformer(
        "bench", folder / "a.wav", "--bundle", folder / "bundle", "--runs", "2", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    (chunk,) = report["chunks"]
    assert chunk["chunk_ms"] == 160
    assert chunk["audio_s"] == pytest.approx(len(say("t20 t35, t50")) / RATE, abs=0.001)
    parts = [chunk["rtf_features"], chunk["rtf_graph"], chunk["rtf_rest"]]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(chunk["rtf"])
    assert 0 < chunk["step_ms"]["p50"] <= chunk["step_ms"]["p90"] <= chunk["step_ms"]["p99"]
    assert 10 < chunk["peak_rss_mb"] < 500
    assert 0.05 < report["cold_start"]["cpu_s"] < 30
    assert report["bundle"] == {"name": "tones", "version": "1.0"}


def test_the_table_has_a_row_per_chunk_size(folder: Path) -> None:
    done = vitconformer(
        "bench", folder / "a.wav", "--bundle", folder / "bundle", "--runs", "1", "--chunk-ms", "160"
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith(" 160 ms  0.")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["/nonexistent.wav"], 1, "/nonexistent.wav: no such file"),
        (["-"], 2, "standard input cannot be measured"),
        (["a.wav", "--chunk-ms", "160,77"], 2, "no chunk of 77 ms"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    folder: Path, options: list[str], code: int, words: str
) -> None:
    options = [str(folder / option) if option == "a.wav" else option for option in options]
    done = vitconformer("bench", *options, "--bundle", folder / "bundle", "--runs", "1")
    assert done.returncode == code
    assert words in error_line(done)


def test_the_timer_changes_no_word_and_charges_the_right_part(folder: Path) -> None:
    recognizer = Recognizer.open(folder / "bundle")
    timer = Timer()
    timed = timer.around(recognizer)

    def words(stream: Any) -> list[str]:
        return [event.text for event in [*stream.push(say("t20 t35")), *stream.finish()]]

    assert words(timed.stream()) == words(recognizer.stream())
    assert timer.graph_runs == pytest.approx(len(say("t20 t35")) / RATE / 0.16, abs=4)
    before = dict(timer.seconds)
    features = timed.frontend.stream()
    begin = time.process_time()
    features.push(say("t20 t35 t50"))
    spent = time.process_time() - begin
    assert timer.seconds["graph"] == before["graph"]
    assert spent / 2 <= timer.seconds["features"] - before["features"] <= spent
