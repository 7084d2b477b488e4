"""From labels to a manifest for training, by the verbs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from autotrain_cloud.labels.records import Label
from autotrain_cloud.tables import write_rows
from edge_runtime.cli import main
from edge_runtime.manifest import read_manifest
from tests.autotrain_cloud.labelled import label

SAMPLE = Path(__file__).parents[2] / "samples" / "flite-slt.flac"
WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike".split()


def text(number: int) -> str:
    return " ".join(random.Random(number).sample(WORDS, 6))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    made = [
        label(f"s{n}", text(n), segment_audio=str(SAMPLE), segment_device=f"d{n % 5}")
        for n in range(20)
    ]
    made[3] = replace(made[3], decision="review", reasons=("disputed",), triage="disputed")
    path = tmp_path / "labels.parquet"
    write_rows(path, Label, made)
    return path


def told(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    assert main(["cloud", *map(str, argv)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.strip()


def test_labels_become_a_data_set_and_a_manifest(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "datasets"
    first = told(capsys, "select", labels, "--out", out)
    assert told(capsys, "select", labels, "--out", out) == first
    shown = json.loads(told(capsys, "datasets", "show", first, "--json"))
    assert shown["segments"] == 19 and shown["counts"]["triage"] == {"gold": 19}
    assert first.endswith(shown["hash"][:16])
    assert "19 segments" in told(capsys, "datasets", "show", first)
    counted = told(capsys, "datasets", "query", first, "select count(*) as n from rows", "--json")
    assert json.loads(counted) == [{"n": 19}]
    child = told(capsys, "datasets", "erase", first, "s4")
    assert told(capsys, "datasets", "diff", first, child) == "- s4"
    manifest = tmp_path / "train.jsonl"
    told(capsys, "datasets", "export", child, "--out", manifest, "--split", "train", "dev")
    assert len(read_manifest(manifest)) == 18


def test_people_review_guard_and_are_never_trained_on(
    tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tmp_path / "tasks.json"
    told(capsys, "review", "export", labels, "--out", tasks, "--count", "5")
    exported = json.loads(tasks.read_text())
    assert "s3" in {task["data"]["segment_id"] for task in exported}
    for task in exported:
        task["annotations"] = [
            {
                "completed_by": 1,
                "created_at": "2026-11-01T10:00:00Z",
                "result": [{"from_name": "transcript", "value": {"text": ["People said so."]}}],
            }
        ]
    tasks.write_text(json.dumps(exported))
    reviewed = tmp_path / "reviewed.parquet"
    told(capsys, "review", "import", labels, "--reviews", tasks, "--out", reviewed)
    settings = tmp_path / "guard.toml"
    settings.write_text("share = 1.0\nmin_words = 3\nmin_voices = 1\n")
    out = tmp_path / "datasets"
    guard = told(capsys, "datasets", "guard", reviewed, "--out", out, "--settings", settings)
    guarding = json.loads(told(capsys, "datasets", "query", guard,
                               "select distinct device, source from rows", "--json"))  # fmt: skip
    assert {row["source"] for row in guarding} == {"human"}
    trained = json.loads(told(capsys, "select", labels, "--out", out, "--guard", guard, "--json"))
    found = told(capsys, "datasets", "query", trained["path"], "select distinct device from rows",
                 "--json")  # fmt: skip
    assert not {row["device"] for row in json.loads(found)} & {row["device"] for row in guarding}
    # And the other way round: a guard set that shares voices with training is not made.
    train = told(capsys, "select", labels, "--out", out)
    again = ["datasets", "guard", str(reviewed), "--out", str(out), "--settings", str(settings)]
    assert main(["cloud", *again, "--against", train]) == 1
    assert "nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["label", "none.jsonl", "--out", "x", "--teacher", "whisperx"], "unknown teacher"),
        (["label", "none.jsonl", "--out", "x", "--model", "small"], "--model goes with --teacher"),
        (["label", "none.jsonl", "--out", "x", "--jobs", "0"], "--jobs must be positive"),
        (["select", "none.parquet", "--out", "x"], "none.parquet: cannot be read"),
        (["select", "none.parquet", "--out", "x", "--domain", "kitchen"], "expected NAME=FILE"),
        (["datasets", "show", "nowhere"], "nowhere: not a data set"),
        (["review", "import", "x", "--reviews", "y", "--out", "z"], "x: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    argv: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cloud", *argv]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert problem in line


def test_a_url_where_files_are_expected_is_refused_and_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cloud", "gather", "--config", "cloud.toml", "--out", "s3://fleet/x"]) == 2
    assert "--out s3:/fleet/x is a URL" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
