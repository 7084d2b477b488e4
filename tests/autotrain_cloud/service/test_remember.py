"""Which model was trained on which segment, when labels are of parts and some were erased."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from sqlalchemy import select

from autotrain_cloud.datasets.manifest import Row, freeze
from autotrain_cloud.labels.records import Label
from autotrain_cloud.service.remember import remember
from autotrain_cloud.store import Store, erasure, lineage
from autotrain_cloud.store.schema import dataset_members, erasures, labels, verdicts
from autotrain_cloud.tables import write_rows
from edge_runtime.bundle import Bundle, write_bundle
from tests.autotrain_cloud.fleet import new_ingest, packet, segment
from tests.autotrain_cloud.labelled import label

BUNDLE = Path(__file__).parents[3] / "bundles" / "en-demo"


def row(id: str, number: int) -> Row:
    return Row(
        segment_id=id, audio=f"/{id}.flac", audio_sha256=f"{number:064x}", duration_s=1.0,
        text="a word", source="teacher", split="train", device="kitchen-1",
    )  # fmt: skip


def published(folder: Path, version: str, parent: Path | None = None) -> Path:
    """The demo under another version; `parent`: the bundle it says it came from."""
    found = Bundle.open(BUNDLE)
    digest = hashlib.sha256((parent / "manifest.json").read_bytes()).hexdigest() if parent else None
    manifest = dataclasses.replace(
        found.manifest, files={}, version=version, release_counter=int(version[0]), parent=digest
    )
    files: dict[str, Path | bytes] = {name: found.file(name) for name in found.manifest.files}
    return write_bundle(folder / version, manifest, files).path


def test_a_model_grown_from_one_is_named_by_answers_of_before_and_after(
    store: Store, tmp_path: Path
) -> None:
    new_ingest(store).commit([packet(segment(n)) for n in (1, 2)], now_ms=1)
    one, two = segment(1).id, segment(2).id
    freeze(tmp_path / "select", "train", [row(one, 1), row(two, 2)])
    (tmp_path / "label").mkdir()
    first = published(tmp_path, "8.0")
    with store.begin() as db:
        remember(db, first, [tmp_path / "label"], [tmp_path / "select"], now_ms=2)
    early = erasure.erase(store, segments=[one], now_ms=3)
    with store.begin() as db:
        remember(db, published(tmp_path, "9.0", first), [], [], now_ms=4)
        assert lineage.lineage(db, [two]).models == (("en-demo", "8.0"), ("en-demo", "9.0"))
        kept = db.scalar(select(erasures.c.lineage).where(erasures.c.id == early.id))
    assert early.lineage.models == (("en-demo", "8.0"),)
    assert kept["models"] == [["en-demo", "8.0"], ["en-demo", "9.0"]]
    assert kept["datasets"] == list(early.lineage.datasets)


def test_a_model_that_learnt_the_noise_beside_a_segment_was_trained_on_it(
    store: Store, tmp_path: Path
) -> None:
    new_ingest(store).commit([packet(segment(n)) for n in (1, 2)], now_ms=1)
    one, two, gone = (segment(n).id for n in (1, 2, 3))
    for name in ("select", "noise", "quiet"):
        (tmp_path / name).mkdir()
    freeze(tmp_path / "select", "train", [row(one, 1)])
    lines = [{"audio_filepath": f"audio/{id}-0.flac", "segment": id} for id in (two, two, gone)]
    (tmp_path / "noise" / "noise.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "quiet" / "noise.jsonl").write_text("")  # a fleet without noise
    bundle = published(tmp_path, "8.0")
    for _ in range(2):
        with store.begin() as db:
            noise = [tmp_path / "noise", tmp_path / "quiet"]
            remember(db, bundle, [], [tmp_path / "select"], noise, now_ms=2)
    with store.read() as db:
        assert lineage.lineage(db, [two]).models == (("en-demo", "8.0"),)
        assert len(lineage.lineage(db, [one, two]).datasets) == 2
        assert lineage.lineage(db, [gone]).datasets == ()


def test_what_the_student_said_counts_where_no_teacher_was_believed(
    store: Store, tmp_path: Path
) -> None:
    new_ingest(store).commit([packet(segment(n)) for n in (1, 2, 3)], now_ms=1)
    ids = [segment(n).id for n in (1, 2, 3)]
    taught = ("keep", "gold"), ("review", "disputed"), ("review", "disputed")
    own = ("keep", "alone"), ("keep", "alone"), ("review", "lone")
    for name, made in (("label", taught), ("relabel", own)):
        write_rows(tmp_path / name / f"segments-0001-{name}.parquet", Label, (
            label(id, f"by {name}", decision=decision, triage=triage)
            for id, (decision, triage) in zip(ids, made, strict=True)
        ))  # fmt: skip
    freeze(tmp_path / "select", "train", [row(ids[0], 1), row(ids[1], 2)])
    folders = [tmp_path / "label", tmp_path / "relabel"]
    for _ in range(2):
        with store.begin() as db:
            remember(db, published(tmp_path, "8.0"), folders, [tmp_path / "select"], now_ms=2)
    with store.read() as db:
        members = {
            one.segment: one.text
            for one in db.execute(
                select(dataset_members.c.segment, labels.c.text).join(
                    labels, labels.c.id == dataset_members.c.label
                )
            )
        }
        judged = {one.segment: one.decision for one in db.execute(select(verdicts))}
        texts = set(db.scalars(select(labels.c.text).where(labels.c.segment == ids[2])))
    assert members == {ids[0]: "by label", ids[1]: "by relabel"}
    assert judged == {ids[0]: "keep", ids[1]: "keep", ids[2]: "review"}
    assert texts == {"by label"}


def test_a_part_of_a_segment_is_the_segments_and_what_was_erased_is_left_out(
    store: Store, tmp_path: Path
) -> None:
    new_ingest(store).commit([packet(segment(n)) for n in (1, 2)], now_ms=1)
    one, two, gone = (segment(n).id for n in (1, 2, 3))
    rows = [row(f"{one}@10-900", 1), row(f"{one}@950-1200", 2), row(two, 3), row(gone, 4)]
    freeze(tmp_path / "select", "train", rows, settings={}, parents=())
    (tmp_path / "select" / "train-audio").mkdir()  # exported sound lies beside the data set
    (tmp_path / "label").mkdir()
    bundle = published(tmp_path, "9.0")
    for _ in range(2):
        with store.begin() as db:
            remember(db, bundle, [tmp_path / "label"], [tmp_path / "select"], now_ms=2)
    with store.read() as db:
        for id in (one, two):
            assert len(lineage.lineage(db, [id]).datasets) == 1
            assert lineage.lineage(db, [id]).models == (("en-demo", "9.0"),)
        assert lineage.lineage(db, [gone]).datasets == ()
