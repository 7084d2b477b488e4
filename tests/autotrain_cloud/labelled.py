"""Labels made by hand, for what comes after labelling."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from autotrain_cloud.labels.filters import Outcome
from autotrain_cloud.labels.records import Label
from autotrain_cloud.segments import Segment
from autotrain_cloud.teacher import Provenance, Transcript

ABOUT = Provenance(family="f", model="m", version="1", checkpoint_sha256="c" * 64, settings="{}")


def label(name: str, text: str, **fields: object) -> Label:
    """A gold label of 4 s; fields of its segment may be given as `segment_NAME`."""
    segment = Segment(
        id=name, audio=f"/audio/{name}.flac",
        audio_sha256=hashlib.sha256(name.encode()).hexdigest(),
        duration_s=4.0,
        text="what it heard", confidence=0.4, device="d0", slice="en", captured_ms=1000,
        language="en", consent="c1", retention="standard",
    )  # fmt: skip
    inner = {k.removeprefix("segment_"): v for k, v in fields.items() if k.startswith("segment_")}
    outer = {k: v for k, v in fields.items() if not k.startswith("segment_")}
    made = Label(
        segment=replace(segment, **inner),  # type: ignore[arg-type]
        text=text, source="teacher", decision="keep", triage="gold", reasons=(), trust=0.9,
        outcomes=(Outcome(rule="rate", passed=True), Outcome(rule="avg_logprob", passed=False)),
        speech_s=3.0, voiced_s=2.0, snr_db=20.0, teacher_device=0.3, teacher_second=0.05,
        teacher=Transcript(text=text, confidence=0.8, compression_ratio=1.0, provenance=ABOUT),
    )  # fmt: skip
    return replace(made, **outer)  # type: ignore[arg-type]
