"""Telemetry as devices send it."""

from __future__ import annotations

from edge_runtime.contract.messages import Telemetry
from edge_runtime.contract.records import Histogram, Model

BOUNDS = tuple(i / 10 for i in range(1, 10))


def a_model(version: str = "0.4.0") -> Model:
    return Model(
        name="en-demo", version=version, release_counter=7, manifest_sha256=b"0" * 32,
        precision="int8-x86",
    )  # fmt: skip


def histogram(values: list[float]) -> Histogram:
    counts = [0] * (len(BOUNDS) + 1)
    for value in values:
        counts[sum(value > bound for bound in BOUNDS)] += 1
    return Histogram(bounds=BOUNDS, counts=tuple(counts), total=float(sum(values)))


def a_report(
    utterances: int,
    confidence: float | list[float],
    *,
    sequence: int = 1,
    session: int = 1,
    version: str = "0.4.0",
    wanted: float = 0,
    vetoed: int = 0,
    start_ms: int = 0,
    end_ms: int = 0,
    crashes: float = 0,
    real_time_factor: float = 0.2,
) -> Telemetry:
    values = confidence if isinstance(confidence, list) else [confidence] * utterances
    return Telemetry(
        session=session, sequence=sequence, start_ms=start_ms, end_ms=end_ms,
        model=a_model(version), utterances=utterances, speech_s=2.0 * utterances,
        confidence=histogram(values), word_confidence=histogram(values),
        deletion_score=histogram([]), first_word_s=histogram([]),
        final_s=histogram([0.5] * utterances), real_time_factor=real_time_factor,
        selected={"unsure": int(wanted), "random": 1}, vetoed={"budget": vetoed}, unsampled=0,
        queued=0, queued_bytes=0, dead=0, crashes=int(crashes),
    )  # fmt: skip
