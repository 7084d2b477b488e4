"""Labels as rows of a data set."""

from __future__ import annotations

import hashlib

from autotrain_cloud.datasets.manifest import Row
from autotrain_cloud.labels.records import Label
from autotrain_cloud.teacher import Provenance


def row_of(label: Label, split: str, reason: str) -> Row:
    """A row; what selection knows of it is added by selection."""
    segment = label.segment
    return Row(
        segment_id=segment.id,
        audio=segment.audio,
        audio_sha256=segment.audio_sha256,
        duration_s=segment.duration_s,
        start_s=segment.start_s,
        end_s=segment.end_s,
        codec=segment.codec,
        sample_rate=segment.sample_rate,
        text=label.text,
        source=label.source,
        teacher=named(label.teacher.provenance) if label.teacher else "",
        triage=label.triage,
        filters=tuple(o.rule for o in label.outcomes if o.passed),
        doubts=tuple(o.rule for o in label.outcomes if o.passed is False),
        trust=label.trust,
        weight=label.trust,
        split=split,
        device=segment.device,
        speaker=segment.speaker,
        slice=segment.slice,
        domain=segment.domain,
        language=segment.language,
        captured_ms=segment.captured_ms,
        consent=segment.consent,
        retention=segment.retention,
        reason=reason,
    )


def named(provenance: Provenance) -> str:
    """A teacher in one word: family, model, version, checkpoint and settings."""
    settings = hashlib.sha256(provenance.settings.encode()).hexdigest()[:8]
    return (
        f"{provenance.family}/{provenance.model}@{provenance.version}"
        f"#{provenance.checkpoint_sha256[:12]}-{settings}"
    )


def voice(device: str, speaker: str) -> str:
    """Who is speaking, as well as it is known: splits keep all of a voice on one side."""
    return f"speaker:{speaker}" if speaker else f"device:{device}"


def drawn(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on these two only."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
