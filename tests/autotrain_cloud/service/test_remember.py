"""Which model was trained on which segment, when labels are of parts and some were erased."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autotrain_cloud.datasets.manifest import Row, freeze
from autotrain_cloud.service.remember import remember
from autotrain_cloud.store import Store, lineage
from edge_runtime.bundle import Bundle, write_bundle
from tests.autotrain_cloud.fleet import new_ingest, packet, segment

BUNDLE = Path(__file__).parents[3] / "bundles" / "en-demo"


def row(id: str, number: int) -> Row:
    return Row(
        segment_id=id, audio=f"/{id}.flac", audio_sha256=f"{number:064x}", duration_s=1.0,
        text="a word", source="teacher", split="train", device="kitchen-1",
    )  # fmt: skip


def test_a_part_of_a_segment_is_the_segments_and_what_was_erased_is_left_out(
    store: Store, tmp_path: Path
) -> None:
    new_ingest(store).commit([packet(segment(n)) for n in (1, 2)], now_ms=1)
    one, two, gone = (segment(n).id for n in (1, 2, 3))
    rows = [row(f"{one}@10-900", 1), row(f"{one}@950-1200", 2), row(two, 3), row(gone, 4)]
    freeze(tmp_path / "select", "train", rows, settings={}, parents=())
    (tmp_path / "select" / "train-audio").mkdir()  # exported sound lies beside the data set
    (tmp_path / "label").mkdir()
    found = Bundle.open(BUNDLE)
    manifest = dataclasses.replace(found.manifest, files={}, release_counter=9, version="9.0")
    bundle = write_bundle(
        tmp_path / "bundle", manifest, {name: found.file(name) for name in found.manifest.files}
    )
    for _ in range(2):
        with store.begin() as db:
            remember(db, bundle.path, tmp_path / "label", tmp_path / "select", now_ms=2)
    with store.read() as db:
        for id in (one, two):
            assert len(lineage.lineage(db, [id]).datasets) == 1
            assert lineage.lineage(db, [id]).models == (("en-demo", "9.0"),)
        assert lineage.lineage(db, [gone]).datasets == ()
