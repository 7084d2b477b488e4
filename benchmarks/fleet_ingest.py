"""The project's own ingest as a process, with a store that knows the devices and their consents."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import select

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store, consents
from autotrain_cloud.store.schema import segments
from benchmarks.fleet_devices import CONSENT
from tests.autotrain_cloud.processes import IngestProcess
from tests.broker import Broker


class CloudIngest:
    """On SQLite, or another database by URL."""

    def __init__(self, folder: Path, broker: Broker, devices: Iterable[str], url: str = "") -> None:
        url = url or f"sqlite:///{folder}/store.db"
        self._settings = StoreSettings(url=url, blobs=str(folder / "blobs"))
        self._process = IngestProcess(broker, self._settings, folder, check_consent=True)
        store = Store.open(self._settings)
        now_ms = time.time_ns() // 1_000_000
        with store.begin() as db:
            for device in devices:
                consents.grant(db, device, CONSENT, now_ms=now_ms)
        store.close()

    @property
    def pids(self) -> list[int]:
        """Of the process at the broker and the one at the store."""
        assert self._process.process is not None
        return [self._process.process.pid, self._process.worker_pid()]

    def start(self) -> None:
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.close()

    def stored(self) -> list[str]:
        """The id of every row."""
        store = Store.open(self._settings)
        try:
            with store.read() as db:
                return list(db.scalars(select(segments.c.id)))
        finally:
            store.close()
