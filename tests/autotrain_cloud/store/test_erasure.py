"""An erased segment is gone from everywhere, and what was made of it is known."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from autotrain_cloud.store import Store, consents, erasure, schema, segments
from autotrain_cloud.store.lineage import (
    Lineage,
    Member,
    add_dataset,
    add_label,
    add_model,
    lineage,
)
from edge_runtime.contract.codec import decode
from edge_runtime.contract.messages import Consent, Erase
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.fleet import NOW, new_ingest, packet, said, segment


def ids(*numbers: int) -> list[str]:
    return [segment(number).id for number in numbers]


@pytest.fixture
def learned(store: Store) -> Store:
    """Segments 1 and 2 of kitchen-1 and 3 of hall-1; data sets a (1, 2), b (3) and c (of a);
    models 1.0 of a, 1.1 grown from it on b, 2.0 of b alone, 3.0 of c."""
    ingest = new_ingest(store)
    ingest.commit([packet(segment(1)), packet(segment(2, consent="c-2"))], now_ms=NOW)
    ingest.commit([packet(segment(3), "hall-1")], now_ms=NOW)
    with store.begin() as db:
        for number in (1, 2, 3):
            add_label(
                db, id=f"l{number}", segment=ids(number)[0], source="teacher", author="whisper",
                author_version="small", text="hello\0", confidence=0.9, now_ms=NOW,
            )  # fmt: skip
        one, two, three = ids(1, 2, 3)
        members = [Member(segment=one, label="l1"), Member(segment=two, weight=0.5)]
        add_dataset(db, id="a", name="a", manifest="m", members=members, now_ms=NOW)
        add_dataset(db, id="b", name="b", manifest="m", members=[Member(segment=three)], now_ms=NOW)
        add_dataset(db, id="c", name="c", manifest="m", members=[], parents=["a"], now_ms=NOW)
        made: list[tuple[str, str | None, list[str]]] = [
            ("1.0", None, ["a"]), ("1.1", "1.0", ["b"]), ("2.0", None, ["b"]), ("3.0", None, ["c"]),
        ]  # fmt: skip
        for version, parent, trained_on in made:
            add_model(
                db, name="en", version=version, counter=1, manifest="m", parent=parent,
                trained_on=trained_on, now_ms=NOW,
            )  # fmt: skip
    return store


def count(store: Store, table: str) -> int:
    with store.read() as db:
        return db.scalar(select(func.count()).select_from(schema.metadata.tables[table])) or 0


def told(store: Store) -> dict[str, Erase]:
    with store.read() as db:
        rows = db.execute(select(schema.erasure_devices)).all()
    found: dict[str, Any] = {row.device: decode(bytes(row.message)) for row in rows}
    return found


def test_lineage_follows_data_sets_parents_and_models_grown_from_models(learned: Store) -> None:
    with learned.read() as db:
        assert lineage(db, ids(1)) == Lineage(
            datasets=("a", "c"), models=(("en", "1.0"), ("en", "1.1"), ("en", "3.0"))
        )
        assert lineage(db, ids(3)) == Lineage(
            datasets=("b",), models=(("en", "1.1"), ("en", "2.0"))
        )
        assert lineage(db, ids(99)) == Lineage(datasets=(), models=())


def test_a_segment_goes_with_labels_memberships_and_audio_and_the_answer_stays(
    learned: Store,
) -> None:
    done = erasure.erase(learned, segments=ids(1), reason="asked for", now_ms=NOW)
    assert (done.segments, done.devices) == (1, ("kitchen-1",))
    assert done.lineage.datasets == ("a", "c")
    assert done.lineage.models == (("en", "1.0"), ("en", "1.1"), ("en", "3.0"))
    for table, left in (("segments", 2), ("labels", 2), ("dataset_members", 2), ("blobs", 2)):
        assert count(learned, table) == left, table
    with learned.read() as db:
        [kept] = db.execute(select(schema.erasures)).all()
        erased = dict(db.execute(select(schema.datasets.c.id, schema.datasets.c.erased)).all())
    assert kept.lineage["models"] == [["en", "1.0"], ["en", "1.1"], ["en", "3.0"]]
    assert erased == {"a": 1, "b": 0, "c": 0}
    assert told(learned)["kitchen-1"].segments == tuple(ids(1))


def test_a_consent_is_erased_on_every_device_that_had_it(learned: Store) -> None:
    with learned.begin() as db:
        consents.grant(db, "attic-1", "c-2", now_ms=NOW)
    done = erasure.erase(learned, consents=["c-2"], now_ms=NOW)
    assert (done.segments, done.devices) == (1, ("attic-1", "kitchen-1"))
    assert {device: message.consents for device, message in told(learned).items()} == {
        "attic-1": ("c-2",), "kitchen-1": ("c-2",),
    }  # fmt: skip
    with learned.begin() as db, pytest.raises(ConfigError, match="name a new one"):
        consents.grant(db, "attic-1", "c-2", now_ms=NOW)


def test_a_device_is_erased_with_all_it_has_sent_and_may_hold(learned: Store) -> None:
    done = erasure.erase(learned, devices=["kitchen-1"], now_ms=NOW)
    assert (done.segments, done.devices) == (2, ("kitchen-1",))
    assert told(learned)["kitchen-1"].consents == ("c-1", "c-2")
    with learned.read() as db:
        assert {row.device for row in segments.find(db)} == {"hall-1"}


def test_more_than_one_message_holds_are_several_messages(store: Store) -> None:
    ingest = new_ingest(store)
    for start in range(0, 1200, 200):
        batch = [packet(segment(number, size=20, words=0)) for number in range(start, start + 200)]
        ingest.commit(batch, now_ms=NOW)
    done = erasure.erase(store, devices=["kitchen-1"], now_ms=NOW)
    assert done.segments == 1200
    messages = [m for _, m in said(ingest.claim(now_ms=NOW)) if isinstance(m, Erase)]
    assert sorted(len(each.segments) for each in messages) == [200, 1000]
    assert count(store, "segments") == count(store, "blobs") == 0


def test_to_erase_nothing_is_a_mistake(store: Store) -> None:
    with pytest.raises(ConfigError, match="nothing to erase"):
        erasure.erase(store, now_ms=NOW)


def test_consents_are_published_in_their_order_and_once_by_one_worker(store: Store) -> None:
    first, second = new_ingest(store), new_ingest(store, worker="ingest-2")
    with store.begin() as db:
        consents.grant(db, "hall-1", "c-1", now_ms=NOW)
        consents.grant(db, "attic-1", "c-1", now_ms=NOW)
    mine = first.claim(now_ms=NOW)
    assert [device for device, _ in said(mine)] == ["hall-1", "attic-1"]
    assert all(each.retain for each in mine)
    with store.begin() as db:
        consents.withdraw(db, "hall-1", now_ms=NOW)
    assert second.claim(now_ms=NOW) == []  # the first has not finished with that topic
    first.commit([], now_ms=NOW, finished=[each.number for each in mine])
    [(_, newest)] = said(second.claim(now_ms=NOW))
    assert isinstance(newest, Consent)
    assert (newest.granted, newest.version) == (False, 2)
    [again] = said(first.claim(now_ms=NOW + 600_000))  # the second has died with it
    assert again == ("hall-1", newest)
    republished = said(first.begin(now_ms=NOW, broker_forgot=True))
    assert {(d, m.version) for d, m in republished if isinstance(m, Consent)} == {
        ("hall-1", 2), ("attic-1", 1),
    }  # fmt: skip
