"""From segments to data sets to models, and back: what a model was made of.

Data sets and models are recorded here by whoever makes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    String,
    and_,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from autotrain_cloud.store.plain import clean
from autotrain_cloud.store.schema import (
    dataset_members,
    datasets,
    erasures,
    labels,
    model_datasets,
    models,
    segments,
    verdicts,
)
from autotrain_cloud.store.segments import slices
from autotrain_cloud.store.sql import insert_new, upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A segment of a data set."""

    segment: str
    label: str | None = None  # id of the label it is used with
    split: str = "train"
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What came of some segments."""

    datasets: tuple[str, ...]  # ids of those they were in, and of those made from these
    models: tuple[tuple[str, str], ...]  # (name, version) trained on one of them, or grown from one


def add_label(
    db: Connection,
    *,
    id: str,
    segment: str,
    source: str,
    author: str,
    text: str,
    now_ms: int,
    author_version: str = "",
    words: Sequence[Any] = (),
    confidence: float | None = None,
    language: str = "",
    accepted: bool = True,
    provenance: Mapping[str, Any] | None = None,
    doubt: float | None = None,
) -> None:
    """Keeps a label; one with the same id is kept as it is.

    `source` is teacher, human or source; `author` the teacher's or person's name; `doubt`, 0 to 1:
    how much a person's answer would tell, by default how unsure the device was.
    """
    row = {
        "id": id,
        "segment": segment,
        "source": source,
        "author": author,
        "author_version": author_version,
        "text": clean(text),
        "words": list(words),
        "confidence": confidence,
        "language": language,
        "accepted": accepted,
        "provenance": dict(provenance or {}),
        "created_ms": now_ms,
    }
    db.execute(insert_new(db, labels), row)
    _judge(db, id, doubt)


def decision_of(label: FromClause) -> ColumnElement[str]:
    """What a label says should become of its segment."""
    said = func.coalesce(label.c.provenance["decision"].as_string(), literal("drop", String))
    refused = case((said == "review", "review"), else_="drop")
    return case((label.c.accepted, "keep"), else_=refused)


def _judge(db: Connection, label: str, doubt: float | None) -> None:
    """Notes what the newest label of a segment says, if that is this one. Of two of one time the
    first id counts.
    """
    its = select(
        labels.c.segment, labels.c.id, decision_of(labels), labels.c.source, labels.c.created_ms,
        segments.c.received_ms, segments.c.confidence,
        1 - segments.c.confidence if doubt is None else literal(doubt),
        func.substr(segments.c.id, 20),
    ).join(segments, segments.c.id == labels.c.segment)  # fmt: skip
    statement = upsert(db, verdicts).from_select(verdicts.c.keys(), its.where(labels.c.id == label))
    new = statement.excluded
    newer = or_(
        new.created_ms > verdicts.c.created_ms,
        and_(new.created_ms == verdicts.c.created_ms, new.label <= verdicts.c.label),
    )
    changed = {name: new[name] for name in ("label", "decision", "source", "created_ms", "doubt")}
    db.execute(
        statement.on_conflict_do_update(index_elements=["segment"], set_=changed, where=newer)
    )


def add_dataset(
    db: Connection,
    *,
    id: str,
    name: str,
    manifest: str,
    members: Iterable[Member],
    now_ms: int,
    parents: Sequence[str] = (),
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Keeps a data set and what is in it. `id` is the digest of its content."""
    row = {
        "id": id,
        "name": name,
        "parents": list(parents),
        "manifest": manifest,
        "recipe": dict(recipe or {}),
        "created_ms": now_ms,
        "erased": 0,
    }
    db.execute(insert(datasets), row)
    rows = [
        {
            "dataset": id,
            "segment": member.segment,
            "label": member.label,
            "split": member.split,
            "weight": member.weight,
        }
        for member in members
    ]
    if rows:
        db.execute(insert(dataset_members), rows)


def add_model(
    db: Connection,
    *,
    name: str,
    version: str,
    counter: int,
    manifest: str,
    trained_on: Collection[str],
    now_ms: int,
    parent: str | None = None,
    state: str = "candidate",
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Keeps a model and the data sets it was trained on; again, to change its state or metrics."""
    row = {
        "name": name,
        "version": version,
        "counter": counter,
        "parent": parent,
        "manifest": manifest,
        "state": state,
        "metrics": dict(metrics or {}),
        "created_ms": now_ms,
    }
    statement = upsert(db, models)
    changed = {"state": statement.excluded.state, "metrics": statement.excluded.metrics}
    db.execute(
        statement.on_conflict_do_update(index_elements=["name", "version"], set_=changed), row
    )
    pairs = [
        {"model_name": name, "model_version": version, "dataset": dataset} for dataset in trained_on
    ]
    if pairs:
        db.execute(insert_new(db, model_datasets), pairs)


def add_to_answers(
    db: Connection, model: tuple[str, str], *, parent: str | None, trained_on: Collection[str],
    requests: Collection[str],
) -> None:  # fmt: skip
    """Has the answers of these erase requests, which were given before, name a model too.

    So do those that name its parent already.
    """
    for row in db.execute(select(erasures.c.id, erasures.c.lineage)).all():
        known = {(name, version) for name, version in row.lineage["models"]}
        made = row.id in requests
        if not made and (model[0], parent) not in known:
            continue
        answer = {
            "datasets": sorted({*row.lineage["datasets"], *(trained_on if made else ())}),
            "models": sorted({*known, model}),
        }
        db.execute(update(erasures).where(erasures.c.id == row.id).values(lineage=answer))


def lineage(db: Connection, ids: Collection[str]) -> Lineage:
    """What came of these segments, directly and through parents."""
    holding: set[str] = set()
    for some in slices(ids):
        held = select(dataset_members.c.dataset).where(dataset_members.c.segment.in_(some))
        holding |= set(db.scalars(held.distinct()))
    holding = _descendants(db, holding)
    trained: set[tuple[str, str]] = set()
    for some in slices(holding):
        using = select(model_datasets.c.model_name, model_datasets.c.model_version)
        found = db.execute(using.where(model_datasets.c.dataset.in_(some)))
        trained |= {(row.model_name, row.model_version) for row in found}
    frontier = trained
    while frontier:
        child = select(models.c.name, models.c.version)
        grown = tuple_(models.c.name, models.c.parent).in_(frontier)
        found = db.execute(child.where(grown))
        frontier = {(row.name, row.version) for row in found} - trained
        trained |= frontier
    return Lineage(datasets=tuple(sorted(holding)), models=tuple(sorted(trained)))


def count_erased(db: Connection, ids: Collection[str]) -> None:
    """Before segments go: their data sets are no longer what their manifests say."""
    for some in slices(ids):
        held = select(dataset_members.c.dataset).where(dataset_members.c.segment.in_(some))
        touched = datasets.c.id.in_(held)
        db.execute(update(datasets).where(touched).values(erased=datasets.c.erased + 1))


def _descendants(db: Connection, ids: set[str]) -> set[str]:
    """These data sets and all that have one of them among their parents."""
    rows = db.execute(select(datasets.c.id, datasets.c.parents)).all() if ids else []
    found = set(ids)
    grows = True
    while grows:
        more = {row.id for row in rows if row.id not in found and found & set(row.parents)}
        found |= more
        grows = bool(more)
    return found
