"""The shipped model, fine-tuned, exported, calibrated and published by the very commands."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotrain_cloud.datasets.manifest import Dataset
from autotrain_cloud.pipeline import supervise
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.release import KeyRing, Repository
from edge_runtime.bundle import Bundle
from edge_runtime.manifest import read_manifest
from edge_runtime.ota import delta

ROOT = Path(__file__).parents[3]
CHAMPION = ROOT / "bundles" / "en-demo"
SETTINGS = """
engine = "sqlite"
back_off_s = 0.1
[inputs]
champion = "@"
checkpoint = "@.safetensors"
tokenizer = "@.tokenizer"
replay = "speech.jsonl"
guard_dev = "guard.jsonl"
[settings]
threads = 1
jobs = 1
train_set = ["optim.steps=8", "optim.warmup_steps=2", "optim.lr=1e-3", "optim.ema_decay=0.5",
    "data.max_seconds=20.0", "data.workers=0", "augment.features=false",
    "augment.specaugment=false", "run.checkpoint_steps=2"]
tolerance = 1.0
chunks = 20
repository = "repo"
keys = "keys"
[commands]
gather = ""
label = ""
noise = ""
noise_features = ""
select = "sh -c 'cp {replay} {out}/train.jsonl; cp {replay} {out}/dev.jsonl'"
gate = ""
"""


@pytest.mark.slow
def test_a_killed_trainer_and_controller_later_a_better_bundle_is_published(tmp_path: Path) -> None:
    utterances = read_manifest(ROOT / "samples" / "manifest.jsonl")
    lines = [
        json.dumps({"audio_filepath": str(u.audio_filepath.absolute()), "duration": u.duration,
                    "text": u.text, "speaker": u.speaker})
        for u in utterances
    ]  # fmt: skip
    (tmp_path / "speech.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "guard.jsonl").write_text("\n".join(lines * 2) + "\n")  # calibration wants many
    Repository.create(tmp_path / "repo", tmp_path / "keys", ["en-demo"])
    settings = tmp_path / "pipeline.toml"
    settings.write_text(SETTINGS.replace("@", str(CHAMPION)))
    controller = Controller.open(settings)
    controller.start(why="a test", id="r1")
    work = [sys.executable, "-m", "edge_runtime", "cloud", "runs", "work", "--settings", settings]
    results = tmp_path / "pipeline" / "results"
    # Once it has written a checkpoint, the trainer is killed, and whoever waits for it too.
    with subprocess.Popen(work) as process:
        deadline = time.monotonic() + 300
        while not (saved := list(results.glob("retrain/*.work/run/step-*"))):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        (running,) = results.glob("retrain/*.work/job/running.json")
        process.kill()
        subprocess.run(["kill", "-9", str(json.loads(running.read_text())["command_pid"])])
    assert saved
    with subprocess.Popen([*work, "--once"]) as process:
        try:
            assert process.wait(timeout=1500) == 0
        finally:
            process.kill()
            for known in results.glob("*/*.work/job/job.json"):  # when it was not done in time
                supervise.end_all(json.loads(known.read_text())["id"])
    run = controller.runs.read("r1")
    assert run.state == "done", run.reason
    made = {step.name: Path(step.folder) for step in run.steps}
    assert "resuming" in "".join(p.read_text() for p in (made["retrain"] / "job").glob("log-*"))
    bundle, before = Bundle.open(made["calibrate"] / "bundle"), Bundle.open(CHAMPION)
    manifest = bundle.manifest
    assert manifest.release_counter == before.manifest.release_counter + 1
    champion = (CHAMPION / "manifest.json").read_bytes()
    assert manifest.parent == hashlib.sha256(champion).hexdigest()
    assert {one["sha256"] for one in manifest.training_data["datasets"]} == {
        hashlib.sha256((tmp_path / "speech.jsonl").read_bytes()).hexdigest()
    }
    assert "int8-dynamic" in manifest.precisions and manifest.confidence and manifest.lm
    for name in manifest.precisions.values():  # what devices of the champion fetch
        old, new = before.file(name).read_bytes(), bundle.file(name).read_bytes()
        assert old != new and len(delta.make(old, new)) <= 0.4 * len(new)
    chosen = json.loads((made["interpolate"] / "stdout").read_text())
    best = next(point for point in chosen["points"] if point["alpha"] == chosen["alpha"])
    assert best["gain"] > 0.1
    repository = Repository(tmp_path / "repo", KeyRing.load(tmp_path / "keys"))
    assert any("0.7.0 (release 7)" in line for line in repository.status())
    controller.close()


TWO_ROUNDS = {
    'noise = ""': 'noise = ""\ninterpolate = "vitconformer interpolate --old {checkpoint} '
    "--new {retrain}/run --tokenizer {tokenizer} --target {replay_features}/store "
    '--guard {guard_features}/store --tolerance 1 --out {out}/model.safetensors --json"',
    'gate = ""': 'gate = ""\ncalibrate = "cp -r {bundle}/bundle {out}/bundle"',
    'gather = ""': 'gather = "cp {replay}.segments {out}/segments-0001.jsonl"',
    'label = ""': 'label = "vitconformer cloud label {gather} --teacher bundle --model {champion} '
    '--out {out}"',
    "select = \"sh -c 'cp {replay} {out}/train.jsonl; cp {replay} {out}/dev.jsonl'\"": "",
    "[commands]": "own_confidence = 0.1\n[policy]\nrounds = 2\n[commands]",
}


@pytest.mark.slow
def test_a_second_round_learns_what_the_first_ones_model_understood(tmp_path: Path) -> None:
    """Of every other segment the device understood nothing, of the others all but a letter, and
    there is one teacher alone.
    """
    utterances = read_manifest(ROOT / "samples" / "manifest.jsonl")
    for name, lines in {
        "speech.jsonl": [
            {"audio_filepath": str(u.audio_filepath.absolute()), "duration": u.duration,
             "text": u.text, "speaker": u.speaker}
            for u in utterances
        ],
        "speech.jsonl.segments": [
            {"id": f"s{number}", "audio": str(u.audio_filepath.absolute()),
             "duration_s": u.duration, "text": u.text[:-1] if number % 2 else "nothing",
                 "device": "d"}
            for number, u in enumerate(utterances)
        ],
    }.items():  # fmt: skip
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copy(tmp_path / "speech.jsonl", tmp_path / "guard.jsonl")
    Repository.create(tmp_path / "repo", tmp_path / "keys", ["en-demo"])
    text = SETTINGS.replace("@", str(CHAMPION))
    for old, new in TWO_ROUNDS.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "pipeline.toml").write_text(text)
    controller = Controller.open(tmp_path / "pipeline.toml")
    controller.start(why="a test", id="r1")
    controller.close()
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "cloud", "runs", "work", "--once", "--settings",
         tmp_path / "pipeline.toml"], timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0
    run = controller.runs.read("r1")
    assert run.state == "done", run.reason
    made = {step.name: Path(step.folder) for step in run.steps}
    first, second = (
        {row.segment_id: row for row in Dataset.open(head.parent).rows}
        for name in ("select", "select_again")
        for head in made[name].glob("*/head.json")
    )
    confirmed = {id: row for id, row in first.items() if row.triage == "near"}
    own = {id: row for id, row in second.items() if row.triage == "alone"}
    assert confirmed and own and all(row.split == "train" for row in own.values())
    for id, row in confirmed.items():
        assert (second[id].text, second[id].split) == (row.text, row.split)
    teachers = {row.teacher for row in own.values()}
    assert len(teachers) == 1 and not teachers & {row.teacher for row in confirmed.values()}
    (made_of,) = [
        one
        for one in Bundle.open(made["calibrate"] / "bundle").manifest.training_data["datasets"]
        if one["sha256"] == hashlib.sha256(
            (made["select_again"] / "train.jsonl").read_bytes()
        ).hexdigest()
    ]  # fmt: skip
    assert made_of
    champion = json.loads((tmp_path / "pipeline" / "champion.json").read_text())
    assert champion["checkpoint"] == str(made["bundle_again"] / "model.safetensors")
