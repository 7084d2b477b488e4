"""A small fleet in a store: two devices, what they said, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import insert

from autotrain_cloud import api_tokens
from autotrain_cloud.plain import to_json
from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.service import journal
from autotrain_cloud.service.watch import set_slice
from autotrain_cloud.store import Store, consents
from autotrain_cloud.store.lineage import Member, add_dataset, add_label, add_model
from autotrain_cloud.store.schema import alarms, rollouts
from tests.autotrain_cloud.fleet import NOW, birth, new_ingest, packet, segment, telemetry

SEGMENTS = 12
WEEK_MS = 7 * 86_400_000


@dataclass(frozen=True)
class Asker:
    """A client with one token."""

    client: TestClient
    token: str

    def __call__(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def get(self, path: str, **params: Any) -> Any:
        response = self("GET", path, params=params)
        assert response.status_code == 200, response.text
        return response.json()


def add_token(store: Store, name: str, role: str, *, valid_ms: int = WEEK_MS) -> str:
    import time

    with store.begin() as db:
        now = time.time_ns() // 1_000_000
        return api_tokens.add(db, name, role, now_ms=now, valid_ms=valid_ms)


def segment_id(number: int) -> str:
    return f"{number:032x}"


def fill(store: Store) -> None:
    """Twelve segments of two devices in two slices; labels: kept, to be reviewed, none."""
    ingest = new_ingest(store)
    packets = [packet(birth(), name) for name in ("hall", "kitchen")]
    packets += [packet(telemetry(1), "kitchen"), packet(telemetry(2), "kitchen")]
    for number in range(SEGMENTS):
        made = segment(
            number, confidence=number / SEGMENTS, text="turn on the hole light",
            codec=("opus", "flac", "pcm16")[number % 3],
        )  # fmt: skip
        packets.append(packet(made, ("hall", "kitchen")[number % 2]))
    ingest.commit(packets, now_ms=NOW)
    with store.begin() as db:
        set_slice(db, "kitchen", "en/kitchen")
        set_slice(db, "hall", "en/hall")
        consents.grant(db, "kitchen", "c-1", now_ms=NOW)
        for number, accepted in ((0, True), (1, False), (3, False)):
            add_label(
                db, id=f"l-{number}", segment=segment_id(number), source="teacher", author="t",
                text="Word0, world1!", now_ms=NOW + number, accepted=accepted, confidence=0.8,
                provenance={} if accepted else {"decision": "review"},
            )  # fmt: skip
        members = [
            Member(segment=segment_id(0), label="l-0"), Member(segment=segment_id(2), split="dev")
        ]  # fmt: skip
        add_dataset(db, id="d-1", name="kitchen", manifest="m", members=members, now_ms=NOW)
        add_model(
            db, name="en-demo", version="1.0", counter=1, manifest="m", trained_on=[], now_ms=NOW
        )
        add_model(
            db, name="en-demo", version="2.0", counter=2, manifest="m", trained_on=["d-1"],
            parent="1.0", now_ms=NOW + 1,
        )  # fmt: skip
        for number, closed in ((1, None), (2, NOW + 9)):
            row = {
                "id": f"slice/en/kitchen@{number}", "level": "slice", "name": "en/kitchen",
                "model": "1.0", "statistic": "confidence", "change_ms": NOW, "run": "",
                "opened_ms": NOW + number, "closed_ms": closed, "closed_reason": "",
                "text": "it fell", "facts": {"usual": 0.9},
            }  # fmt: skip
            db.execute(insert(alarms), row)
        journal.note(db, "alarm", "en/kitchen", "it fell", now_ms=NOW)


def begin(store: Store, rollout: Rollout) -> None:
    """A rollout of which nothing has been written down yet."""
    row = {
        "id": rollout.plan.id, "state": "running", "plan": to_json(rollout.plan), "bundle": "b",
        "previous": "a", "created_ms": NOW, "changed_ms": NOW,
    }  # fmt: skip
    with store.begin() as db:
        db.execute(insert(rollouts), row)
