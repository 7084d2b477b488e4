"""A data set is a folder that never changes: rows in Parquet, and a head that says what they are.

    dataset = freeze(Path("datasets"), "kitchen", rows, settings={...}, parents=(old.hash,))
    dataset = Dataset.open(path)            # the hash is computed again: damage is found

The hash covers rows, parents, settings and erasures, and nothing else: neither the order of the
rows nor the time, the place or the version of a library.  The same content has the same hash and
the same folder, so writing it twice writes it once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from autotrain_cloud.labels.stretches import whole
from autotrain_cloud.tables import from_plain, read_rows, to_plain, write_rows
from edge_runtime.errors import ConfigError

FORMAT = 1
ROWS, HEAD = "manifest.parquet", "head.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One segment of a data set."""

    segment_id: str
    audio: str  # absolute path, or a URL
    audio_sha256: str
    duration_s: float
    start_s: float = 0.0  # of a clip within the audio …
    end_s: float | None = None  # … to here; none: to its end
    codec: str = "file"
    sample_rate: int = 16_000  # Hz, of pcm16
    text: str
    source: str  # human, source or teacher
    teacher: str = ""  # family, model, version and digest of its checkpoint
    triage: str = ""
    filters: tuple[str, ...] = ()  # rules that the label passed
    doubts: tuple[str, ...] = ()  # rules that it broke and was kept in spite of
    trust: float = 1.0
    weight: float = 1.0
    split: str  # train, dev, replay or guard
    device: str
    speaker: str = ""
    slice: str = ""
    domain: str = ""
    language: str = ""
    captured_ms: int = 0
    consent: str = ""
    retention: str = ""
    utility: float = 0.0
    p_domain: float = 0.0
    p_wrong: float = 0.0
    diversity: float = 0.0  # distance to the nearest that was taken before
    reason: str = ""  # why it was taken, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known about a data set as a whole."""

    format: int
    name: str
    hash: str
    parents: tuple[str, ...]
    settings: str  # canonical JSON
    erased: tuple[str, ...]  # segments that a parent had and that were taken out on request
    segments: int
    hours: float
    counts: str  # JSON: column -> value -> segments


@dataclass(frozen=True, slots=True)
class Dataset:
    """An open data set. `path` is its folder."""

    path: Path
    head: Head
    rows: tuple[Row, ...]  # by segment id

    @property
    def hash(self) -> str:
        return self.head.hash

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Raises ConfigError: missing, damaged, changed by hand, or of another version."""
        try:
            head = from_plain(Head, json.loads((path / HEAD).read_text("utf-8")), str(path / HEAD))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a data set: {HEAD} cannot be read: {error}") from error
        if head.format != FORMAT:
            raise ConfigError(f"{path}: of format {head.format}; this version reads {FORMAT}")
        rows = tuple(read_rows(path / ROWS, Row))
        found = content_hash(rows, head.name, head.parents, head.settings, head.erased)
        if found != head.hash:
            raise ConfigError(
                f"{path}: changed or damaged: its content hashes to {found[:12]}, its head says "
                f"{head.hash[:12]}; take it from a copy, or make it again"
            )
        return cls(path, head, rows)


def freeze(
    folder: Path,
    name: str,
    rows: Iterable[Row],
    *,
    settings: Mapping[str, Any] | None = None,
    parents: tuple[str, ...] = (),
    erased: tuple[str, ...] = (),
) -> Dataset:
    """Write a data set below `folder`, whole or not at all, unless it is there.

    Raises ConfigError: no rows, or a segment twice.
    """
    ordered = tuple(sorted(rows, key=lambda row: row.segment_id))
    if not ordered:
        raise ConfigError(f"data set {name!r}: no segments; nothing was written")
    for before, after in itertools.pairwise(ordered):
        if before.segment_id == after.segment_id:
            raise ConfigError(f"data set {name!r}: segment {after.segment_id} is in it twice")
    described = json.dumps(dict(settings or {}), sort_keys=True)
    erased = tuple(sorted(erased))
    digest = content_hash(ordered, name, parents, described, erased)
    head = Head(
        format=FORMAT, name=name, hash=digest, parents=parents, settings=described, erased=erased,
        segments=len(ordered), hours=round(sum(row.duration_s for row in ordered) / 3600, 6),
        counts=json.dumps(_counts(ordered), sort_keys=True),
    )  # fmt: skip
    target = folder / f"{name}-{digest[:16]}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        try:
            write_rows(fresh / ROWS, Row, ordered)
            text = json.dumps(to_plain(head), indent=1, ensure_ascii=False) + "\n"
            (fresh / HEAD).write_text(text, "utf-8")
            fresh.chmod(0o755)
            fresh.rename(target)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            if not target.exists():  # else somebody else has written the same
                raise
    return Dataset(target, head, ordered)


def content_hash(
    rows: Iterable[Row], name: str, parents: tuple[str, ...], settings: str, erased: tuple[str, ...]
) -> str:
    """SHA-256 of what a data set is."""
    digest = hashlib.sha256(json.dumps([FORMAT, name, parents, settings, erased]).encode())
    for row in rows:
        digest.update(json.dumps(to_plain(row), sort_keys=True).encode())
    return digest.hexdigest()


def erase(dataset: Dataset, ids: Iterable[str], folder: Path) -> Dataset:
    """The same without these segments and all clips of them, as a child.

    The old one is returned if it has none of them.

    Deleting the old folder is the caller's: first everything that needs it must name the child.
    Raises ConfigError if nothing would be left.
    """
    asked = set(ids)
    gone = {row.segment_id for row in dataset.rows if whole(row.segment_id) in asked}
    if not gone:
        return dataset
    return freeze(
        folder,
        dataset.head.name,
        (row for row in dataset.rows if row.segment_id not in gone),
        settings=json.loads(dataset.head.settings),
        parents=(dataset.hash,),
        erased=tuple({*dataset.head.erased, *gone}),
    )


def descends(dataset: Dataset, others: Iterable[Dataset]) -> list[Dataset]:
    """`dataset` and all among `others` that it was made from, nearest first."""
    known = {other.hash: other for other in others}
    line, waiting = [dataset], list(dataset.head.parents)
    while waiting:
        parent = known.pop(waiting.pop(0), None)
        if parent is not None:
            line.append(parent)
            waiting += parent.head.parents
    return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From one data set to another."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[tuple[str, str, str], ...]  # segment, text before, text after
    changed: tuple[tuple[str, tuple[str, ...]], ...]  # segment, and which other columns


def diff(before: Dataset, after: Dataset) -> Difference:
    """What became of every segment."""
    old = {row.segment_id: row for row in before.rows}
    new = {row.segment_id: row for row in after.rows}
    both = sorted(old.keys() & new.keys())
    names = [field.name for field in fields(Row) if field.name != "text"]
    changed = [
        (key, tuple(name for name in names if getattr(old[key], name) != getattr(new[key], name)))
        for key in both
    ]
    return Difference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        relabelled=tuple(
            (key, old[key].text, new[key].text) for key in both if old[key].text != new[key].text
        ),
        changed=tuple(entry for entry in changed if entry[1]),
    )


def query(dataset: Dataset, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """SQL over the table `rows`, in DuckDB; -> names of the columns, and what was found.

    Raises ConfigError for SQL that DuckDB refuses.
    """
    import duckdb

    with duckdb.connect(":memory:") as connection:
        path = str(dataset.path / ROWS).replace("'", "''")
        connection.execute(f"create table rows as select * from read_parquet('{path}')")
        connection.execute("set enable_external_access = false")  # the query sees this table only
        try:
            found = connection.execute(sql)
            names = [column[0] for column in found.description or ()]
            return names, found.fetchall()
        except duckdb.Error as error:
            raise ConfigError(f"query: {str(error).splitlines()[0]}") from error


def _counts(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    columns = ("split", "source", "triage", "slice", "domain", "retention", "teacher")
    rows = list(rows)
    return {name: dict(Counter(getattr(row, name) for row in rows)) for name in columns}


def with_split(row: Row, split: str, reason: str) -> Row:
    """The same row in another part of a data set."""
    return replace(row, split=split, reason=reason)
