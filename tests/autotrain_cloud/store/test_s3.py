"""Audio in an object store that is really asked over HTTP, refuses, dies and comes back."""

from __future__ import annotations

import datetime
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.auth
import pytest
from sqlalchemy import func, select

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store, erasure, s3, schema, segments, spool
from autotrain_cloud.store.blobs import Blobs
from edge_runtime.contract.messages import Receipt
from edge_runtime.errors import ConfigError, StorageError
from tests.autotrain_cloud.fleet import NOW, new_ingest, packet, said, segment
from tests.autotrain_cloud.processes import Device, IngestProcess, wait_until
from tests.broker import MOSQUITTO, Broker
from tests.s3 import ObjectStore


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with ObjectStore.start(tmp_path) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def store(store_settings: StoreSettings, objects: ObjectStore) -> Iterator[Store]:
    opened = Store.open(StoreSettings(url=store_settings.url, blobs=objects.url))
    yield opened
    opened.close()


def test_a_pack_is_one_object_of_which_ranges_are_read(objects: ObjectStore) -> None:
    blobs = Blobs(objects.url)
    pack = blobs.write([b"audio", b"other audio"])
    [path] = objects.packs()
    assert path.read_bytes() == b"audioother audio"
    assert blobs.read(pack, 0, 5, sha(b"audio")) == b"audio"
    assert blobs.read(pack, 5, 11, sha(b"other audio")) == b"other audio"
    path.write_bytes(b"audiOother audio")
    with pytest.raises(StorageError, match="damaged"):
        blobs.read(pack, 0, 5, sha(b"audio"))
    assert list(blobs.packs()) == [pack]
    blobs.delete(pack)
    blobs.delete(pack)
    assert objects.packs() == []
    with pytest.raises(StorageError, match="NoSuchKey"):
        blobs.read(pack, 0, 5, sha(b"audio"))


def test_a_pack_too_large_for_one_request_arrives_whole(objects: ObjectStore) -> None:
    blobs = Blobs(objects.url)
    pieces = [random.Random(number).randbytes(21 * 2**20) for number in range(5)]
    pack = blobs.write(pieces)
    start = 3 * 21 * 2**20  # across the border of two parts
    assert blobs.read(pack, start, len(pieces[3]), sha(pieces[3])) == pieces[3]
    assert [path.stat().st_size for path in objects.packs()] == [105 * 2**20]


def test_no_listing_is_older_than_the_question(objects: ObjectStore) -> None:
    blobs, other = Blobs(objects.url), Blobs(objects.url)
    assert list(blobs.packs()) == []
    first, second = other.write([b"1"]), other.write([b"2"])
    assert set(blobs.packs()) == {first, second}
    blobs.check()
    other.delete(first)
    assert list(blobs.packs()) == [second]
    objects.kill()
    with pytest.raises(StorageError, match="EndpointConnectionError"):
        blobs.check()


def test_many_threads_read_and_write_at_once(objects: ObjectStore) -> None:
    blobs = Blobs(objects.url)

    def there_and_back(number: int) -> bool:
        data = random.Random(number).randbytes(20_000)
        return blobs.read(blobs.write([b"x", data]), 1, 20_000, sha(data)) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(64)))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "correct AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "nobody", "correct AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", None, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "set AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "rubbish", "correct AWS_ENDPOINT_URL"),
    ],
)
def test_wrong_settings_are_named(
    objects: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str | None,
    said: str,
) -> None:
    monkeypatch.delenv(name)
    if value is None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(name, value)
    blobs = Blobs(objects.url)
    for ask in (lambda: blobs.write([b"x"]), blobs.check, lambda: blobs.delete("1/2")):
        with pytest.raises(StorageError, match=said) as caught:
            ask()
        assert "fleet-secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_half_of_the_credentials_are_missed(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="missing: AWS_SECRET_ACCESS_KEY"):
        Blobs(objects.url).check()


def test_a_bucket_that_is_not_there_is_said_so_whatever_is_asked(objects: ObjectStore) -> None:
    blobs = Blobs("s3://another/audio")
    for ask in (
        lambda: blobs.write([b"x"]), blobs.check, lambda: list(blobs.packs()),
        lambda: blobs.delete("1/2"), lambda: blobs.read("1/2", 0, 1, ""),
    ):  # fmt: skip
        with pytest.raises(StorageError, match=r"no such bucket: make it, or correct store\.blobs"):
            ask()


def test_a_name_that_no_bucket_has_is_said_so(objects: ObjectStore) -> None:
    with pytest.raises(StorageError, match=r"correct store\.blobs"):
        Blobs("s3://Fl eet/audio").check()


def test_credentials_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as caught:
        Blobs("s3://key:hush@fleet/audio")
    assert "hush" not in str(caught.value)


def test_a_place_that_cannot_be_written_does_not_hold_a_batch_for_long(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone then never says that it wants the body, nor that it does not."""
    monkeypatch.setattr(s3, "PATIENCE_S", 5)
    objects.kill()
    objects.go("--read-only")
    began = time.monotonic()
    with pytest.raises(StorageError, match="does not answer in time"):
        Blobs(objects.url).write([b"x"])
    assert time.monotonic() - began < 30


def test_a_clock_that_is_wrong_is_named(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = botocore.auth.get_current_datetime

    def late(*arguments: object, **named: object) -> datetime.datetime:
        return real(*arguments, **named) + datetime.timedelta(hours=1)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", late)
    with pytest.raises(StorageError, match="clocks of this machine"):
        Blobs(objects.url).write([b"x"])


def test_one_that_takes_connections_and_says_nothing_does_not_hold_a_batch_for_long(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_S", 2)
    objects.kill()
    with socket.create_server(("127.0.0.1", objects.port)):
        began = time.monotonic()
        with pytest.raises(StorageError, match="takes connections and does not answer"):
            Blobs(objects.url).write([b"x"])
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "code", ["AccessDenied", "AuthorizationHeaderMalformed", "ExpiredToken", "SlowDown"]
)
def test_refusals_of_other_servers_are_explained(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """rclone has no rights and no regions, so these answers are as S3's documents have them."""
    objects.kill()
    with Refusing(objects.port, code), pytest.raises(StorageError, match=code) as caught:
        Blobs(objects.url).write([b"x"])
    assert s3.REMEDIES[code] in str(caught.value)


class Refusing:
    """Answers everything with an error of S3."""

    def __init__(self, port: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
        status = {"SlowDown": 503, "AccessDenied": 403}.get(code, 400)
        head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        self._answer = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line:
                line.recv(65536)
                line.sendall(self._answer)

    def __enter__(self) -> Refusing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def test_while_it_is_down_nothing_is_kept_nothing_refused_and_nothing_lost(
    store: Store, objects: ObjectStore
) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(segment(1))], now_ms=NOW)
    objects.kill()
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot be written"):
            ingest.commit([packet(segment(2)), packet(segment(3))], now_ms=NOW)
    with store.read() as db:
        assert segments.count(db) == 1
        assert db.scalar(select(func.count()).select_from(schema.dead_letters)) == 0
    objects.go()
    [(_, receipt)] = said(ingest.commit([packet(segment(n)) for n in (2, 3)], now_ms=NOW))
    assert isinstance(receipt, Receipt)
    assert len(receipt.ids) == 2
    assert all(store.audio(sha(segment(n).audio)) == segment(n).audio for n in (1, 2, 3))


def test_erased_audio_leaves_its_pack_and_what_a_crash_left_is_taken_up(
    store: Store, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [segment(number) for number in range(5)]
    new_ingest(store).commit([packet(each) for each in sent], now_ms=NOW)
    [before] = objects.packs()
    objects.kill()
    with pytest.raises(StorageError):
        erasure.erase(store, segments=[sent[1].id, sent[3].id], now_ms=NOW)
    with pytest.raises(StorageError, match="no such audio"):  # it is forgotten, not yet deleted
        store.audio(sha(sent[1].audio))
    objects.go()
    orphan = store.blobs.write([b"of a batch that was never committed"])
    monkeypatch.setattr(spool, "LEAVE_MS", -1)
    spool.sweep(store)
    assert orphan not in set(store.blobs.packs())
    [path] = objects.packs()
    assert path != before
    assert path.read_bytes() == sent[0].audio + sent[2].audio + sent[4].audio
    assert all(store.audio(sha(each.audio)) == each.audio for each in sent[::2])


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="Debian: apt install mosquitto")
def test_store_and_ingest_are_killed_in_the_middle_and_nothing_is_lost_and_nothing_twice(
    objects: ObjectStore, store: Store, store_settings: StoreSettings, tmp_path: Path
) -> None:
    total, rng, left = 200, random.Random(3), 20
    early: list[str] = []
    settings = StoreSettings(url=store_settings.url, blobs=objects.url)
    (tmp_path / "broker").mkdir()
    with (
        Broker.start(tmp_path / "broker") as broker,
        IngestProcess(broker, settings, tmp_path) as ingest,
        Device(broker, "attic-1") as device,
    ):
        ingest.wait()

        def on_receipt(id: str) -> None:
            nonlocal left
            with store.read() as db:
                row = db.execute(
                    select(schema.segments.c.audio).where(schema.segments.c.id == id)
                ).one_or_none()
            if row is None or not store.audio(row.audio):  # readable now, from the object store
                early.append(id)
            left -= 1
            if left == 0:
                if rng.random() < 0.5:
                    ingest.kill()
                objects.kill()
                if ingest.process is not None and ingest.process.poll() is not None:
                    ingest.start()
                time.sleep(rng.uniform(0.2, 1.5))
                objects.go()
                left = rng.randrange(25, 50)

        wanted = [segment(1000 + number, size=20_000) for number in range(total)]
        assert device.deliver(iter(wanted), on_receipt) == []
        objects.kill()
        late = threading.Thread(target=lambda: device.deliver([segment(1)]))
        late.start()
        wait_until(lambda: not device.states[-1].accepting)
        assert "set AWS_ENDPOINT_URL" in device.states[-1].reason
        objects.go()
        late.join(60)
        assert not late.is_alive()
        wait_until(lambda: device.states[-1].accepting)
        assert ingest.close() == 0
        assert "Traceback" not in ingest.log
    assert early == []
    with store.read() as db:
        ids = [row.id for row in segments.find(db, limit=1000)]
        assert db.scalar(select(func.count()).select_from(schema.dead_letters)) == 0
    assert len(ids) == len(set(ids)) == total + 1
    assert all(store.audio(sha(each.audio)) == each.audio for each in wanted)


@pytest.mark.skipif(MOSQUITTO is None, reason="Debian: apt install mosquitto")
def test_an_ingest_that_cannot_reach_it_tells_devices_before_they_send(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/s.db", blobs=objects.url)
    (tmp_path / "broker").mkdir()
    with (
        Broker.start(tmp_path / "broker") as broker,
        Device(broker, "attic-1") as device,
        IngestProcess(broker, settings, tmp_path) as ingest,
    ):
        wait_until(lambda: device.states and not device.states[-1].accepting)
        assert "correct AWS_SECRET_ACCESS_KEY" in device.states[-1].reason
        assert ingest.close() == 0
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in ingest.log.replace("wrong_", "")
