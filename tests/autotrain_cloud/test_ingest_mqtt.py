"""The ingest as a process between a real broker and a real database, which are taken from it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store, consents, erasure, schema
from autotrain_cloud.store import segments as stored
from edge_runtime.contract.messages import Consent, Death, Erase
from tests.autotrain_cloud.fleet import NOW, birth, segment
from tests.autotrain_cloud.processes import (
    Device,
    IngestProcess,
    has_ended,
    limit_files,
    wait_until,
)
from tests.broker import MOSQUITTO, Broker
from tests.postgres import Postgres

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="Debian: apt install mosquitto")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker.start(tmp_path_factory.mktemp("broker")) as running:
        yield running


def count(store: Store, table: str) -> int:
    with store.read() as db:
        return db.scalar(select(func.count()).select_from(schema.metadata.tables[table])) or 0


def test_devices_get_receipts_consents_and_erase_requests_and_presence_is_known(
    broker: Broker, store: Store, store_settings: StoreSettings, tmp_path: Path
) -> None:
    with store.begin() as db:
        consents.grant(db, "hall-1", "c-1", now_ms=NOW)
    with (
        IngestProcess(broker, store_settings, tmp_path, check_consent=True) as ingest,
        Device(broker, "kitchen-1", resend_s=300) as kitchen,
        Device(broker, "hall-1", resend_s=300) as hall,  # so there is one answer to each segment
    ):
        ingest.wait()
        kitchen.say(birth(3))
        hall.say(birth(4))
        assert hall.deliver(segment(number) for number in range(5)) == []
        [refused] = kitchen.deliver([segment(100)])
        assert refused.reason == "unknown-consent"
        hall.say_bytes("telemetry", b"\xa1poison")
        wait_until(lambda: any(isinstance(each, Consent) for each in hall.others))
        wait_until(lambda: hall.states and hall.states[-1].accepting)
        erasure.erase(store, segments=[f"{1:032x}"], now_ms=NOW)
        wait_until(lambda: any(isinstance(each, Erase) for each in hall.others))
        [refused] = hall.deliver([segment(1)])
        assert refused.reason == "erased"
        kitchen.say(Death(session=3, graceful=True))

        def states() -> dict[str, str]:
            with store.read() as db:
                return {row.name: row.state for row in db.execute(select(schema.devices))}

        wait_until(lambda: states() == {"hall-1": "online", "kitchen-1": "stopped"})
        wait_until(lambda: count(store, "dead_letters") == 3)
        wait_until(lambda: count(store, "outbox") == 0)
        assert ingest.close() == 0
        assert "Traceback" not in ingest.log


@pytest.mark.slow
def test_killed_again_and_again_it_loses_nothing_and_keeps_nothing_twice(
    broker: Broker, store: Store, store_settings: StoreSettings, tmp_path: Path
) -> None:
    total, rng = 240, random.Random(5)
    early: list[str] = []
    left = 10  # receipts until it is killed

    with (
        Device(broker, "attic-1") as device,
        IngestProcess(broker, store_settings, tmp_path) as ingest,
    ):

        def on_receipt(id: str) -> None:
            nonlocal left
            with store.read() as db:
                if stored.get(db, id) is None:
                    early.append(id)
            left -= 1
            if left == 0:  # in the middle of the next batch
                worker = ingest.worker_pid()
                ingest.kill()
                wait_until(partial(has_ended, worker))  # by itself
                ingest.start()
                left = rng.randrange(20, 60)

        wanted = (segment(1000 + number, size=4000) for number in range(total))
        assert device.deliver(wanted, on_receipt) == []
    assert early == []
    with store.read() as db:
        ids = [row.id for row in stored.find(db, limit=1000)]
    assert len(ids) == len(set(ids)) == total
    assert all(store.audio(segment(1000 + n, size=4000).audio_sha256.hex()) for n in range(total))


def test_when_the_process_with_the_store_is_killed_the_ingest_says_so_and_ends(
    broker: Broker, tmp_path: Path
) -> None:
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/s.db", blobs=str(tmp_path / "blobs"))
    with IngestProcess(broker, settings, tmp_path) as ingest:
        ingest.wait()
        os.kill(ingest.worker_pid(), signal.SIGKILL)
        assert ingest.process is not None
        assert ingest.process.wait(30) == 1
        assert "the process with the store has ended" in ingest.log
        assert "Traceback" not in ingest.log


@pytest.mark.slow
def test_while_the_database_is_down_devices_are_told_and_nothing_is_lost(
    broker: Broker, tmp_path: Path
) -> None:
    with Postgres.start() as postgres:
        settings = StoreSettings(url=postgres.new_store(), blobs=str(tmp_path / "blobs"))
        with (
            Device(broker, "cellar-1", resend_s=300) as device,  # no help from the device
            IngestProcess(broker, settings, tmp_path) as ingest,
        ):
            ingest.wait()
            device.deliver(segment(2000 + number) for number in range(10))
            postgres.stop("immediate")
            late = threading.Thread(
                target=lambda: device.deliver(segment(3000 + n) for n in range(40))
            )
            late.start()
            wait_until(lambda: not device.states[-1].accepting)
            assert "not available" in device.states[-1].reason
            time.sleep(1)
            assert ingest.process is not None
            assert ingest.process.poll() is None
            postgres.go()
            late.join(90)
            assert not late.is_alive()
            wait_until(lambda: device.states[-1].accepting)
        store = Store.open(settings)
        assert count(store, "segments") == 50
        store.close()


def test_on_a_full_disk_it_waits_and_goes_on_when_there_is_room(
    broker: Broker, tmp_path: Path
) -> None:
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/s.db", blobs=str(tmp_path / "blobs"))
    with (
        Device(broker, "garage-1", resend_s=300) as device,
        IngestProcess(broker, settings, tmp_path) as ingest,
    ):
        ingest.wait()
        device.deliver(segment(4000 + number) for number in range(5))
        worker = ingest.worker_pid()
        limit_files(worker, 300_000)
        sizes = (segment(5000 + n, size=20_000) for n in range(60))
        late = threading.Thread(target=lambda: device.deliver(sizes))
        late.start()
        wait_until(lambda: not device.states[-1].accepting)
        time.sleep(1)
        limit_files(worker, -1)
        late.join(90)
        assert not late.is_alive()
        wait_until(lambda: device.states[-1].accepting)
        assert ingest.close() == 0
    with sqlite3.connect(tmp_path / "s.db") as db:
        assert db.execute("SELECT count(*) FROM segments").fetchone() == (65,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_without_a_group_in_the_settings_nobody_can_guess_it(
    broker: Broker, tmp_path: Path
) -> None:
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/s.db", blobs=str(tmp_path / "blobs"))
    with (
        IngestProcess(broker, settings, tmp_path, group='""') as ingest,
        Device(broker, "cellar-1", resend_s=300) as device,  # what is swallowed does not come again
        Device(broker, "thief-1") as thief,
    ):
        ingest.wait()  # the state that the broker retains may be that of a test before
        for guess in ("ingest", "group", "vitconformer"):
            thief.share(guess)
        wait_until(lambda: device.states and device.states[-1].accepting)
        assert device.deliver(segment(7000 + number) for number in range(30)) == []
        assert ingest.close() == 0
    with sqlite3.connect(tmp_path / "s.db") as db:
        assert db.execute("SELECT count(*) FROM segments").fetchone() == (30,)
        [(group,)] = db.execute("SELECT value FROM secrets WHERE name = 'group'")
    db.close()
    assert len(group) == 32


def test_a_broker_that_forgets_everything_is_told_everything_again(tmp_path: Path) -> None:
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/s.db", blobs=str(tmp_path / "blobs"))
    store = Store.open(settings)
    folder = tmp_path / "broker"
    folder.mkdir()
    try:
        with (
            Broker.start(folder) as broker,
            IngestProcess(broker, settings, tmp_path, check_consent=True) as ingest,
        ):
            with store.begin() as db:
                consents.grant(db, "porch-1", "c-1", now_ms=NOW)
            wait_until(lambda: count(store, "outbox") == 0)
            broker.kill()
            broker.restart(forget=True)
            with Device(broker, "porch-1") as device:
                wait_until(lambda: any(isinstance(each, Consent) for each in device.others))
                wait_until(lambda: device.states and device.states[-1].accepting)
                assert device.deliver(segment(number) for number in range(3)) == []
            assert ingest.close() == 0
    finally:
        store.close()
