"""Segments out of the store, as shards that the steps of learning read.

Audio is written beside them: a step then needs neither the database nor an object store, and what
was erased meanwhile is found by looking for its id in one folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from autotrain_cloud.segments import HeardWord, Segment
from autotrain_cloud.service.watch import slices_of
from autotrain_cloud.store import Store, segments
from autotrain_cloud.tables import write_rows
from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

PAGE = 500


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was written."""

    shards: tuple[Path, ...]
    segments: int
    hours: float


def gather(
    store: Store,
    out: Path,
    *,
    slice: str | None = None,
    since_ms: int = 0,
    until_ms: int,
    size: int = 200,
) -> Gathered:
    """`slice`: of devices that belong to it; `size`: segments in a shard. Times are of arrival.

    The same arguments give the same files. Raises ConfigError if there is nothing to write,
    StorageError where database, audio or disk do not answer.
    """
    with store.read() as db:
        belongs = slices_of(db)
        rows: list[Row[Any]] = []
        before: tuple[int, str] | None = None
        while page := segments.find(
            db, since_ms=since_ms, until_ms=until_ms, before=before, limit=PAGE
        ):
            before = (page[-1].received_ms, page[-1].id)
            rows += [row for row in page if slice is None or belongs.get(row.device) == slice]
    if not rows:
        where = f" of slice {slice!r}" if slice is not None else ""
        raise ConfigError(f"the store has no segments{where} from that time")
    found = [_segment(store, row, belongs.get(row.device, ""), out) for row in rows[::-1]]
    shards = []
    for number, start in enumerate(range(0, len(found), size), start=1):
        path = out / f"segments-{number:04}.jsonl"
        write_rows(path, Segment, found[start : start + size])
        shards.append(path)
    return Gathered(tuple(shards), len(found), sum(one.duration_s for one in found) / 3600)


def _segment(store: Store, row: Row[Any], slice: str, out: Path) -> Segment:
    ending = {"opus": "ogg", "flac": "flac"}.get(row.codec, "pcm")
    audio = out / "audio" / f"{row.id}.{ending}"
    if not audio.exists():
        audio.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(audio, store.audio(row.audio))
    return Segment(
        id=row.id, audio=f"audio/{audio.name}", audio_sha256=row.audio, duration_s=row.duration_s,
        codec=row.codec if row.codec == "pcm16" else "file", sample_rate=row.sample_rate,
        text=row.text,
        words=tuple(
            HeardWord(
                word=word["word"], start_s=word["start_s"], end_s=word["end_s"],
                confidence=word["confidence"],
            )
            for word in row.words
        ),
        confidence=row.confidence, device=row.device, slice=slice, language=row.language,
        model=f"{row.model_name} {row.model_version}", captured_ms=row.captured_ms,
        consent=row.consent, retention=row.retention, random_probability=row.random_probability,
    )  # fmt: skip
