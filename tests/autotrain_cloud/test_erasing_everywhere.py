"""One erase request through the whole loop: broker, ingest, store, a real run, and back to devices.

What is looked for afterwards is what a person would recognise or a program could hear: the audio as
it was sent, its features, what devices and teachers heard in it, and its ids in what runs made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from autotrain_cloud.datasets.manifest import Dataset
from autotrain_cloud.labels.label import read_labels
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.pipeline.record import Run
from autotrain_cloud.service.learn import Learn
from autotrain_cloud.service.roll import Rolling
from autotrain_cloud.service.watch import set_slice
from autotrain_cloud.settings import RolloutSettings, StoreSettings
from autotrain_cloud.store import Store, schema, segments
from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.cli import main
from edge_runtime.contract.messages import Segment
from edge_runtime.contract.records import SpokenWord
from edge_runtime.manifest import read_manifest
from tests.autotrain_cloud.fleet import NOW, segment
from tests.autotrain_cloud.processes import Device, IngestProcess, wait_until
from tests.broker import Broker
from training.store import FeatureStore

ROOT = Path(__file__).parents[2]
CHAMPION = ROOT / "bundles" / "en-demo"
SAMPLES = read_manifest(ROOT / "samples" / "manifest.jsonl")
CLIPS = [SAMPLES[i] for i in (0, 2, 1, 3, 8, 5)]  # both teachers understand one of each device
ERASED, OTHERS = "kitchen-1", ("hall-1", "attic-1")
EACH = 2  # segments of a device

LABEL = f"""
[teacher]
name = "pocketsphinx"
[second]
name = "bundle"
model = "{CHAMPION}"
"""
SELECT = """
dev_share = 0.4
replay_share = 0.0
seed = 3
"""
PIPELINE = """
engine = "sqlite"
back_off_s = 0.1
[inputs]
champion = "@"
cloud = "cloud.toml"
label_settings = "label.toml"
select_settings = "select.toml"
[settings]
jobs = 1
[commands]
guard_features = ""
replay_features = ""
retrain = "cp -r {features}/store {out}/run"
interpolate = ""
export = ""
confidence = ""
bundle = "cp -r {retrain}/run/store.json {out}/weights"
calibrate = "cp -r trained {out}/bundle"
gate = ""
publish = "test -f {calibrate}/bundle/manifest.json"
"""


def clips(device: str) -> list[Segment]:
    """What this device sends: real speech, and what it heard in it: all but the last word."""
    number = (ERASED, *OTHERS).index(device) * EACH
    return [
        dataclasses.replace(
            segment(100 + number + i, audio=clip.audio_filepath.read_bytes()),
            codec="flac",
            duration_s=clip.duration,
            text=clip.text.rpartition(" ")[0],
            words=tuple(
                SpokenWord(word=word, start_s=0.1 * n, end_s=0.1 * n + 0.1, confidence=0.5)
                for n, word in enumerate(clip.text.split()[:-1])
            ),
        )
        for i, clip in enumerate(CLIPS[number : number + EACH])
    ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Store, Controller, Broker]]:
    (tmp_path / "broker").mkdir()
    found = Bundle.open(CHAMPION)
    manifest = dataclasses.replace(
        found.manifest, files={}, version="9.0", release_counter=9,
        parent=hashlib.sha256((CHAMPION / "manifest.json").read_bytes()).hexdigest(),
    )  # fmt: skip
    write_bundle(
        tmp_path / "pipeline" / "trained", manifest,
        {name: found.file(name) for name in found.manifest.files},
    )  # fmt: skip
    (tmp_path / "label.toml").write_text(LABEL)
    (tmp_path / "select.toml").write_text(SELECT)
    (tmp_path / "pipeline.toml").write_text(PIPELINE.replace("@", str(CHAMPION)))
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/store.db", blobs=str(tmp_path / "blobs"))
    store = Store.open(settings)
    with (
        Broker.start(tmp_path / "broker") as broker,
        IngestProcess(broker, settings, tmp_path),
    ):
        with (tmp_path / "cloud.toml").open("a") as config:
            config.write(f'[api]\npipeline = "{tmp_path}/pipeline.toml"\n')
        controller = Controller.open(tmp_path / "pipeline.toml")
        yield store, controller, broker
        controller.close()
    store.close()


def learned(store: Store, controller: Controller, id: str, slice: str = "") -> Run:
    """A run from the store to a model in the store."""
    controller.start(why="a test", id=id, slice=slice)
    with controller.at_work():
        wait_until(lambda: not controller.runs.open(), 600)
    run = controller.runs.read(id)
    assert run.state == "done", run
    rolling = Rolling(store, lambda bundle, above: above)
    Learn(store, controller, rolling, RolloutSettings()).follow_runs(NOW)
    return run


def folder_of(run: Run, step: str) -> Path:
    found = run.step(step)
    assert found is not None
    return Path(found.folder)


def traces(run: Run) -> dict[str, bytes]:
    """What of the erased device's speech could be found in a file, by what it is."""
    sent = clips(ERASED)
    found = {f"audio {one.id[-3:]}": one.audio[1000:1064] for one in sent}
    found |= {f"heard by the device {one.id[-3:]}": one.text.encode() for one in sent}
    ids = {one.id for one in sent}
    for path in folder_of(run, "label").glob("*.parquet"):
        for label in read_labels(path):
            if label.segment.id in ids:
                for who, said in (("teacher", label.teacher), ("second", label.second)):
                    assert said is not None and len(said.text.split()) > 2
                    found[f"heard by the {who} {label.segment.id[-3:]}"] = said.text.encode()
    stored = FeatureStore.open(folder_of(run, "features") / "store")
    for index, audio in enumerate(stored.audio):
        if Path(audio).stem in ids:
            features, _ = stored[index]
            found[f"features {Path(audio).stem[-3:]}"] = np.ascontiguousarray(features[5]).tobytes()
    return found


def where(folder: Path, needles: dict[str, bytes], *skip: Path) -> dict[str, list[str]]:
    """Needle -> files that have it; tables are read, not only their bytes."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(path.is_relative_to(one) for one in skip):
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
            content += json.dumps(rows, default=str).encode()
        for name, needle in needles.items():
            if needle in content:
                found.setdefault(name, []).append(str(path.relative_to(folder)))
    return found


@pytest.mark.slow
def test_what_was_erased_is_in_no_file_and_does_not_come_back(
    site: tuple[Store, Controller, Broker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, controller, broker = site
    devices = {name: Device(broker, name) for name in (ERASED, *OTHERS)}
    for name, device in devices.items():
        assert device.deliver(clips(name)) == []
    with store.begin() as db:
        for name in OTHERS:
            set_slice(db, name, "others")
    without = learned(store, controller, "others", "others")
    everybody = learned(store, controller, "everybody")
    needles = traces(everybody)
    names = {needle.rpartition(" ")[0] for needle in needles}
    kinds = {
        "audio",
        "features",
        *(f"heard by the {who}" for who in ("device", "teacher", "second")),
    }
    assert names == kinds
    before = where(tmp_path, needles)
    assert set(before) == set(needles)  # this would find them
    for part in ("blobs/", "gather/", "label/", "select/", "features/", "retrain/"):
        assert any(part in path for paths in before.values() for path in paths), part

    capsys.readouterr()
    words = ["cloud", "erase", "--config", tmp_path / "cloud.toml", "--devices", ERASED, "--json"]
    assert main([str(word) for word in words]) == 0
    answer = json.loads(capsys.readouterr().out)

    (dataset,) = folder_of(without, "select").glob("*/head.json")
    assert answer["segments"] == EACH and answer["devices"] == [ERASED]
    assert answer["lineage"]["models"] == [["en-demo", "9.0"]]
    assert len(answer["lineage"]["datasets"]) == 1
    assert answer["lineage"]["datasets"] != [Dataset.open(dataset.parent).hash]
    assert answer["pipeline"]["stopping"] == [] and answer["pipeline"]["results"] >= 5
    assert where(tmp_path, needles) == {}
    ids = {one.id: one.id.encode() for one in clips(ERASED)}
    assert where(tmp_path / "pipeline", ids) == {}

    # What is left is whole: the others' run, the published model, the others' audio.
    for step in ("gather", "label", "select", "features"):
        assert folder_of(without, step).is_dir() and not folder_of(everybody, step).exists()
    assert {row.device for row in Dataset.open(dataset.parent).rows} <= set(OTHERS)
    for run in (without, everybody):
        assert Bundle.open(folder_of(run, "calibrate") / "bundle").manifest.version == "9.0"
    for name in OTHERS:
        for one in clips(name):
            assert store.audio(one.audio_sha256.hex()) == one.audio
    with store.read() as db:
        assert segments.count(db) == EACH * len(OTHERS)
        erased = dict(db.execute(select(schema.datasets.c.id, schema.datasets.c.erased)).all())
    assert sorted(erased.values()) == [0, 1]

    # The device sends it once more: it is told that it was erased, and nothing of it is kept.
    refused = devices[ERASED].deliver(clips(ERASED))
    assert {(one.id, one.reason) for one in refused} == {
        (one.id, "erased") for one in clips(ERASED)
    }
    assert where(tmp_path, needles) == {}
    with store.read() as db:
        assert segments.count(db) == EACH * len(OTHERS)
        letters = schema.dead_letters
        assert db.scalar(select(func.count()).select_from(letters)) == EACH
    for device in devices.values():
        device.close()

    # And a run of everybody afterwards is one of the others.
    again = learned(store, controller, "again")
    assert where(tmp_path, needles) == {}
    (head,) = folder_of(again, "select").glob("*/head.json")
    assert {row.device for row in Dataset.open(head.parent).rows} <= set(OTHERS)
