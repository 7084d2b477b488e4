"""What is in the store is what the interface shows, page by page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotrain_cloud.api.app import create_app
from autotrain_cloud.settings import ApiSettings
from autotrain_cloud.store import Store
from autotrain_cloud.store.lineage import add_label
from tests.autotrain_cloud.api.fleet import SEGMENTS, Asker, add_token, fill, segment_id
from tests.autotrain_cloud.fleet import NOW

LISTS = (
    "devices", "alarms", "segments", "review", "datasets", "datasets/d-1/members", "models",
    "rollouts", "erasures", "devices/kitchen/telemetry", "devices/kitchen/updates", "events",
)  # fmt: skip


@pytest.fixture
def both(store: Store) -> Iterator[Asker]:
    """As `admin`, on both databases."""
    fill(store)
    with TestClient(create_app(store, ApiSettings()), raise_server_exceptions=False) as client:
        yield Asker(client, add_token(store, "ada", "admin"))


def pages(ask: Asker, path: str, **params: Any) -> list[Any]:
    found, cursor = [], {}
    while True:
        page = ask.get(path, **params, **cursor)
        found += page["items"]
        if not page["next"]:
            return found
        assert page["items"]
        cursor = {"cursor": page["next"]}


def test_the_overview_counts_the_fleet(both: Asker) -> None:
    found = both.get("/v1/overview")
    assert found["devices"] == 2 and found["segments"] == SEGMENTS
    assert found["devices_by_model"] == {"1.0": 2} and found["open_alarms"] == 1
    assert found["runs_under_way"] is None and found["rollout"] is None


def test_pages_of_any_size_have_every_segment_once_in_one_order(both: Asker) -> None:
    ids = [segment_id(number) for number in range(SEGMENTS)]
    for order in ("newest", "least-sure"):
        whole = [each["id"] for each in both.get("/v1/segments", order=order)["items"]]
        assert sorted(whole) == ids
        for limit in (1, 5, SEGMENTS):
            found = pages(both, "/v1/segments", order=order, limit=limit)
            assert [each["id"] for each in found] == whole
    assert whole == ids  # their confidence rises with their number


FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({"device": "hall"}, range(0, 12, 2)),
    ({"slice": "en/kitchen"}, range(1, 12, 2)),
    ({"slice": "nothing"}, []),
    ({"model": "1.0", "confidence_from": 0.5}, range(6, 12)),
    ({"confidence_to": 0.1}, [0, 1]),
    ({"decision": "keep"}, [0]),
    ({"decision": "review"}, [1, 3]),
    ({"decision": "none", "confidence_to": 0.4}, [2, 4]),
    ({"text": "Turn on"}, range(12)),
    ({"text": "turn on the hole light "}, []),
    ({"text": "%"}, []),
    ({"since_ms": NOW, "until_ms": NOW + 1}, range(12)),
    ({"until_ms": NOW}, []),
]


def test_filters_leave_what_was_asked_for(both: Asker) -> None:
    for filters, numbers in FILTERS:
        found = sorted(each["id"] for each in pages(both, "/v1/segments", limit=3, **filters))
        assert found == [segment_id(number) for number in numbers], filters


def test_every_list_goes_on_where_it_ended(both: Asker) -> None:
    for path in LISTS[:-1]:
        whole = both.get(f"/v1/{path}")["items"]
        assert pages(both, f"/v1/{path}", limit=1) == whole, path
    assert both.get("/v1/alarms", state="all")["items"][0]["id"].endswith("@2")
    members = both.get("/v1/datasets/d-1/members", split="train")["items"]
    assert [one["label_text"] for one in members] == ["Word0, world1!"]


def test_a_device_has_its_reports_and_an_alarm_its_facts(both: Asker) -> None:
    found = both.get("/v1/devices/kitchen")
    assert found["slice"] == "en/kitchen" and found["consents"][0]["granted"]
    assert [point["confidence"] for point in found["telemetry"]] == [0.5, 0.5]  # 1.5 in 3
    assert both.get("/v1/alarms/slice/en/kitchen@1")["facts"] == {"usual": 0.9}
    assert both.get("/v1/devices", q="kit")["items"][0]["name"] == "kitchen"
    assert both.get("/v1/devices", state="offline")["items"] == []
    assert both.get("/v1/slices")[0] == {"slice": "en/hall", "devices": 1}


def test_a_segment_says_where_the_label_differs_and_what_came_of_it(both: Asker) -> None:
    found = both.get(f"/v1/segments/{segment_id(0)}")
    steps = found["difference"]["steps"]
    assert [step["kind"] for step in steps] == ["equal", "substitution"]
    assert (steps[1]["reference"], steps[1]["hypothesis"]) == ("world1", "word1")
    assert steps[1]["start_s"] == pytest.approx(0.31) and steps[1]["confidence"] > 0.8
    assert found["difference"]["word_error_rate"] == 0.5
    assert found["lineage"] == {"datasets": ["d-1"], "models": [["en-demo", "2.0"]]}
    model = both.get("/v1/models/en-demo/2.0")
    assert model["datasets"] == ["d-1"] and model["parent"] == "1.0"
    assert both.get("/v1/models/en-demo/1.0")["children"] == ["2.0"]
    assert both.get("/v1/datasets/d-1")["splits"] == {"train": 1, "dev": 1}


def test_a_human_label_takes_the_item_out_of_the_queue(both: Asker) -> None:
    first, second = both.get("/v1/review")["items"]
    assert first["segment"] == segment_id(1) and first["slice"] == "en/kitchen"
    path = f"/v1/segments/{first['segment']}/labels"
    assert both("POST", path, json={"verdict": "text", "text": "  "}).status_code == 422
    made = both("POST", path, json={"verdict": "text", "text": " turn it  on "})
    assert made.status_code == 201 and made.json()["text"] == "turn it on"
    assert both.get("/v1/review")["items"] == [second]
    path = f"/v1/segments/{second['segment']}/labels"
    assert both("POST", path, json={"verdict": "unusable"}).json()["decision"] == "drop"
    assert both.get("/v1/review")["items"] == []
    assert both.get(f"/v1/segments/{first['segment']}")["label_source"] == "human"


def test_every_change_is_in_the_journal_with_who_made_it(both: Asker) -> None:
    before = both.get("/v1/events")["next"]
    both("PUT", "/v1/devices/hall/slice", json={"slice": "en/living room"})
    both("PUT", "/v1/devices/hall/consent", json={"id": "c-2", "days": 3})
    both("DELETE", "/v1/devices/hall/consent")
    both("POST", f"/v1/segments/{segment_id(5)}/labels", json={"verdict": "unusable"})
    both("POST", "/v1/erasures", json={"segments": [segment_id(0)], "reason": "by mail"})
    told = both.get("/v1/events", since=before)["items"]
    kinds = [event["kind"] for event in told]
    assert kinds == ["device", "consent", "consent", "label", "erasure"]
    assert {event["facts"]["who"] for event in told} == {"ada"}
    assert both("DELETE", "/v1/devices/hall/consent").status_code == 409
    assert [one["granted"] for one in both.get("/v1/devices/hall/consents")] == [False, True]


def test_an_erased_segment_is_gone_and_its_models_are_named(both: Asker) -> None:
    made = both("POST", "/v1/erasures", json={"segments": [segment_id(0)], "reason": "by mail"})
    assert made.status_code == 201, made.text
    found = both.get(f"/v1/erasures/{made.json()['id']}")
    assert found["segments"] == 1 and found["reason"] == "by mail"
    assert found["lineage"] == {"datasets": ["d-1"], "models": [["en-demo", "2.0"]]}
    assert found["devices"] == [{"device": "hall", "answered_ms": None, "segments": None}]
    for path in ("", "/audio"):
        response = both("GET", f"/v1/segments/{segment_id(0)}{path}")
        assert response.status_code == 410 and "erased" in response.json()["detail"]
    assert both("POST", "/v1/erasures", json={}).status_code == 422


VALUES = st.one_of(
    st.text(max_size=30), st.integers().map(str), st.floats().map(str),
    st.sampled_from(["\0", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "%", "'",
                     "W10=", "WzEsImEiXQ==", "WzFlOTk5LCJhIl0=", str(1 << 63), "nan", "inf"]),
)  # fmt: skip
NAMES = st.sampled_from(
    ["cursor", "limit", "device", "slice", "model", "text", "q", "state", "order", "since",
     "since_ms", "until_ms", "confidence_from", "confidence_to", "decision", "split", "before"]
)  # fmt: skip


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_hostile_parameters_are_refused_and_never_break_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    from autotrain_cloud.settings import StoreSettings

    url = f"sqlite:///{tmp_path}/s.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new_store()
    store = Store.open(StoreSettings(url=url, blobs=str(tmp_path / "blobs")))
    fill(store)
    with TestClient(create_app(store, ApiSettings()), raise_server_exceptions=False) as client:
        ask = Asker(client, add_token(store, "ada", "admin"))

        @settings(
            max_examples=40, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.sampled_from(LISTS), st.dictionaries(NAMES, VALUES, max_size=3))
        def hostile(path: str, params: dict[str, str]) -> None:
            status = ask("GET", f"/v1/{path}", params=params).status_code
            assert status in (200, 404, 422), (path, params, status)

        hostile()
        for path in ("devices/%00", "segments/%ff%fe", "alarms/..%2f", "runs/x", "models/a/%00b"):
            assert ask("GET", f"/v1/{path}").status_code in (404, 422, 503), path
        rng = random.Random(1)
        for body in (
            b"", b"{", b"[1", b'{"slice": "\\ud800"}', b'{"slice": "\\u0000"}', b"\xff" * 9,
            rng.randbytes(99), b'{"slice": {"a": NaN}}', b"[" * 5000,
        ):  # fmt: skip
            response = ask("PUT", "/v1/devices/hall/slice", content=body)
            assert response.status_code in (400, 422), body
            assert response.headers["content-type"] == "application/problem+json"
    store.close()


def test_the_useful_queue_has_what_waits_and_a_sample_and_goes_on_where_it_ended(
    both: Asker,
) -> None:
    whole = both.get("/v1/review", order="useful")["items"]
    assert pages(both, "/v1/review", order="useful", limit=1) == whole
    found = {each["segment"]: each for each in whole}
    assert len(found) == len(whole)
    assert {segment_id(0), segment_id(1), segment_id(3)} == set(found)
    assert found[segment_id(0)]["why"] == "random sample"  # what was kept is looked at too
    assert all(0 <= each["priority"] <= 1 and each["why"] for each in whole)
    assert both.get("/v1/review", order="useful", slice="nothing")["items"] == []
    first = both.get("/v1/review", order="useful", limit=1)
    both("POST", f"/v1/segments/{whole[1]['segment']}/labels", json={"verdict": "unusable"})
    rest = pages(both, "/v1/review", order="useful", cursor=first["next"])
    assert [each["segment"] for each in rest] == [whole[2]["segment"]]
    foreign = {"order": "useful", "cursor": "WzEsMl0="}
    assert both("GET", "/v1/review", params=foreign).status_code == 422


def test_what_one_person_has_no_other_gets_until_a_label_or_the_time_ends_it(
    store: Store, both: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotrain_cloud.api.routes import speech

    other = Asker(both.client, add_token(store, "olga", "operator"))

    def get(ask: Asker, count: int) -> list[str]:
        made = ask("POST", "/v1/review/leases", json={"count": count, "minutes": 5})
        assert made.status_code == 200, made.text
        return [each["segment"] for each in made.json()["items"]]

    mine = get(both, 2)
    theirs = get(other, 5)
    assert len(mine) == 2 and len(theirs) == 1 and not set(mine) & set(theirs)
    assert set(get(both, 5)) == set(mine)  # again, and none of hers
    held = {each["segment"]: each["leased_by"] for each in both.get("/v1/review")["items"]}
    assert set(held.values()) <= {"ada", "olga"}
    both("POST", f"/v1/segments/{mine[0]}/labels", json={"verdict": "unusable"})
    assert set(get(both, 5)) == {mine[1]}
    now = speech.now_ms()
    monkeypatch.setattr(speech, "now_ms", lambda: now + 6 * 60_000)
    assert set(get(other, 5)) == {mine[1], *theirs}


def test_the_decision_of_a_segment_is_that_of_its_newest_label(store: Store) -> None:
    """Whatever the order in which labels come, and as the migration makes it of what is there."""
    from sqlalchemy import delete, select

    from autotrain_cloud.store.migrations import VERDICTS, apply
    from autotrain_cloud.store.schema import verdicts

    fill(store)
    rng = random.Random(5)
    newest: dict[str, tuple[int, int, str]] = {}
    with store.begin() as db:
        for number in rng.sample(range(200), 200):
            segment, at = segment_id(number % SEGMENTS), rng.randrange(20)
            decision = rng.choice(("keep", "review", "drop"))
            add_label(
                db, id=f"x-{number:03}", segment=segment, source="teacher", author="t", text="x",
                now_ms=NOW + 10 + at, accepted=decision == "keep",
                provenance={"decision": decision},
            )  # fmt: skip
            newest[segment] = max(newest.get(segment, (-1, 0, "")), (at, -number, decision))
        columns = [column for column in verdicts.c if column.name != "doubt"]
        found = db.execute(select(*columns).order_by(verdicts.c.segment)).all()
        assert {row.segment: row.decision for row in found} == {
            segment: decision for segment, (_, _, decision) in newest.items()
        }
        db.execute(delete(verdicts))
        apply(db, VERDICTS)
        assert db.execute(select(*columns).order_by(verdicts.c.segment)).all() == found


def test_a_list_names_the_same_label_as_the_segment_itself(store: Store, both: Asker) -> None:
    rng = random.Random(6)
    with store.begin() as db:
        for number in range(60):
            add_label(
                db, id=f"y-{number:02}", segment=segment_id(rng.randrange(9)), author="t",
                source=rng.choice(("teacher", "human")), text=f"said {number}",
                now_ms=NOW + rng.randrange(9), accepted=rng.random() < 0.5,
                provenance={"decision": rng.choice(("review", "drop"))},
            )  # fmt: skip
    names = ("decision", "label_text", "label_source")
    for one in both.get("/v1/segments")["items"]:
        whole = both.get(f"/v1/segments/{one['id']}")
        assert {**whole, **one} == whole
        newest = whole["labels"][0] if whole["labels"] else None
        said = (newest["decision"], newest["text"], newest["source"]) if newest else None
        assert tuple(one[name] for name in names) == (said or ("none", None, None))


def test_pages_are_the_same_whether_they_are_walked_or_sorted(
    both: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotrain_cloud.api import reads

    def everything() -> list[Any]:
        return [
            pages(both, "/v1/segments", limit=3, order=order, **filters)
            for filters, _ in FILTERS
            for order in ("newest", "least-sure")
        ]

    sorted_ = everything()
    monkeypatch.setattr(reads, "FEW", -1)
    monkeypatch.setattr(reads, "FEW_DEVICES", 0)
    assert everything() == sorted_
