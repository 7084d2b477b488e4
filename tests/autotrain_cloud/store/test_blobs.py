"""Audio is where its digest says, whole, and gone when it is to be gone."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, update

from autotrain_cloud.settings import RetentionSettings, StoreSettings
from autotrain_cloud.store import Store, erasure, schema, segments, spool, upkeep
from autotrain_cloud.store.blobs import Blobs
from autotrain_cloud.store.secrets import secret
from edge_runtime.errors import ConfigError, StorageError
from tests.autotrain_cloud.fleet import NOW, birth, new_ingest, packet, segment, telemetry

DAY_MS = 86_400_000


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_blob_lies_under_its_digest_and_is_checked_when_it_is_read(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    digest = blobs.write(b"audio")
    assert blobs.write(b"audio") == digest
    [path] = files(tmp_path)
    assert path == tmp_path / "sha256" / digest[:2] / digest[2:]
    assert blobs.read(digest) == b"audio"
    assert list(blobs.digests()) == [digest]
    path.write_bytes(b"other")
    with pytest.raises(StorageError, match="damaged"):
        blobs.read(digest)
    blobs.delete(digest)
    blobs.delete(digest)
    with pytest.raises(StorageError, match="cannot be read"):
        blobs.read(digest)


def test_an_object_store_does_the_same() -> None:
    blobs = Blobs("memory://fleet/audio")
    digests = {blobs.write(bytes([number])) for number in range(5)}
    assert set(blobs.digests()) == digests
    for digest in digests:
        assert len(blobs.read(digest)) == 1
        blobs.delete(digest)
    assert list(blobs.digests()) == []


def test_a_url_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"store\.blobs"):
        Blobs("nonsense://x")


def test_audio_moves_from_the_database_to_its_place(store: Store, tmp_path: Path) -> None:
    sent = [segment(number) for number in range(5)]
    new_ingest(store).commit([packet(each) for each in sent], now_ms=NOW)
    assert spool.settle(store, 3) == 3
    assert len(files(tmp_path / "blobs")) == 3
    assert all(store.audio(each.audio_sha256.hex()) == each.audio for each in sent)
    assert (spool.settle(store), spool.settle(store)) == (2, 0)
    assert all(store.audio(each.audio_sha256.hex()) == each.audio for each in sent)
    with store.read() as db:
        assert set(db.scalars(select(schema.blobs.c.data))) == {None}


def test_a_place_that_does_not_answer_costs_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_ingest(store).commit([packet(segment(1))], now_ms=NOW)

    def refuse(_: Blobs, __: bytes) -> str:
        raise StorageError("down")

    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "write", refuse)
        with pytest.raises(StorageError):
            spool.settle(store)
    assert store.audio(segment(1).audio_sha256.hex()) == segment(1).audio
    assert spool.settle(store) == 1


def test_audio_erased_while_it_moves_does_not_stay(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_ingest(store).commit([packet(segment(1))], now_ms=NOW)
    real = Blobs.write

    def write(blobs: Blobs, data: bytes) -> str:
        digest = real(blobs, data)
        erasure.erase(store, segments=[segment(1).id], now_ms=NOW)
        real(blobs, data)  # as if it had come just after
        return digest

    monkeypatch.setattr(Blobs, "write", write)
    spool.settle(store)
    assert files(tmp_path / "blobs") == []


def test_audio_that_two_segments_share_goes_with_the_last(store: Store, tmp_path: Path) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(segment(n, audio=b"same")) for n in (1, 2)], now_ms=NOW)
    spool.settle(store)
    erasure.erase(store, segments=[segment(1).id], now_ms=NOW)
    assert len(files(tmp_path / "blobs")) == 1
    erasure.erase(store, segments=[segment(2).id], now_ms=NOW)
    assert files(tmp_path / "blobs") == []
    ingest.commit([packet(segment(3, audio=b"same"))], now_ms=NOW)
    assert store.audio(segment(3, audio=b"same").audio_sha256.hex()) == b"same"


def test_audio_that_comes_again_between_an_erasure_and_the_burial_is_kept(store: Store) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(segment(1, audio=b"same"))], now_ms=NOW)
    with store.begin() as db:
        segments.remove(db, [segment(1).id])
    ingest.commit([packet(segment(2, audio=b"same"))], now_ms=NOW)
    assert spool.bury(store) == 0
    assert store.audio(segment(2, audio=b"same").audio_sha256.hex()) == b"same"


def test_objects_that_nobody_knows_are_swept(store: Store) -> None:
    new_ingest(store).commit([packet(segment(1))], now_ms=NOW)
    spool.settle(store)
    orphan = store.blobs.write(b"orphan")
    assert spool.sweep(store) == 1
    assert orphan not in set(store.blobs.digests())
    assert store.audio(segment(1).audio_sha256.hex()) == segment(1).audio


def test_what_outlives_its_retention_is_deleted(store: Store, tmp_path: Path) -> None:
    ingest = new_ingest(store, days=10)
    old, kept, random = segment(1), segment(2), segment(3, reasons=("random",))
    ingest.commit([packet(each) for each in (old, kept, random)], now_ms=NOW)
    ingest.commit([packet(telemetry(1)), ("fl/v1/kitchen-1/up/segment", b"?")], now_ms=NOW)
    spool.settle(store)
    with store.begin() as db:
        segments.set_retention(db, [kept.id], "guard", days=1000, now_ms=NOW)
    retention = RetentionSettings(telemetry_days=20, dead_letter_days=5)
    assert upkeep.forget_old(store, retention, now_ms=NOW + 9 * DAY_MS) == 1  # the dead letter
    assert upkeep.forget_old(store, retention, now_ms=NOW + 21 * DAY_MS) == 2
    with store.read() as db:
        assert {row.id for row in segments.find(db)} == {kept.id, random.id}
    assert len(files(tmp_path / "blobs")) == 2


def test_dead_letters_are_bounded(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ingest = new_ingest(store)
    for number in range(5):
        poison = b"?" * 400_000 + bytes([number])
        ingest.commit([("fl/v1/kitchen-1/up/segment", poison)], now_ms=NOW + number)
    retention = RetentionSettings(dead_letter_megabytes=1)
    assert upkeep.forget_old(store, retention, now_ms=NOW + 10) == 3
    with store.read() as db:
        left = list(db.scalars(select(schema.dead_letters.c.first_ms)))
    assert sorted(left) == [NOW + 3, NOW + 4]
    assert "dead letters: 3 deleted" in caplog.text


def test_upkeep_does_its_work_when_it_is_quiet(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "QUIET_S", 0.01)
    new_ingest(store).commit([packet(birth()), packet(segment(1))], now_ms=NOW)
    with store.begin() as db:
        db.execute(update(schema.segments).values(expires_ms=NOW * 2))
    worker = upkeep.Upkeep(store, RetentionSettings())
    worker.start()
    from tests.autotrain_cloud.processes import wait_until

    wait_until(lambda: len(files(tmp_path / "blobs")) == 1)
    worker.close()


def test_store_settings_have_defaults() -> None:
    assert StoreSettings().url.startswith("sqlite:///")


def test_audio_that_comes_again_while_orphans_are_swept_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = new_ingest(store)
    store.blobs.write(segment(1).audio)  # nobody's yet

    def bury(store: Store) -> int:
        ingest.commit([packet(segment(1))], now_ms=NOW)
        spool.settle(store)
        return real(store)

    real = spool.bury
    monkeypatch.setattr(spool, "bury", bury)
    spool.sweep(store)
    assert store.audio(segment(1).audio_sha256.hex()) == segment(1).audio


def test_a_secret_is_drawn_once_for_all_that_share_the_store(
    store: Store, store_settings: StoreSettings
) -> None:
    found = []

    def draw() -> None:
        other = Store.open(store_settings)
        found.append(secret(other, "group"))
        other.close()

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {secret(store, "group")}
    assert len(found) == 4
    assert re.fullmatch("[0-9a-f]{32}", found[0])
    assert secret(store, "other") != found[0]
