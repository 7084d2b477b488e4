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
from autotrain_cloud.noise import MANIFEST
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

    def folders(*names: str) -> list[Path]:
        return [Path(step.folder) for name in names if (step := run.step(name))]

    remember(
        db,
        Path(made.folder) / "bundle",
        folders("label", "relabel"),
        folders("select", "select_again"),
        folders("noise"),
        now_ms=now_ms,
    )


def remember(
    db: Connection,
    bundle: Path,
    labels: Sequence[Path],
    selected: Sequence[Path],
    noise: Sequence[Path] = (),
    *,
    now_ms: int,
) -> None:
    """All but the bundle are folders of steps, the first first. Doing it again changes nothing."""
    trained_on: list[str] = []
    requests: set[str] = set()
    known = _labels(db, labels, now_ms) if selected else {}
    for head in (head for folder in selected for head in sorted(folder.glob("*/head.json"))):
        dataset = Dataset.open(head.parent)
        trained_on.append(dataset.hash)
        requests |= _keep(db, dataset, known, now_ms)
    for folder in noise:
        clips = (folder / MANIFEST).read_bytes()
        if clips:
            trained_on.append(hashlib.sha256(clips).hexdigest())
            requests |= _keep_noise(db, trained_on[-1], folder, clips, now_ms)
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
    for at_ms, path in shards:
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
                doubt=doubt(one), now_ms=at_ms,
            )  # fmt: skip
    return found


def _keep(db: Connection, dataset: Dataset, labels: Mapping[str, str], now_ms: int) -> set[str]:
    """Keeps a data set; -> requests that erased something that is in it."""
    every = {whole(row.segment_id) for row in dataset.rows}
    there = _there(db, every)
    if not _is_known(db, dataset.hash):
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
    return _erased(db, every - there)


def _keep_noise(db: Connection, id: str, folder: Path, clips: bytes, now_ms: int) -> set[str]:
    """The same of what was heard between words: a model has learnt it too."""
    every = {json.loads(line)["segment"] for line in clips.splitlines()}
    there = _there(db, every)
    if not _is_known(db, id):
        members = [lineage.Member(segment=segment, split="noise") for segment in sorted(there)]
        lineage.add_dataset(
            db, id=id, name="noise", manifest=str(folder), members=members, now_ms=now_ms
        )
    return _erased(db, every - there)


def _is_known(db: Connection, dataset: str) -> bool:
    found = db.execute(select(datasets.c.id).where(datasets.c.id == dataset))
    return found.one_or_none() is not None


def _erased(db: Connection, ids: set[str]) -> set[str]:
    """The requests that erased these segments."""
    found: set[str] = set()
    for some in slices(ids):
        grave = (tombstones.c.kind == "segment") & tombstones.c.key.in_(some)
        found |= set(db.scalars(select(tombstones.c.erasure).where(grave)))
    return found


def _there(db: Connection, ids: set[str]) -> set[str]:
    found: set[str] = set()
    for some in slices(ids):
        found |= set(db.scalars(select(segments.c.id).where(segments.c.id.in_(some))))
    return found
