"""Whatever arrives in whatever order: one row each, receipts after commits, nothing dropped."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text

from autotrain_cloud import ingest as module
from autotrain_cloud.ingest import Packet, judge
from autotrain_cloud.store import Store, consents, devices, erasure, schema
from autotrain_cloud.store import segments as stored
from autotrain_cloud.store.blobs import Blobs
from autotrain_cloud.store.engine import open_engine
from edge_runtime.contract.codec import MAX_MESSAGE_BYTES, decode, encode
from edge_runtime.contract.messages import (
    Death,
    Erase,
    Erased,
    Lost,
    Nack,
    Part,
    Receipt,
    Reply,
    UpdateReport,
)
from edge_runtime.contract.parts import split
from edge_runtime.contract.records import Tombstone
from tests.autotrain_cloud.conftest import empty_sqlite
from tests.autotrain_cloud.fleet import (
    MODEL,
    NOW,
    birth,
    new_ingest,
    packet,
    said,
    segment,
    telemetry,
)
from tests.edge_runtime.contract.examples import messages


@contextmanager
def temporary_store() -> Iterator[Store]:
    """For property tests, which cannot have a fixture for every example."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "store.db").write_bytes(empty_sqlite())
        engine = open_engine(f"sqlite:///{path}/store.db")
        event.listen(  # durability is for others to test; here are many examples
            engine, "connect", lambda db, _: db.execute("PRAGMA synchronous = OFF").close()
        )
        try:
            yield Store(engine, Blobs(folder))
        finally:
            engine.dispose()


def count(store: Store, table: str) -> int:
    with store.read() as db:
        return db.scalar(select(func.count()).select_from(schema.metadata.tables[table])) or 0


def all_rows(store: Store, table: str) -> list[Any]:
    with store.read() as db:
        return list(db.execute(select(schema.metadata.tables[table])).all())


def parts_of(number: int, size: int, packet_bytes: int = 2000) -> list[Packet]:
    whole = segment(number, size=size)
    pieces = split(whole.id, encode(whole), packet_bytes=packet_bytes)
    return [packet(piece) for piece in pieces]


def test_a_segment_is_kept_with_its_audio_and_its_device_gets_the_receipt(store: Store) -> None:
    whole = segment(1)
    answers = said(new_ingest(store).commit([packet(whole)], now_ms=NOW))
    assert answers == [("kitchen-1", Receipt(ids=(whole.id,)))]
    with store.read() as db:
        row = stored.get(db, whole.id)
    assert row is not None
    assert (row.device, row.text, row.model_version, row.consent) == (
        "kitchen-1", "word0 word1", "1.0", "c-1",
    )  # fmt: skip
    assert row.words[1]["word"] == "word1"
    assert row.reasons == ["unsure"]
    assert store.audio(row.audio) == whole.audio


def test_every_kind_of_message_finds_its_row(store: Store) -> None:
    stone = Tombstone(
        id=f"{7:032x}", fate="evicted", reason="full", at_ms=NOW, inclusion_probability=0.5
    )
    report = Lost(id=f"{8:032x}", session=1, tombstones=(stone,), incidents=("a file set aside",))
    update = UpdateReport(
        session=1, sequence=1, attempt=f"{9:032x}", target="1.1", target_counter=2,
        state="committed", running=dataclasses.replace(MODEL, version="1.1"), at_ms=NOW,
    )  # fmt: skip
    reply = Reply(command=f"{10:032x}", ok=True, result={"raw": b"\x00", "text": "a\0b"})
    batch = [birth(), telemetry(1), report, update, reply]
    packets = [packet(message) for message in batch]
    ingest = new_ingest(store)
    assert said(ingest.commit(packets, now_ms=NOW)) == [("kitchen-1", Receipt(ids=(report.id,)))]
    assert said(ingest.commit(packets, now_ms=NOW)) == [("kitchen-1", Receipt(ids=(report.id,)))]
    for table in ("devices", "telemetry", "lost", "incidents", "updates", "replies"):
        assert count(store, table) == 1, table
    assert count(store, "dead_letters") == 0
    [device] = all_rows(store, "devices")
    assert (device.state, device.model_version) == ("online", "1.1")
    [row] = all_rows(store, "telemetry")
    assert row.confidence == {"bounds": [0.5], "counts": [1, 2], "total": 1.5}
    assert row.gauges == {"temperature_c": 51.5}
    [row] = all_rows(store, "replies")
    assert row.result == {"raw": {"base64": "AA=="}, "text": "a\ufffdb"}


def test_the_death_of_an_older_session_is_ignored(store: Store) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(birth(5)), packet(Death(session=4))], now_ms=NOW)
    ingest.commit([packet(birth(3, agent="old"))], now_ms=NOW)
    [device] = all_rows(store, "devices")
    assert (device.state, device.session, device.agent) == ("online", 5, "0.5.0")
    ingest.commit([packet(Death(session=5))], now_ms=NOW)
    assert all_rows(store, "devices")[0].state == "offline"


@settings(max_examples=25)
@given(st.data())
def test_through_duplicates_reordering_and_interleaving_every_segment_is_one_row(
    data: st.DataObject,
) -> None:
    single = [packet(segment(number)) for number in range(6)]
    cut = [piece for number in range(6, 9) for piece in parts_of(number, 5000)]
    sent = single + cut
    again = data.draw(st.lists(st.sampled_from(sent), max_size=12))
    order = data.draw(st.permutations(sent + again))
    receipts: list[str] = []
    with temporary_store() as store:
        ingest = new_ingest(store)
        start = 0
        while start < len(order):
            size = data.draw(st.integers(1, 9))
            before = count(store, "segments")
            answers = said(ingest.commit(order[start : start + size], now_ms=NOW + start))
            for _, message in answers:
                assert isinstance(message, Receipt)
                receipts += message.ids
            with store.read() as db:  # a receipt is never ahead of its segment
                assert all(stored.get(db, id) for id in receipts)
            assert count(store, "segments") >= before
            start += size
            if data.draw(st.booleans()):
                ingest = new_ingest(store)  # restarted
        assert {f"{number:032x}" for number in range(9)} == set(receipts)
        assert count(store, "segments") == 9
        assert count(store, "blobs") == 9
        assert count(store, "dead_letters") == 0


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ("segment", "lost", "telemetry", "presence", "update", "erased", "reply")
            ),
            st.binary(max_size=60) | messages().map(encode),
        ),
        max_size=8,
    )
)
def test_no_bytes_stop_the_ingest_and_every_refused_packet_is_kept(
    hostile: list[tuple[str, bytes]],
) -> None:
    packets = [(f"fl/v1/kitchen-1/up/{channel}", payload) for channel, payload in hostile]
    good = packet(segment(1 << 40))
    with temporary_store() as store:
        ingest = new_ingest(store)
        answers = said(ingest.commit([*packets, good], now_ms=NOW))
        received = [id for _, each in answers if isinstance(each, Receipt) for id in each.ids]
        assert f"{1 << 40:032x}" in received
        refused = {
            (topic, payload)
            for topic, payload in packets
            if (judged := judge(topic, payload)).refusal and judged.refusal.permanent
        }
        dead = {(row.topic, bytes(row.payload)) for row in all_rows(store, "dead_letters")}
        assert refused <= dead


def test_bytes_that_are_no_message_are_a_dead_letter_and_nacked_if_they_say_what_they_are(
    store: Store,
) -> None:
    topic, good = packet(segment(1))
    wrong = good.replace(b"opus", b"wave")
    ingest = new_ingest(store)
    for _ in range(3):
        answers = said(
            ingest.commit([(topic, wrong), (topic, b"\xff"), packet(segment(2))], now_ms=NOW)
        )
        [receipt, nack] = [message for _, message in answers]
        assert receipt == Receipt(ids=(f"{2:032x}",))
        assert isinstance(nack, Nack)
        assert (nack.id, nack.permanent, nack.reason) == (f"{1:032x}", True, "malformed")
        assert "codec" in nack.detail
    dead = {bytes(row.payload): row for row in all_rows(store, "dead_letters")}
    assert set(dead) == {wrong, b"\xff"}
    assert [row.times for row in dead.values()] == [3, 3]


def test_a_message_too_large_is_refused_by_its_id(store: Store) -> None:
    topic, good = packet(segment(1))
    [(_, nack)] = said(
        new_ingest(store).commit([(topic, good + bytes(MAX_MESSAGE_BYTES))], now_ms=NOW)
    )
    assert nack == dataclasses.replace(
        nack,
        id=f"{1:032x}",
        permanent=True,
        reason="too-large",  # type: ignore[call-arg]
    )


def test_a_message_of_a_later_contract_is_kept_and_stays_on_the_device(store: Store) -> None:
    topic, good = packet(segment(1))
    later = good.replace(b"av\x01", b"av\x02")
    [(_, nack)] = said(new_ingest(store).commit([(topic, later)], now_ms=NOW))
    assert isinstance(nack, Nack)
    assert (nack.id, nack.permanent, nack.reason) == (f"{1:032x}", False, "unsupported")
    assert count(store, "dead_letters") == 1


def test_the_same_id_with_other_audio_is_refused_and_the_first_stays(store: Store) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(segment(1))], now_ms=NOW)
    other = segment(1, audio=b"other")
    for offered in (packet(other), packet(segment(1), "hall-1"), packet(other)):
        [(_, nack)] = said(ingest.commit([offered], now_ms=NOW))
        assert isinstance(nack, Nack)
        assert (nack.permanent, nack.reason) == (True, "digest-mismatch")
    answers = [
        m
        for _, m in said(
            ingest.commit([packet(segment(2)), packet(segment(2, audio=b"x"))], now_ms=NOW)
        )
    ]
    assert [type(each) for each in answers] == [Receipt, Nack]
    with store.read() as db:
        row = stored.get(db, f"{1:032x}")
    assert row is not None
    assert store.audio(row.audio) == segment(1).audio
    assert count(store, "dead_letters") == 3
    assert count(store, "blobs") == 2


def test_audio_that_is_not_what_its_digest_says_is_refused(store: Store) -> None:
    wrong = dataclasses.replace(segment(1), audio_sha256=bytes(32))
    [(_, nack)] = said(new_ingest(store).commit([packet(wrong)], now_ms=NOW))
    assert isinstance(nack, Nack)
    assert (nack.permanent, nack.reason) == (True, "digest-mismatch")
    assert count(store, "segments") == 0


def test_only_what_was_recorded_under_a_granted_consent_is_kept(store: Store) -> None:
    ingest = new_ingest(store, check_consent=True)
    with store.begin() as db:
        consents.grant(db, "kitchen-1", "c-1", now_ms=NOW)
    offered = [packet(segment(1)), packet(segment(2), "hall-1"), packet(segment(3, consent="c-2"))]
    answers = said(ingest.commit(offered, now_ms=NOW))
    assert answers[0] == ("kitchen-1", Receipt(ids=(f"{1:032x}",)))
    assert [(device, m.id, m.reason) for device, m in answers[1:] if isinstance(m, Nack)] == [
        ("hall-1", f"{2:032x}", "unknown-consent"),
        ("kitchen-1", f"{3:032x}", "unknown-consent"),
    ]
    with store.begin() as db:
        consents.withdraw(db, "kitchen-1", now_ms=NOW)
    [(_, answer)] = said(ingest.commit([packet(segment(4))], now_ms=NOW))
    assert isinstance(answer, Receipt)  # recorded before, and the device had the right to


def test_a_stranger_is_told_to_wait_where_devices_are_registered_by_hand(store: Store) -> None:
    ingest = new_ingest(store, register_devices=False)
    [(device, nack)] = said(ingest.commit([packet(segment(1)), packet(birth())], now_ms=NOW))
    assert isinstance(nack, Nack)
    assert (device, nack.permanent, nack.reason) == ("kitchen-1", False, "unknown-device")
    assert count(store, "devices") == 0
    with store.begin() as db:
        devices.register(db, ["kitchen-1"], now_ms=NOW)
    [(_, answer)] = said(ingest.commit([packet(segment(1))], now_ms=NOW))
    assert isinstance(answer, Receipt)


def test_what_was_erased_does_not_come_back(store: Store) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(segment(number)) for number in (1, 2)], now_ms=NOW)
    ingest.commit([packet(segment(3, consent="c-2"))], now_ms=NOW)
    ingest.commit([packet(segment(4), "hall-1")], now_ms=NOW)
    erasure.erase(
        store, segments=[f"{1:032x}"], consents=["c-2"], devices=["hall-1"], now_ms=NOW + 99
    )
    late = [
        packet(segment(1)),
        packet(segment(5, consent="c-2")),
        packet(segment(4), "hall-1"),
        *parts_of(6, 5000),
        packet(segment(200, consent="c-new"), "hall-1"),  # recorded after
    ]
    answers = said(ingest.commit(late, now_ms=NOW + 100))
    refused = {each.id: each for _, each in answers if isinstance(each, Nack)}
    assert set(refused) == {f"{number:032x}" for number in (1, 5, 4)}
    assert {(each.reason, each.permanent) for each in refused.values()} == {("erased", True)}
    with store.read() as db:
        left = {row.id for row in stored.find(db)}
    assert left == {f"{number:032x}" for number in (2, 6, 200)}
    assert all(row.payload == b"" for row in all_rows(store, "dead_letters"))


def test_dead_letters_of_an_erased_consent_go_with_it(store: Store) -> None:
    topic, good = packet(segment(1, consent="c-2"))
    offered = [(topic, good.replace(b"opus", b"wave")), (topic, b"?"), packet(segment(2))]
    new_ingest(store).commit(offered, now_ms=NOW)
    erasure.erase(store, consents=["c-2"], now_ms=NOW)
    assert [bytes(row.payload) for row in all_rows(store, "dead_letters")] == [b"?"]


def test_a_device_is_told_again_to_erase_until_it_answers(store: Store) -> None:
    ingest = new_ingest(store)
    ingest.commit([packet(segment(1))], now_ms=NOW)
    erasure.erase(store, segments=[f"{1:032x}"], now_ms=NOW)
    told = [m for _, m in said(ingest.claim(now_ms=NOW)) if isinstance(m, Erase)]
    assert [each.segments for each in told] == [(f"{1:032x}",)]
    ingest.commit([packet(birth())], now_ms=NOW)
    assert [m for _, m in said(ingest.claim(now_ms=NOW))] == told
    answer = Erased(request=told[0].id, segments=1, at_ms=NOW)
    ingest.commit([packet(answer), packet(birth())], now_ms=NOW)
    assert ingest.claim(now_ms=NOW) == []


def test_parts_cut_again_in_another_size_make_one_segment(store: Store) -> None:
    ingest = new_ingest(store)
    wide, narrow = parts_of(1, 5000, 3000), parts_of(1, 5000, 1000)
    assert said(ingest.commit(wide[:-1] + narrow[:-1], now_ms=NOW)) == []
    [(_, answer)] = said(ingest.commit(narrow[-1:], now_ms=NOW))
    assert answer == Receipt(ids=(f"{1:032x}",))
    [(_, answer)] = said(ingest.commit(wide[-1:], now_ms=NOW))
    assert answer == Receipt(ids=(f"{1:032x}",))
    assert count(store, "segments") == 1
    assert count(store, "parts") == 0


def test_parts_that_do_not_make_up_what_they_promise_are_asked_for_again(store: Store) -> None:
    ingest = new_ingest(store)
    pieces = parts_of(1, 5000)
    part = decode(pieces[1][1])
    assert isinstance(part, Part)
    pieces[1] = packet(dataclasses.replace(part, data=b"?" + part.data[1:]))
    [(_, nack)] = said(ingest.commit(pieces, now_ms=NOW))
    assert isinstance(nack, Nack)
    assert (nack.id, nack.permanent) == (f"{1:032x}", False)
    [(_, answer)] = said(ingest.commit(parts_of(1, 5000), now_ms=NOW))
    assert answer == Receipt(ids=(f"{1:032x}",))


def test_unfinished_parts_of_one_device_are_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAGED_BYTES", 20_000)
    ingest = new_ingest(store)
    for number in range(20):
        ingest.commit(parts_of(number, 5000)[:2], now_ms=NOW + number)
    held = sum(len(row.data) for row in all_rows(store, "parts"))
    assert 10_000 < held <= 20_000
    assert said(ingest.commit(parts_of(19, 5000), now_ms=NOW)) != []


def test_what_the_store_itself_cannot_take_becomes_a_dead_letter_and_the_rest_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.rows.telemetry

    def broken(device: str, message: Any, *, now_ms: int) -> Any:
        row = real(device, message, now_ms=now_ms)
        return row | {"utterances": object()} if message.sequence == 13 else row

    monkeypatch.setattr(module.rows, "telemetry", broken)
    offered = [packet(telemetry(1)), packet(telemetry(13)), packet(segment(1))]
    [(_, answer)] = said(new_ingest(store).commit(offered, now_ms=NOW))
    assert answer == Receipt(ids=(f"{1:032x}",))
    [dead] = all_rows(store, "dead_letters")
    assert (dead.reason, bytes(dead.payload)) == ("unstorable", offered[1][1])
    assert count(store, "telemetry") == 1


def test_what_is_published_is_kept_until_the_broker_has_it(store: Store) -> None:
    ingest = new_ingest(store)
    outgoing = ingest.commit([packet(segment(1)), packet(segment(2), "hall-1")], now_ms=NOW)
    assert len(outgoing) == 2
    again = new_ingest(store).begin(now_ms=NOW, broker_forgot=False)
    assert again == outgoing
    ingest.commit([], now_ms=NOW, finished=[each.number for each in outgoing])
    assert new_ingest(store).begin(now_ms=NOW, broker_forgot=False) == []


def test_text_that_postgresql_cannot_hold_is_kept_all_the_same(store: Store) -> None:
    odd = segment(1, text="a\0b", extra={"later": [b"\x01", "c\0d", 1 << 63]})
    ingest = new_ingest(store)
    [(_, answer)] = said(ingest.commit([packet(odd)], now_ms=NOW))
    assert isinstance(answer, Receipt)
    with store.read() as db:
        row = stored.get(db, odd.id)
        integer = db.scalar(text("SELECT 1"))
    assert row is not None
    assert integer == 1
    assert row.text == "a\ufffdb"
    assert row.extra == {"later": [{"base64": "AQ=="}, "c\ufffdd", 1 << 63]}


def test_the_examples_are_what_the_contract_says() -> None:
    assert decode(packet(segment(1))[1]) == segment(1)
