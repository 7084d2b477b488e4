"""What the devices reported, read from the store: confidence over time, and who runs what."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from autotrain_cloud.store import Store
from autotrain_cloud.store.schema import devices, segments, telemetry, updates

ENDS = ("committed", "failed", "rolled-back")  # of an update


@dataclass(frozen=True, slots=True)
class Report:
    """Of some seconds of a device."""

    device: str
    at_s: float  # after the first drifted utterance
    model: str
    utterances: int
    confidence: float  # mean over the utterances


@dataclass(frozen=True, slots=True)
class Update:
    device: str
    at_s: float
    state: str
    version: str
    error: str


def reports(store: Store, begun: float) -> list[Report]:
    """Those with at least one utterance, the oldest first."""
    with store.read() as db:
        rows = db.execute(
            select(telemetry).where(telemetry.c.utterances > 0).order_by(telemetry.c.end_ms)
        ).all()
    return [
        Report(
            row.device, round(row.end_ms / 1000 - begun, 1), row.model_version, row.utterances,
            float(row.confidence["total"]) / row.utterances,
        )
        for row in rows
    ]  # fmt: skip


def ended_updates(store: Store, begun: float) -> list[Update]:
    with store.read() as db:
        rows = db.execute(
            select(updates).where(updates.c.state.in_(ENDS)).order_by(updates.c.received_ms)
        ).all()
    return [
        Update(row.device, round(row.at_ms / 1000 - begun, 1), row.state, row.target, row.error)
        for row in rows
    ]


def running(store: Store) -> dict[str, str]:
    """Device -> version of the model that it runs."""
    with store.read() as db:
        rows = db.execute(select(devices.c.name, devices.c.model_version)).all()
    return {row.name: row.model_version or "" for row in rows}


def segment_counts(store: Store) -> dict[str, int]:
    """Device -> segments in the store."""
    with store.read() as db:
        counted = select(segments.c.device, func.count()).group_by(segments.c.device)
        return dict(db.execute(counted).all())
