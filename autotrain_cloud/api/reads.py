"""What people and programs ask of the store, as pages of rows. Every page ends at a key, not at a
number, so that a page costs the same wherever it is; the indexes are in `store/migrations.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    not_,
    select,
    tuple_,
)

from autotrain_cloud.rollout.states import OVER
from autotrain_cloud.store.lineage import decision_of
from autotrain_cloud.store.schema import (
    alarms,
    assignments,
    consents,
    dataset_members,
    datasets,
    dead_letters,
    device_slices,
    devices,
    erasure_devices,
    erasures,
    events,
    labels,
    leases,
    model_datasets,
    models,
    outbox,
    rollout_log,
    rollouts,
    segments,
    telemetry,
    tombstones,
    updates,
    verdicts,
)
from autotrain_cloud.store.sql import among

Rows = Sequence[Any]
DAY_MS = 86_400_000
ORDERS = ("newest", "least-sure")
DECISIONS = ("none", "keep", "review", "drop")
_LAST = "\U0010ffff"  # sorts after every other character
FEW = 10_000  # segments that a page may sort
FEW_DEVICES = 500  # of a slice whose segments are looked for by its devices
PREFIX = 64  # characters of a text that are indexed


def sizes(db: Connection) -> dict[str, int]:
    """Of the tables that are large: counting takes as long as they are."""
    return {
        "segments": db.scalar(select(func.count()).select_from(segments)) or 0,
        "labels": db.scalar(select(func.count()).select_from(labels)) or 0,
    }


def overview(db: Connection, *, now_ms: int) -> dict[str, Any]:
    """The fleet and what is going on, in numbers, but for `sizes`."""
    day = segments.c.received_ms >= now_ms - DAY_MS

    def one(query: Select[Any]) -> Any:
        return db.scalar(query)

    def by(column: ColumnElement[Any]) -> dict[str, int]:
        counted = select(column, func.count()).group_by(column).order_by(column)
        return {row[0] or "": row[1] for row in db.execute(counted)}

    return {
        "at_ms": now_ms,
        "devices": one(select(func.count()).select_from(devices)),
        "devices_by_state": by(devices.c.state),
        "devices_by_model": by(devices.c.model_version),
        "segments_today": one(select(func.count()).select_from(segments).where(day)),
        "to_review": one(
            select(func.count()).select_from(verdicts).where(verdicts.c.decision == "review")
        ),
        "datasets": one(select(func.count()).select_from(datasets)),
        "models": one(select(func.count()).select_from(models)),
        "open_alarms": one(
            select(func.count()).select_from(alarms).where(alarms.c.closed_ms.is_(None))
        ),
        "unanswered_erasures": one(
            select(func.count())
            .select_from(erasure_devices)
            .where(erasure_devices.c.answered_ms.is_(None))
        ),
        "ingest": {
            "last_segment_ms": one(select(func.max(segments.c.received_ms))),
            "last_telemetry_ms": one(select(func.max(telemetry.c.received_ms))),
            "to_publish": one(select(func.count()).select_from(outbox)),
            "dead_letters": one(select(func.count()).select_from(dead_letters)),
        },
        "newest_event": one(select(func.max(events.c.number))) or 0,
    }


# -- devices ---------------------------------------------------------------------------------------

_DEVICE = (
    select(devices, device_slices.c.slice, assignments.c.counter.label("assigned_counter"))
    .outerjoin(device_slices, device_slices.c.device == devices.c.name)
    .outerjoin(assignments, assignments.c.device == devices.c.name)
)


def device_page(
    db: Connection,
    *,
    prefix: str = "",
    state: str | None = None,
    model: str | None = None,
    slice: str | None = None,
    seen_before_ms: int | None = None,
    after: str = "",
    limit: int = 100,
) -> Rows:
    """By name."""
    page = _DEVICE.where(devices.c.name > after)
    if prefix:
        page = page.where(func.substr(devices.c.name, 1, len(prefix)) == prefix)
    for column, value in (
        (devices.c.state, state),
        (devices.c.model_version, model),
        (device_slices.c.slice, slice),
    ):
        if value is not None:
            page = page.where(column == value)
    if seen_before_ms is not None:
        page = page.where(devices.c.last_seen_ms < seen_before_ms)
    return db.execute(page.order_by(devices.c.name).limit(limit)).all()


def device(db: Connection, name: str) -> Row[Any] | None:
    return db.execute(_DEVICE.where(devices.c.name == name)).one_or_none()


def slices(db: Connection) -> Rows:
    """Every slice and its devices."""
    counted = select(device_slices.c.slice, func.count().label("devices"))
    return db.execute(counted.group_by(device_slices.c.slice).order_by(device_slices.c.slice)).all()


def telemetry_page(
    db: Connection, device: str, *, before: tuple[int, int] | None = None, limit: int = 100
) -> Rows:
    """Of one device, the newest first; `before` is (session, sequence)."""
    return _reports(db, telemetry, device, before, limit)


def update_page(
    db: Connection, device: str, *, before: tuple[int, int] | None = None, limit: int = 100
) -> Rows:
    """Likewise."""
    return _reports(db, updates, device, before, limit)


def _reports(
    db: Connection, table: Any, device: str, before: tuple[int, int] | None, limit: int
) -> Rows:
    page = select(table).where(table.c.device == device)
    if before is not None:
        page = page.where(tuple_(table.c.session, table.c.sequence) < tuple_(*before))
    newest = page.order_by(table.c.session.desc(), table.c.sequence.desc())
    return db.execute(newest.limit(limit)).all()


def consents_of(db: Connection, device: str) -> Rows:
    """The newest first."""
    mine = select(consents).where(consents.c.device == device)
    return db.execute(mine.order_by(consents.c.version.desc()).limit(100)).all()


# -- alarms ----------------------------------------------------------------------------------------


def alarm_page(
    db: Connection,
    *,
    open_only: bool = True,
    level: str | None = None,
    name: str | None = None,
    before: tuple[int, str] | None = None,
    limit: int = 100,
) -> Rows:
    """The newest first; `before` is (opened_ms, id)."""
    page = select(alarms)
    if open_only:
        page = page.where(alarms.c.closed_ms.is_(None))
    for column, value in ((alarms.c.level, level), (alarms.c.name, name)):
        if value is not None:
            page = page.where(column == value)
    return _newest(db, page, alarms.c.opened_ms, alarms.c.id, before, limit)


def alarm(db: Connection, id: str) -> Row[Any] | None:
    return db.execute(select(alarms).where(alarms.c.id == id)).one_or_none()


# -- segments --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFilter:
    """Which segments; None: whichever."""

    device: str | None = None
    slice: str | None = None
    model: str | None = None
    language: str | None = None
    confidence_from: float | None = None
    confidence_to: float | None = None
    decision: str | None = None  # one of DECISIONS: what became of its newest label
    text: str | None = None  # its beginning
    since_ms: int | None = None
    until_ms: int | None = None


def segment_page(
    db: Connection,
    wanted: SegmentFilter,
    *,
    order: str = "newest",
    after: tuple[Any, str] | None = None,
    limit: int = 100,
) -> Rows:
    """What a list shows of them, and the newest label of each. `after` is (received_ms, id), or
    (confidence, id) where the least sure come first.
    """
    table = segments
    page = select(table.c.id)
    keyed: FromClause = table  # whose columns order the page
    id = table.c.id
    if wanted.decision == "none":
        page = page.where(not_(exists().where(verdicts.c.segment == table.c.id)))
    elif wanted.decision is not None:
        keyed, id = verdicts, verdicts.c.segment
        page = page.join(verdicts, verdicts.c.segment == table.c.id)
        page = page.where(verdicts.c.decision == wanted.decision)
    # A verdict repeats time and confidence of its segment. A condition on both would count twice
    # where a database guesses how many rows meet it.
    page = page.where(*_times(keyed, wanted), *_confidences(keyed, wanted))
    times = _times(table, wanted)
    indexed = [conditions for conditions in (times, _confidences(table, wanted)) if conditions]
    if wanted.slice is not None:
        names = _few_devices(db, wanted.slice)
        if names is None:
            page = page.join(device_slices, device_slices.c.device == table.c.device)
            page = page.where(device_slices.c.slice == wanted.slice)
        else:
            page = page.where(among(db, table.c.device, names))
            indexed.append([among(db, table.c.device, names), *times])
    for column, value in (
        (table.c.device, wanted.device),
        (table.c.model_version, wanted.model),
        (table.c.language, wanted.language),
    ):
        if value is not None:
            page = page.where(column == value)
            indexed.append([column == value, *times])
    if wanted.text:
        page = page.where(_begins(db, wanted.text))
        indexed.append([_begins(db, wanted.text)])
    least_sure = order == "least-sure"
    key: tuple[ColumnElement[Any], ColumnElement[Any]]
    key = (keyed.c.confidence if least_sure else keyed.c.received_ms, id)
    if after is not None:
        here, there = tuple_(*key), tuple_(*after)
        page = page.where(here > there if least_sure else here < there)
    # First which rows, then the rows: what is sorted and thrown away is small.
    if any(_are_few(db, conditions) for conditions in indexed):
        columns = (key[0].label("by"), id.label("id"))
        all_keys = page.with_only_columns(*columns, maintain_column_froms=True)
        keys = all_keys.cte("mine").prefix_with("MATERIALIZED")
        page, key = select(keys.c.id), (keys.c.by, keys.c.id)
    ends = key if least_sure else tuple(column.desc() for column in key)
    found = page.order_by(*ends).limit(limit).subquery()
    whole = _LISTED.join(found, found.c.id == table.c.id)
    by = (table.c.confidence if least_sure else table.c.received_ms, table.c.id)
    return db.execute(
        whole.order_by(*(by if least_sure else (column.desc() for column in by)))
    ).all()


# Reading the words and alternatives of 500 segments takes as long as all the rest.
_LISTED = (
    select(
        *(
            segments.c[name]
            for name in (
                "id", "device", "captured_ms", "received_ms", "duration_s", "model_name",
                "model_version", "text", "confidence", "deletion_score", "language", "reasons",
                "consent", "redacted", "retention", "expires_ms",
            )
        ),
        device_slices.c.slice,
        func.coalesce(verdicts.c.decision, "none").label("decision"),
        labels.c.text.label("label_text"),
        labels.c.source.label("label_source"),
    )
    .select_from(segments)
    .outerjoin(device_slices, device_slices.c.device == segments.c.device)
    .outerjoin(verdicts, verdicts.c.segment == segments.c.id)
    .outerjoin(labels, labels.c.id == verdicts.c.label)
)  # fmt: skip


def _times(table: FromClause, wanted: SegmentFilter) -> list[ColumnElement[bool]]:
    at, since, until = table.c.received_ms, wanted.since_ms, wanted.until_ms
    found = [] if since is None else [at >= since]
    return found if until is None else [*found, at < until]


def _confidences(table: FromClause, wanted: SegmentFilter) -> list[ColumnElement[bool]]:
    sure, least, most = table.c.confidence, wanted.confidence_from, wanted.confidence_to
    found = [] if least is None else [sure >= least]
    return found if most is None else [*found, sure <= most]


def _are_few(db: Connection, conditions: Sequence[ColumnElement[bool]]) -> bool:
    """Whether so few segments meet conditions of one index that all of them may be sorted.

    Else they are met on the way in the order of the page. A database guesses which is right, and
    where it takes few for many, or old ones for evenly spread, it looks through everything.
    """
    some = select(literal_of(1)).select_from(segments).where(*conditions).limit(FEW + 1)
    return (db.scalar(select(func.count()).select_from(some.subquery())) or 0) <= FEW


def _few_devices(db: Connection, slice: str) -> Sequence[str] | None:
    """Devices of a slice; None: more than a statement can name."""
    mine = select(device_slices.c.device).where(device_slices.c.slice == slice)
    names = db.scalars(mine.limit(FEW_DEVICES + 1)).all()
    return names if len(names) <= FEW_DEVICES else None


def segment(db: Connection, id: str) -> Row[Any] | None:
    joined = select(segments, device_slices.c.slice).outerjoin(
        device_slices, device_slices.c.device == segments.c.device
    )
    return db.execute(joined.where(segments.c.id == id)).one_or_none()


def labels_of(db: Connection, id: str) -> Rows:
    """The newest first, with what each decides."""
    mine = select(labels, decision_of(labels).label("decision")).where(labels.c.segment == id)
    return db.execute(mine.order_by(labels.c.created_ms.desc(), labels.c.id)).all()


def was_erased(db: Connection, segment: str) -> bool:
    grave = and_(tombstones.c.kind == "segment", tombstones.c.key == segment)
    return db.scalar(select(tombstones.c.erasure).where(grave).limit(1)) is not None


_REVIEW = (
    select(
        labels.c.id.label("label"), labels.c.created_ms, labels.c.text.label("label_text"),
        labels.c.author, labels.c.confidence.label("label_confidence"), labels.c.provenance,
        segments.c.id.label("segment"), segments.c.device, segments.c.text,
        segments.c.confidence, segments.c.language, segments.c.duration_s,
        segments.c.model_version, segments.c.captured_ms, device_slices.c.slice,
        verdicts.c.decision, verdicts.c.doubt, leases.c.who, leases.c.until_ms,
    )
    .select_from(verdicts)
    .join(labels, labels.c.id == verdicts.c.label)
    .join(segments, segments.c.id == verdicts.c.segment)
    .outerjoin(device_slices, device_slices.c.device == segments.c.device)
    .outerjoin(leases, leases.c.segment == verdicts.c.segment)
)  # fmt: skip


def review_page(
    db: Connection,
    *,
    slice: str | None = None,
    after: tuple[int, str] | None = None,
    limit: int = 50,
) -> Rows:
    """Labels that a person should look at, the oldest first; `after` is (created_ms, id).

    Once a newer label of the segment is there, this one is no longer asked about.
    """
    key = (verdicts.c.created_ms, verdicts.c.label)
    wanted = [verdicts.c.decision == "review"]
    if after is not None:
        wanted.append(tuple_(*key) > tuple_(*after))
    return _reviewed(db, wanted, slice, key, limit)


def most_doubtful(db: Connection, *, slice: str | None = None, limit: int) -> Rows:
    """Of what waits for a person, that of which an answer would tell most."""
    order = (verdicts.c.doubt.desc(),)
    return _reviewed(db, [verdicts.c.decision == "review"], slice, order, limit)


def drawn(
    db: Connection, *, slice: str | None = None, decision: str | None = None, limit: int
) -> Rows:
    """A random sample of what teachers labelled, good or not: the same ones until a person has
    answered.
    """
    wanted = [verdicts.c.source == "teacher"]
    if decision is not None:
        wanted.append(verdicts.c.decision == decision)
    return _reviewed(db, wanted, slice, (verdicts.c.draw,), limit)


def _reviewed(
    db: Connection,
    wanted: Sequence[ColumnElement[bool]],
    slice: str | None,
    order: Sequence[ColumnElement[Any]],
    limit: int,
) -> Rows:
    """First which rows, then the rows."""
    which = select(verdicts.c.segment).where(*wanted)
    if slice is not None:
        which = which.join(segments, segments.c.id == verdicts.c.segment)
        which = which.join(device_slices, device_slices.c.device == segments.c.device)
        which = which.where(device_slices.c.slice == slice)
    found = which.order_by(*order).limit(limit).subquery()
    whole = _REVIEW.join(found, found.c.segment == verdicts.c.segment)
    return db.execute(whole.order_by(*order)).all()


def still_asked(db: Connection, ids: Sequence[str]) -> dict[str, Any]:
    """Those of these segments that no person has answered for."""
    mine = _REVIEW.where(verdicts.c.segment.in_(ids), verdicts.c.source == "teacher")
    return {row.segment: row for row in db.execute(mine)}


def _begins(db: Connection, text: str) -> ColumnElement[bool]:
    """Whether a segment's text begins so, large and small letters alike."""
    bytewise = "C" if db.dialect.name == "postgresql" else "BINARY"
    indexed = func.lower(func.substr(segments.c.text, literal_of(1), literal_of(PREFIX)))
    column = indexed.collate(bytewise)
    low = func.lower(text[:PREFIX])
    return and_(column >= low, column < low.op("||")(_LAST))


def literal_of(number: int) -> ColumnElement[int]:
    """A number that stands in the statement itself, as in the index it is to match."""
    return literal(number, literal_execute=True)


# -- data sets and models --------------------------------------------------------------------------


def dataset_page(
    db: Connection, *, before: tuple[int, str] | None = None, limit: int = 100
) -> Rows:
    """The newest first; `before` is (created_ms, id)."""
    return _newest(db, select(datasets), datasets.c.created_ms, datasets.c.id, before, limit)


def dataset(db: Connection, id: str) -> Row[Any] | None:
    return db.execute(select(datasets).where(datasets.c.id == id)).one_or_none()


def splits_of(db: Connection, dataset: str) -> dict[str, int]:
    counted = select(dataset_members.c.split, func.count())
    mine = counted.where(dataset_members.c.dataset == dataset).group_by(dataset_members.c.split)
    return {row[0]: row[1] for row in db.execute(mine)}


def models_of_dataset(db: Connection, dataset: str) -> Rows:
    mine = select(model_datasets.c.model_name, model_datasets.c.model_version)
    return db.execute(mine.where(model_datasets.c.dataset == dataset)).all()


def member_page(
    db: Connection, dataset: str, *, split: str | None = None, after: str = "", limit: int = 100
) -> Rows:
    """By segment, with both texts; a segment that is gone has none."""
    mine = select(dataset_members).where(
        dataset_members.c.dataset == dataset, dataset_members.c.segment > after
    )
    if split is not None:
        mine = mine.where(dataset_members.c.split == split)
    # First which rows: joined to all of them, segments are walked through from the first one on.
    page = mine.order_by(dataset_members.c.segment).limit(limit).subquery()
    whole = (
        select(
            page, segments.c.device, segments.c.text, segments.c.confidence,
            segments.c.duration_s, labels.c.text.label("label_text"),
            labels.c.source.label("label_source"),
        )
        .outerjoin(segments, segments.c.id == page.c.segment)
        .outerjoin(labels, labels.c.id == page.c.label)
    )  # fmt: skip
    return db.execute(whole.order_by(page.c.segment)).all()


def model_page(
    db: Connection, *, before: tuple[int, str, str] | None = None, limit: int = 100
) -> Rows:
    """The newest first, with how many devices run each; `before` is (created_ms, name, version)."""
    running = (
        select(devices.c.model_name, devices.c.model_version, func.count().label("devices"))
        .group_by(devices.c.model_name, devices.c.model_version)
        .subquery()
    )
    its = and_(running.c.model_name == models.c.name, running.c.model_version == models.c.version)
    page = select(models, func.coalesce(running.c.devices, 0).label("devices"))
    page = page.outerjoin(running, its)
    key = (models.c.created_ms, models.c.name, models.c.version)
    if before is not None:
        page = page.where(tuple_(*key) < tuple_(*before))
    return db.execute(page.order_by(*(column.desc() for column in key)).limit(limit)).all()


def model(db: Connection, name: str, version: str) -> Row[Any] | None:
    mine = (models.c.name == name) & (models.c.version == version)
    return db.execute(select(models).where(mine)).one_or_none()


def datasets_of_model(db: Connection, name: str, version: str) -> list[str]:
    mine = (model_datasets.c.model_name == name) & (model_datasets.c.model_version == version)
    return list(db.scalars(select(model_datasets.c.dataset).where(mine)))


def children_of_model(db: Connection, name: str, version: str) -> list[str]:
    mine = (models.c.name == name) & (models.c.parent == version)
    return list(db.scalars(select(models.c.version).where(mine)))


def devices_running(db: Connection, name: str, version: str) -> int:
    mine = (devices.c.model_name == name) & (devices.c.model_version == version)
    return db.scalar(select(func.count()).select_from(devices).where(mine)) or 0


# -- rollouts, erasures, events --------------------------------------------------------------------


def rollout_page(
    db: Connection,
    *,
    open_only: bool = False,
    before: tuple[int, str] | None = None,
    limit: int = 100,
) -> Rows:
    """The newest first; `before` is (created_ms, id)."""
    page = select(rollouts)
    if open_only:
        page = page.where(rollouts.c.state.not_in([state.value for state in OVER]))
    return _newest(db, page, rollouts.c.created_ms, rollouts.c.id, before, limit)


def rollout(db: Connection, id: str) -> Row[Any] | None:
    return db.execute(select(rollouts).where(rollouts.c.id == id)).one_or_none()


def rollout_entries(db: Connection, id: str, *, after: int = -1, limit: int | None = None) -> Rows:
    """Its log, the oldest first."""
    mine = select(rollout_log).where(rollout_log.c.rollout == id, rollout_log.c.number > after)
    return db.execute(mine.order_by(rollout_log.c.number).limit(limit)).all()


def rollout_log_after(db: Connection, id: str, number: int) -> list[dict[str, Any]]:
    """The entries after this one, the oldest first. A log has as many as the fleet has devices:
    read as one text they take half the time.
    """
    entry = cast(rollout_log.c.entry, Text)
    mine = select(entry).where(rollout_log.c.rollout == id, rollout_log.c.number > number)
    texts = db.scalars(mine.order_by(rollout_log.c.number))
    found: list[dict[str, Any]] = json.loads(f"[{','.join(texts)}]")
    return found


def erasure_page(
    db: Connection, *, before: tuple[int, str] | None = None, limit: int = 100
) -> Rows:
    """The newest first; `before` is (created_ms, id)."""
    return _newest(db, select(erasures), erasures.c.created_ms, erasures.c.id, before, limit)


def erasure(db: Connection, id: str) -> Row[Any] | None:
    return db.execute(select(erasures).where(erasures.c.id == id)).one_or_none()


def erasure_answers(db: Connection, id: str) -> Rows:
    """The devices that were told, and those that have answered."""
    mine = select(
        erasure_devices.c.device, erasure_devices.c.answered_ms, erasure_devices.c.segments
    ).where(erasure_devices.c.erasure == id)
    return db.execute(mine.order_by(erasure_devices.c.device)).all()


def _newest(
    db: Connection,
    page: Select[Any],
    time: ColumnElement[int],
    id: ColumnElement[str],
    before: tuple[int, str] | None,
    limit: int,
) -> Rows:
    if before is not None:
        page = page.where(tuple_(time, id) < tuple_(*before))
    return db.execute(page.order_by(time.desc(), id.desc()).limit(limit)).all()
