"""What a run made, and of what, into the store: which model was trained on which segment.

A label may be of a part of a segment (`labels.stretches`); to the store it is the segment's. What
was erased while the run was under way is left out, and the answer to that request is completed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, select

from autotrain_cloud.datasets.manifest import Dataset
from autotrain_cloud.labels.label import read_labels
from autotrain_cloud.labels.stretches import whole
from autotrain_cloud.pipeline.record import Run
from autotrain_cloud.review import doubt
from autotrain_cloud.store import lineage
from autotrain_cloud.store.schema import datasets, models, segments, tombstones
from autotrain_cloud.store.segments import slices
from edge_runtime.bundle import Bundle


def remember_run(db: Connection, run: Run, *, now_ms: int) -> None:
    """What a run published; nothing if it did not. Doing it again changes nothing."""
    made = run.step("calibrate")
    if made is None or run.step("publish") is None:
        return
    labels = [Path(step.folder) for name in ("label", "relabel") if (step := run.step(name))]
    chosen = run.step("select_again") or run.step("select")
    remember(
        db,
        Path(made.folder) / "bundle",
        labels,
        Path(chosen.folder) if chosen else None,
        now_ms=now_ms,
    )


def remember(
    db: Connection, bundle: Path, labels: Sequence[Path], selected: Path | None, *, now_ms: int
) -> None:
    """`labels`: folders of those steps, the first first; `selected`: that of the last selection.

    Doing it again changes nothing.
    """
    trained_on: list[str] = []
    requests: set[str] = set()
    if selected is not None:
        known = _labels(db, labels, now_ms)
        for head in sorted(selected.glob("*/head.json")):
            dataset = Dataset.open(head.parent)
            trained_on.append(dataset.hash)
            requests |= _keep(db, dataset, known, now_ms)
    manifest = Bundle.open(bundle).manifest
    parent = manifest.parent and (
        _version_of(db, manifest.name, manifest.parent) or manifest.parent
    )
    lineage.add_model(
        db, name=manifest.name, version=manifest.version, counter=manifest.release_counter,
        manifest=str(bundle), trained_on=trained_on, state="published", parent=parent,
        now_ms=now_ms,
    )  # fmt: skip
    lineage.add_to_answers(
        db, (manifest.name, manifest.version), parent=parent, trained_on=trained_on,
        requests=requests,
    )  # fmt: skip


def _version_of(db: Connection, name: str, digest: str) -> str:
    """Of the model whose manifest has this digest, which is how a bundle names its parent."""
    for row in db.execute(select(models.c.version, models.c.manifest).where(models.c.name == name)):
        path = Path(row.manifest) / "manifest.json"
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return str(row.version)
    return ""


def _labels(db: Connection, folders: Sequence[Path], now_ms: int) -> dict[str, str]:
    """Keeps them; -> id of the label by the id of what it labels.

    What a later step labelled counts where it is kept and no earlier label was.
    """
    found: dict[str, str] = {}
    kept: set[str] = set()
    shards = [
        (now_ms + place, path)
        for place, folder in enumerate(folders)
        for path in sorted(folder.glob("*.parquet"))
    ]
    for now_ms, path in shards:
        shard = [one for one in read_labels(path) if one.teacher is not None]
        there = _there(db, {whole(one.segment.id) for one in shard})
        for one in shard:
            segment = whole(one.segment.id)
            if segment not in there or one.teacher is None:
                continue
            keeps = one.decision == "keep"
            if one.segment.id in found and (one.segment.id in kept or not keeps):
                continue
            found[one.segment.id] = f"{path.stem}/{one.segment.id}"
            if keeps:
                kept.add(one.segment.id)
            lineage.add_label(
                db, id=found[one.segment.id], segment=segment, source="teacher",
                author=one.teacher.provenance.family,
                author_version=one.teacher.provenance.version, text=one.text,
                accepted=keeps,
                provenance={
                    "decision": one.decision, "triage": one.triage, "reasons": list(one.reasons),
                },
                doubt=doubt(one), now_ms=now_ms,
            )  # fmt: skip
    return found


def _keep(
    db: Connection, dataset: Dataset, labels: Mapping[str, str], now_ms: int
) -> set[str]:  # fmt: skip
    """Keeps a data set; -> requests that erased something that is in it."""
    every = {whole(row.segment_id) for row in dataset.rows}
    there = _there(db, every)
    known = select(datasets.c.id).where(datasets.c.id == dataset.hash)
    if db.execute(known).one_or_none() is None:
        members = {
            segment: lineage.Member(
                segment=segment, label=labels.get(row.segment_id), split=row.split,
                weight=row.weight,
            )
            for row in dataset.rows
            if (segment := whole(row.segment_id)) in there
        }  # fmt: skip
        lineage.add_dataset(
            db, id=dataset.hash, name=dataset.head.name, manifest=str(dataset.path),
            members=members.values(), parents=dataset.head.parents,
            recipe=json.loads(dataset.head.settings), now_ms=now_ms,
        )  # fmt: skip
    found: set[str] = set()
    for some in slices(every - there):
        grave = (tombstones.c.kind == "segment") & tombstones.c.key.in_(some)
        found |= set(db.scalars(select(tombstones.c.erasure).where(grave)))
    return found


def _there(db: Connection, ids: set[str]) -> set[str]:
    found: set[str] = set()
    for some in slices(ids):
        found |= set(db.scalars(select(segments.c.id).where(segments.c.id.in_(some))))
    return found
