"""Devices as the cloud sees them: topics and bytes."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from autotrain_cloud.ingest import Ingest, Packet
from autotrain_cloud.settings import IngestSettings, RetentionSettings
from autotrain_cloud.store import Store
from autotrain_cloud.store.outbox import Outgoing
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import Birth, Message, Segment, Telemetry
from edge_runtime.contract.records import Histogram, Model, SpokenWord
from edge_runtime.contract.topics import channel_of, topic_of

MODEL = Model(
    name="en-demo", version="1.0", release_counter=1, manifest_sha256=bytes(32), precision="int8"
)
NOW = 1_800_000_000_000
HISTOGRAM = Histogram(bounds=(0.5,), counts=(1, 2), total=1.5)


def segment(number: int, *, size: int = 300, words: int = 2, **changes: Any) -> Segment:
    """The segment of this number; its audio is random, and the same every time."""
    audio = changes.pop("audio", None) or random.Random(number).randbytes(size)
    facts: dict[str, Any] = {
        "id": f"{number:032x}",
        "session": 1,
        "sequence": number,
        "captured_ms": NOW + number,
        "clock_is_set": True,
        "duration_s": 2.5,
        "sample_rate": 16_000,
        "codec": "opus",
        "audio": audio,
        "audio_sha256": hashlib.sha256(audio).digest(),
        "model": MODEL,
        "text": " ".join(f"word{each}" for each in range(words)),
        "words": tuple(
            SpokenWord(
                word=f"word{each}",
                start_s=each * 0.31,
                end_s=each * 0.31 + 0.27,
                confidence=0.9 - each * 0.013,
            )
            for each in range(words)
        ),
        "confidence": 0.62,
        "deletion_score": 0.1,
        "language": "en",
        "reasons": ("unsure",),
        "inclusion_probability": 1.0,
        "random_probability": 0.01,
        "consent": "c-1",
    }
    return Segment(**(facts | changes))


def birth(session: int = 1, **changes: Any) -> Birth:
    facts: dict[str, Any] = {
        "connected_ms": NOW,
        "clock_is_set": True,
        "agent": "0.5.0",
        "model": MODEL,
        "hardware": "board",
    }
    return Birth(session=session, **(facts | changes))


def telemetry(sequence: int, **changes: Any) -> Telemetry:
    facts: dict[str, Any] = {
        "session": 1,
        "start_ms": NOW,
        "end_ms": NOW + 1000,
        "model": MODEL,
        "utterances": 3,
        "speech_s": 7.5,
        "confidence": HISTOGRAM,
        "word_confidence": HISTOGRAM,
        "deletion_score": HISTOGRAM,
        "first_word_s": HISTOGRAM,
        "final_s": HISTOGRAM,
        "real_time_factor": 0.1,
        "selected": {"unsure": 2},
        "vetoed": {},
        "unsampled": 0,
        "queued": 4,
        "queued_bytes": 9000,
        "dead": 0,
        "crashes": 0,
        "gauges": {"temperature_c": 51.5},
    }
    return Telemetry(sequence=sequence, **(facts | changes))


def packet(message: Message, device: str = "kitchen-1") -> Packet:
    return topic_of(channel_of(message).name, device), encode(message)


def new_ingest(store: Store, *, days: int = 365, **changes: Any) -> Ingest:
    """Without a check of consents, unless asked for."""
    settings = IngestSettings(**({"check_consent": False} | changes))
    return Ingest(store, settings, RetentionSettings(selected_days=days))


def said(outgoing: list[Outgoing]) -> list[tuple[str, Message]]:
    """Device, message of what is published."""
    return [(each.topic.split("/")[2], decode(each.payload)) for each in outgoing]
