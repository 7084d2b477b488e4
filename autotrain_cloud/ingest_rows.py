"""Messages as rows of the store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from autotrain_cloud.store.devices import model_columns
from autotrain_cloud.store.plain import clean, records, to_json, without_nul
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


def segment(
    device: str, message: Segment, words: bytes | None, *, now_ms: int, retention: str, days: int
) -> Row:
    """`words`: as CBOR, where they were not decoded."""
    if words is None:
        words = pack(json.loads(to_json(records(message.words))))
    return {
        **{name: getattr(message, name) for name in _SEGMENT},
        **model_columns(message.model),
        "device": device,
        "received_ms": now_ms,
        "audio": message.audio_sha256.hex(),
        "text": clean(message.text),
        "words": words,
        "alternatives": records(message.alternatives),
        "reasons": list(message.reasons),
        "retention": retention,
        "expires_ms": now_ms + days * 86_400_000,
        "extra": message.extra,
    }


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
