"""Messages as rows of the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection

from autotrain_cloud.store.devices import model_columns
from autotrain_cloud.store.plain import clean, records, to_json, without_nul
from autotrain_cloud.store.schema import segments
from autotrain_cloud.store.sql import insert_values
from edge_runtime.contract.codec import pack
from edge_runtime.contract.fields import to_plain
from edge_runtime.contract.messages import (
    Lost,
    Part,
    Reply,
    Segment,
    Telemetry,
    UpdateReport,
)

Row = dict[str, Any]

_SEGMENT = (
    "id",
    "session",
    "sequence",
    "captured_ms",
    "clock_is_set",
    "duration_s",
    "sample_rate",
    "codec",
    "confidence",
    "deletion_score",
    "language",
    "inclusion_probability",
    "random_probability",
    "consent",
    "redacted",
)
_MODEL = ("name", "version", "release_counter", "precision")
_OFFERED = (
    *_SEGMENT,
    "model_name",
    "model_version",
    "model_counter",
    "model_precision",
    "model_manifest",
    "device",
    "audio",
    "text",
    "alternatives",
    "reasons",
    "extra",
    "retention",
)
_as_they_are, _of_model = itemgetter(*_SEGMENT), itemgetter(*_MODEL)
_TELEMETRY = (
    "session",
    "sequence",
    "start_ms",
    "end_ms",
    "utterances",
    "speech_s",
    "real_time_factor",
    "unsampled",
    "queued",
    "queued_bytes",
    "dead",
    "crashes",
)
_HISTOGRAMS = ("confidence", "word_confidence", "deletion_score", "first_word_s", "final_s")
_UPDATE = (
    "session",
    "sequence",
    "attempt",
    "target",
    "target_counter",
    "state",
    "progress",
    "at_ms",
)


class Offered(NamedTuple):
    """A segment as its row, but for what is only known when that is written."""

    captured_ms: int
    audio: tuple[int, int]  # where it begins and ends in the message's bytes
    digest: str  # of the audio
    retention: str
    values: tuple[Any, ...]  # of `_OFFERED`
    words: bytes = b""  # as CBOR


def offered(
    device: str, fields: Mapping[str, Any], audio: tuple[int, int], extra: Any = None
) -> Offered:
    """From the plain fields of a segment, but for its words."""
    digest = fields["audio_sha256"].hex()
    reasons = fields["reasons"]
    retention = "random" if "random" in reasons else "selected"
    model = fields["model"]
    alternatives = fields["alternatives"]
    values = (
        *_as_they_are(fields),
        *_of_model(model),
        model["manifest_sha256"].hex(),
        device,
        digest,
        clean(fields["text"]),
        to_json(alternatives) if alternatives else "[]",
        _json_of(tuple(reasons)),
        to_json(extra) if extra else "{}",
        retention,
    )
    return Offered(fields["captured_ms"], audio, digest, retention, values)


def offered_message(device: str, message: Segment, payload: bytes) -> Offered:
    """From a segment that was decoded as a whole."""
    words = pack(json.loads(to_json(records(message.words))))
    start = payload.index(message.audio)
    audio = start, start + len(message.audio)
    return offered(device, to_plain(message), audio, message.extra)._replace(words=words)


def insert_segments(
    db: Connection, rows: Sequence[Offered], *, now_ms: int, days_of: Callable[[str], int]
) -> int:
    """Those whose ids are new; -> how many."""
    times = {
        retention: (now_ms, now_ms + days_of(retention) * 86_400_000)
        for retention in ("random", "selected")
    }
    values = [(*row.values, row.words, *times[row.retention]) for row in rows]
    return insert_values(db, segments, (*_OFFERED, "words", "received_ms", "expires_ms"), values)


@lru_cache(maxsize=1000)
def _json_of(texts: tuple[str, ...]) -> str:
    return to_json(texts)


def part(device: str, message: Part, *, now_ms: int) -> Row:
    return {
        "device": device,
        "id": message.id,
        "sha256": message.sha256.hex(),
        "size": message.size,
        "count": message.count,
        "number": message.index,
        "received_ms": now_ms,
        "data": message.data,
    }


def lost(device: str, message: Lost, *, now_ms: int) -> Iterable[Row]:
    for stone in message.tombstones:
        yield {
            "id": stone.id,
            "device": device,
            "session": message.session,
            "fate": stone.fate,
            "reason": clean(stone.reason),
            "at_ms": stone.at_ms,
            "inclusion_probability": stone.inclusion_probability,
            "report": message.id,
            "received_ms": now_ms,
        }


def incidents(device: str, message: Lost, *, now_ms: int) -> Iterable[Row]:
    for number, line in enumerate(message.incidents):
        yield {
            "report": message.id,
            "number": number,
            "device": device,
            "line": clean(line),
            "received_ms": now_ms,
        }


def telemetry(device: str, message: Telemetry, *, now_ms: int) -> Row:
    return {
        **{name: getattr(message, name) for name in _TELEMETRY},
        **{name: to_plain(getattr(message, name)) for name in _HISTOGRAMS},
        **model_columns(message.model),
        "device": device,
        "received_ms": now_ms,
        "selected": without_nul(dict(message.selected)),
        "vetoed": without_nul(dict(message.vetoed)),
        "gauges": without_nul(dict(message.gauges)),
        "extra": message.extra,
    }


def update(device: str, message: UpdateReport, *, now_ms: int) -> Row:
    running = message.running
    return {
        **{name: getattr(message, name) for name in _UPDATE},
        "running_name": running and running.name,
        "running_version": running and running.version,
        "running_counter": running and running.release_counter,
        "device": device,
        "received_ms": now_ms,
        "error": clean(message.error),
    }


def reply(device: str, message: Reply, *, now_ms: int) -> Row:
    return {
        "command": message.command,
        "device": device,
        "ok": message.ok,
        "detail": clean(message.detail),
        "result": message.result,
        "received_ms": now_ms,
    }
