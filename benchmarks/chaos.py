"""Broker and ingest that are killed at random while devices send to them; shared by benchmarks.

with Intake(folder) as intake:
    with intake.device("kitchen-1") as device:
        device.deliver(segments)
    intake.kill("broker", rng)
counts = intake.counts(ids_of_what_was_sent)
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sqlalchemy import select

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store, schema
from edge_runtime.errors import StorageError
from tests.autotrain_cloud.processes import Device, IngestProcess
from tests.broker import Broker

PARTS = ("broker", "ingest")
RESEND_S = 5.0  # a segment without a receipt is sent again
PATIENCE_S = 900.0  # a device never gives up; a benchmark has to


class Intake:
    """mosquitto with the project's configuration, `vitconformer cloud ingest`, and its store."""

    def __init__(self, folder: Path, url: str = "") -> None:
        """`url`: of the database; SQLite in the folder without it."""
        self._folder = folder
        self.settings = StoreSettings(
            url=url or f"sqlite:///{folder}/store.db", blobs=str(folder / "blobs")
        )
        self.config = folder / "cloud.toml"  # that the ingest runs with
        self.kills: Counter[str] = Counter()

    def __enter__(self) -> Intake:
        self.store = Store.open(self.settings)
        place = self._folder / "broker"
        place.mkdir()
        self.broker = Broker.start(place)
        self._ingest = IngestProcess(self.broker, self.settings, self._folder)
        self._ingest.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ingest.__exit__()
        self.broker.close()
        self.store.close()

    def device(self, name: str) -> Device:
        return Device(self.broker, name, resend_s=RESEND_S, patience_s=PATIENCE_S)

    def kill(self, part: str, rng: random.Random, *, away_s: float = 0.0) -> None:
        """SIGKILL, which ends the process with the store too; half of the brokers forget all.

        It is started again within `away_s`.
        """
        self.kills[part] += 1
        if part == "broker":
            self.broker.kill()
        else:
            self._ingest.kill()
        time.sleep(rng.uniform(0, away_s))
        if part == "broker":
            self.broker.restart(forget=rng.random() < 0.5)
        else:
            self._ingest.start()

    def has(self, id: str) -> bool:
        """Whether the store has this segment now."""
        rows = schema.segments
        with self.store.read() as db:
            return db.scalar(select(rows.c.id).where(rows.c.id == id)) is not None

    def counts(self, sent: Collection[str]) -> dict[str, int]:
        """What became of these ids.

        lost: not in the store, or without audio that is what its digest says. twice: rows beyond
        the first of an id. unknown: in the store, and never sent.
        """
        with self.store.read() as db:
            rows = db.execute(select(schema.segments.c.id, schema.segments.c.audio)).all()
        there = Counter(row.id for row in rows)
        whole = {row.id for row in rows if self._is_whole(row.audio)}
        return {
            "sent": len(set(sent)),
            "lost": len(set(sent) - whole),
            "twice": there.total() - len(there),
            "unknown": len(set(there) - set(sent)),
        }

    def _is_whole(self, digest: str) -> bool:
        try:
            return bool(self.store.audio(digest))
        except StorageError:
            return False


def shown(counts: dict[str, Any]) -> str:
    """Kills, for a table."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
