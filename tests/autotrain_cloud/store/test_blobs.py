"""Audio is where its digest says, whole, and gone when it is to be gone."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import re
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from autotrain_cloud.settings import RetentionSettings, StoreSettings
from autotrain_cloud.store import Store, erasure, outbox, schema, segments, spool, upkeep
from autotrain_cloud.store.blobs import Blobs, written_ms
from autotrain_cloud.store.secrets import secret
from edge_runtime.contract.messages import Receipt
from edge_runtime.errors import ConfigError, StorageError
from tests.autotrain_cloud.fleet import NOW, birth, new_ingest, packet, said, segment, telemetry

DAY_MS = 86_400_000


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_pack_lies_by_its_day_and_each_piece_is_checked_when_it_is_read(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    pieces = [b"audio", b"other audio"]
    first, second = (hashlib.sha256(piece).hexdigest() for piece in pieces)
    pack = blobs.write(pieces)
    [path] = files(tmp_path)
    assert path == tmp_path / "packs" / pack
    assert blobs.read(pack, 0, 5, first) == b"audio"
    assert blobs.read(pack, 5, 11, second) == b"other audio"
    assert list(blobs.packs()) == list(blobs.packs(written_ms(pack))) == [pack]
    assert list(blobs.packs(written_ms(pack) + 2 * DAY_MS)) == []
    path.write_bytes(b"audiO" + pieces[1])
    with pytest.raises(StorageError, match="damaged"):
        blobs.read(pack, 0, 5, first)
    blobs.delete(pack)
    blobs.delete(pack)
    with pytest.raises(StorageError, match="cannot be read"):
        blobs.read(pack, 0, 5, first)


@pytest.mark.parametrize("refusing", [False, True])
@pytest.mark.parametrize(
    "sizes", [[1], [4095], [4096], [4097, 1], [(1 << 22) - 1, 1, 1], [1 << 22], [9_000_000, 300]]
)
def test_a_pack_is_whole_whatever_its_size_and_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], refusing: bool
) -> None:
    write, asked = os.write, []

    def like_others(file: int, data: memoryview) -> int:  # that only take the flag, and less
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            asked.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(file, data[:1_000_000])

    if refusing:
        monkeypatch.setattr(os, "write", like_others)
    rng = random.Random(sum(sizes))
    pieces = [rng.randbytes(size) for size in sizes]
    pack = Blobs(str(tmp_path)).write([memoryview(piece) for piece in pieces])
    assert (tmp_path / "packs" / pack).read_bytes() == b"".join(pieces)
    assert len(asked) <= 1


def test_an_object_store_does_the_same() -> None:
    blobs = Blobs("memory://fleet/audio")
    packs = {blobs.write([b"x", bytes([number])]) for number in range(5)}
    assert set(blobs.packs()) == packs
    found = {blobs.read(each, 0, 1, hashlib.sha256(b"x").hexdigest()) for each in packs}
    assert found == {b"x"}
    for pack in packs:
        blobs.delete(pack)
    assert list(blobs.packs()) == []


def test_a_pack_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            Blobs(str(tmp_path)).write([bytes(900), bytes(900)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == []


def test_a_url_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"store\.blobs"):
        Blobs("nonsense://x")


def test_a_batch_is_one_pack_and_what_is_there_is_not_written_again(
    store: Store, tmp_path: Path
) -> None:
    sent = [segment(number) for number in range(5)]
    ingest = new_ingest(store)
    ingest.commit([packet(each) for each in sent[:3]], now_ms=NOW)
    ingest.commit([packet(each) for each in sent], now_ms=NOW)
    ingest.commit([packet(each) for each in sent], now_ms=NOW)
    assert sum(path.stat().st_size for path in files(tmp_path / "blobs")) == 5 * 300
    assert len(files(tmp_path / "blobs")) == 2
    assert all(store.audio(each.audio_sha256.hex()) == each.audio for each in sent)


def test_while_the_place_does_not_answer_there_is_no_receipt_and_nothing_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = new_ingest(store)

    def refuse(*_: object) -> str:
        raise StorageError("down")

    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "write", refuse)
        with pytest.raises(StorageError):
            ingest.commit([packet(segment(1))], now_ms=NOW)
    with store.read() as db:
        assert segments.count(db) == 0
    [(_, receipt)] = said(ingest.commit([packet(segment(1))], now_ms=NOW))
    assert isinstance(receipt, Receipt)


def test_a_batch_that_fails_leaves_no_pack_behind_that_stays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def broken(*_: object, **__: object) -> None:
            raise StorageError("the disk is full")

        patch.setattr(outbox, "post_encoded", broken)
        with pytest.raises(StorageError):
            new_ingest(store).commit([packet(segment(1))], now_ms=NOW)
    left = files(tmp_path / "blobs")  # PostgreSQL might have committed: it is left to be swept
    assert len(left) == (store.engine.dialect.name == "postgresql")
    monkeypatch.setattr(spool, "LEAVE_MS", -1)
    assert spool.sweep(store) == len(left)
    assert files(tmp_path / "blobs") == []


def test_erased_audio_leaves_its_pack_and_the_others_stay(store: Store, tmp_path: Path) -> None:
    sent = [segment(number) for number in range(5)]
    new_ingest(store).commit([packet(each) for each in sent], now_ms=NOW)
    erasure.erase(store, segments=[sent[1].id, sent[3].id], now_ms=NOW)
    [path] = files(tmp_path / "blobs")
    assert path.read_bytes() == sent[0].audio + sent[2].audio + sent[4].audio
    assert all(store.audio(each.audio_sha256.hex()) == each.audio for each in sent[::2])
    with pytest.raises(StorageError, match="no such audio"):
        store.audio(sent[1].audio_sha256.hex())
    with store.read() as db:
        assert db.execute(select(schema.holes)).all() == []


@pytest.mark.parametrize("operation", range(5))
def test_a_burial_that_is_cut_off_anywhere_is_finished_by_the_next(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    sent = [segment(number) for number in range(3)]
    new_ingest(store).commit([packet(each) for each in sent], now_ms=NOW)
    with store.begin() as db:
        segments.remove(db, [sent[1].id])

    class CutError(Exception):
        pass

    left = operation

    def cut_off(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                raise CutError
            left -= 1
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:  # read, read, write, begin again after the delete
        for name in ("read", "write", "delete"):
            patch.setattr(Blobs, name, cut_off(getattr(Blobs, name)))
        patch.setattr(Store, "begin", _second(Store.begin, cut_off))
        with pytest.raises(CutError):
            spool.bury(store)
    spool.bury(store)
    monkeypatch.setattr(spool, "LEAVE_MS", -1)
    spool.sweep(store)
    [path] = files(tmp_path / "blobs")
    assert path.read_bytes() == sent[0].audio + sent[2].audio
    assert all(store.audio(each.audio_sha256.hex()) == each.audio for each in sent[::2])


def _second(real: Any, cut_off: Any) -> Any:
    """The first call as it is."""
    calls = iter([real])
    return lambda store: next(calls, cut_off(real))(store)


def test_audio_that_two_segments_share_goes_with_the_last(store: Store, tmp_path: Path) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(segment(n, audio=b"same")) for n in (1, 2)], now_ms=NOW)
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
    assert spool.bury(store) == 1  # the first copy
    assert store.audio(segment(2, audio=b"same").audio_sha256.hex()) == b"same"


def test_packs_that_nobody_knows_are_swept_but_for_those_just_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_ingest(store).commit([packet(segment(1))], now_ms=NOW)
    orphan = store.blobs.write([b"orphan"])
    assert spool.sweep(store) == 0
    monkeypatch.setattr(spool, "LEAVE_MS", -1)
    assert spool.sweep(store) == 1
    assert orphan not in set(store.blobs.packs())
    assert store.audio(segment(1).audio_sha256.hex()) == segment(1).audio


def test_what_outlives_its_retention_is_deleted(store: Store, tmp_path: Path) -> None:
    ingest = new_ingest(store, days=10)
    old, kept, random = segment(1), segment(2), segment(3, reasons=("random",))
    ingest.commit([packet(each) for each in (old, kept, random)], now_ms=NOW)
    ingest.commit([packet(telemetry(1)), ("fl/v1/kitchen-1/up/segment", b"?")], now_ms=NOW)
    with store.begin() as db:
        segments.set_retention(db, [kept.id], "guard", days=1000, now_ms=NOW)
    retention = RetentionSettings(telemetry_days=20, dead_letter_days=5)
    assert upkeep.forget_old(store, retention, now_ms=NOW + 9 * DAY_MS) == 1  # the dead letter
    assert upkeep.forget_old(store, retention, now_ms=NOW + 21 * DAY_MS) == 2
    with store.read() as db:
        assert {row.id for row in segments.find(db)} == {kept.id, random.id}
    [path] = files(tmp_path / "blobs")
    assert path.read_bytes() == kept.audio + random.audio


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
        db.execute(update(schema.segments).values(expires_ms=1))
    worker = upkeep.Upkeep(store, RetentionSettings())
    worker.start()
    from tests.autotrain_cloud.processes import wait_until

    wait_until(lambda: files(tmp_path / "blobs") == [])
    worker.close()


def test_store_settings_have_defaults() -> None:
    assert StoreSettings().url.startswith("sqlite:///")


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
