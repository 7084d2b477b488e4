"""What `api.py` asks for: every list and detail of the interface, in every way that differs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy import Connection

from autotrain_cloud.api.cursors import pack

DAY_MS = 86_400_000
SAMPLE = 300  # rows of a table that details are asked of
MOST = 500  # rows of a page

Ask = Callable[[random.Random], str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to ask; `next` is the address of one request."""

    route: str
    name: str
    kind: str  # list, detail, or other: what the target is not about
    next: Ask
    headers: Mapping[str, str] = field(default_factory=dict)
    statuses: Sequence[int] = (200,)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Rows that are there."""

    now_ms: int
    tables: Mapping[str, Sequence[Any]]  # name -> rows at random

    @classmethod
    def of(cls, db: Connection, now_ms: int) -> Known:
        def some(sql: str) -> Sequence[Any]:
            return db.exec_driver_sql(sql).all()

        def random_rows(columns: str, table: str) -> Sequence[Any]:
            return some(f"SELECT {columns} FROM {table} ORDER BY random() LIMIT {SAMPLE}")

        tables = {
            "segments": random_rows("id, received_ms, confidence, device", "segments"),
            "labels": random_rows("id, segment, created_ms", "labels"),
            "people": some(
                f"SELECT segment FROM labels WHERE source = 'human' ORDER BY random()"
                f" LIMIT {SAMPLE}"
            ),
            "waiting": some(
                "SELECT id, created_ms FROM labels WHERE NOT accepted AND provenance ->> 'decision'"
                f" = 'review' ORDER BY random() LIMIT {SAMPLE}"
            ),
            "devices": random_rows("name", "devices"),
            "talkers": some(
                "SELECT device AS name, max(session) AS session, max(sequence) AS sequence"
                " FROM telemetry GROUP BY device ORDER BY count(*) DESC LIMIT 50"
            ),
            "alarms": random_rows("id, opened_ms, name", "alarms"),
            "erased": some(f"SELECT key FROM tombstones LIMIT {SAMPLE}"),
            "datasets": random_rows("id, created_ms", "datasets"),
            "largest": some("SELECT id FROM datasets ORDER BY created_ms DESC LIMIT 1"),
            "models": random_rows("name, version, created_ms", "models"),
            "rollouts": some("SELECT id, created_ms FROM rollouts ORDER BY created_ms"),
            "erasures": some("SELECT id, created_ms FROM erasures ORDER BY created_ms"),
        }
        tables["members"] = some(
            "SELECT segment FROM dataset_members WHERE dataset = "
            f"'{tables['largest'][0].id}' ORDER BY random() LIMIT {SAMPLE}"
        )
        return cls(now_ms=now_ms, tables=tables)

    def one(self, table: str, rng: random.Random) -> Any:
        return rng.choice(self.tables[table])


def cases(known: Known) -> list[Case]:
    found = [*_fleet(known), *_segments(known), *_review(known), *_learning(known)]
    return [*found, *_rolling(known), *_happenings(known)]


def _case(
    route: str, what: str, path: str | Ask = "", /, *, kind: str = "list", **params: Any
) -> Case:
    """`path`: where it differs from the route; values of `params` may be functions of chance."""

    def next(rng: random.Random) -> str:
        where = path(rng) if callable(path) else path or route
        given = {k: v(rng) if callable(v) else v for k, v in params.items()}
        return f"{where}?{urlencode(given)}" if given else where

    return Case(route=route, name=what, kind=kind, next=next)


def _fleet(known: Known) -> Iterator[Case]:
    def name(rng: random.Random) -> str:
        return str(known.one("devices", rng).name)

    route = "/v1/devices"
    for what, params in {
        "first": {},
        "largest": {"limit": MOST},
        "deep": {"cursor": lambda rng: pack((name(rng),))},
        "deep and largest": {"cursor": lambda rng: pack((name(rng),)), "limit": MOST},
        "q, frequent": {"q": "kitchen-"},
        "q, one": {"q": name},
        "q, never": {"q": "zz"},
        "state, frequent": {"state": "online"},
        "state, rare": {"state": "unknown"},
        "model, frequent": {"model": "1.5"},
        "model, rare": {"model": "1.3"},
        "model, never": {"model": "9.9"},
        "slice, large": {"slice": "room/1"},
        "slice, one": {"slice": "lab/one"},
        "slice, never": {"slice": "nothing"},
        "not seen for a week": {"seen_before_ms": known.now_ms - 7 * DAY_MS},
        "state, model, slice": {"state": "offline", "model": "1.3", "slice": "room/2"},
        "never and largest": {"state": "unknown", "model": "9.9", "limit": MOST},
    }.items():
        yield _case(route, what, **params)
    route = "/v1/devices/{name}"
    yield _case(route, "any", lambda rng: f"/v1/devices/{name(rng)}", kind="detail")
    talkers = known.tables["talkers"]
    yield _case(
        route, "one that reports much", lambda rng: f"/v1/devices/{rng.choice(talkers).name}",
        kind="detail",
    )  # fmt: skip
    for what in ("telemetry", "updates"):
        route = f"/v1/devices/{{name}}/{what}"
        yield _case(route, "any", lambda rng, w=what: f"/v1/devices/{name(rng)}/{w}")  # type: ignore[misc]
        for depth, limit in itertools.product((1.0, 0.5), (100, MOST)):

            def path(rng: random.Random, w: str = what, d: float = depth, n: int = limit) -> str:
                one = rng.choice(talkers)
                cursor = pack((one.session, int(one.sequence * d)))
                return f"/v1/devices/{one.name}/{w}?{urlencode({'cursor': cursor, 'limit': n})}"

            yield _case(route, f"depth {depth}, {limit} rows", path)
    yield _case(
        "/v1/devices/{name}/consents", "any", lambda rng: f"/v1/devices/{name(rng)}/consents"
    )
    yield _case("/v1/slices", "all")
    route = "/v1/alarms"

    def alarm(rng: random.Random) -> str:
        return _after(known.one("alarms", rng), "opened_ms")

    for what, params in {
        "open": {},
        "all": {"state": "all"},
        "all, largest": {"state": "all", "limit": MOST},
        "all, deep": {
            "state": "all",
            "cursor": alarm,
        },
        "open, deep": {"cursor": alarm},
        "level, rare": {"level": "fleet", "state": "all"},
        "level, open": {"level": "slice"},
        "name": {"name": lambda rng: known.one("alarms", rng).name or "x", "state": "all"},
        "name, open": {"name": lambda rng: known.one("alarms", rng).name or "x"},
        "name, never": {"name": "nobody", "level": "slice", "state": "all"},
    }.items():
        yield _case(route, what, **params)
    yield _case(
        "/v1/alarms/{id}", "any", lambda rng: f"/v1/alarms/{quote(known.one('alarms', rng).id)}",
        kind="detail",
    )  # fmt: skip


def _after(row: Any, column: str) -> str:
    return pack((getattr(row, column), row.id))


def _segments(known: Known) -> Iterator[Case]:
    now = known.now_ms

    def newest(rng: random.Random) -> str:
        return _after(known.one("segments", rng), "received_ms")

    def surest(rng: random.Random) -> str:
        return _after(known.one("segments", rng), "confidence")

    filters: dict[str, dict[str, Any]] = {
        "no filter": {},
        "device": {"device": lambda rng: known.one("devices", rng).name},
        "device that speaks much": {"device": lambda rng: known.one("segments", rng).device},
        "device, never": {"device": "nobody"},
        "slice, large": {"slice": "room/1"},
        "slice, small": {"slice": "room/150"},
        "slice, one device": {"slice": "lab/one"},
        "slice, long past": {"slice": "old/1"},
        "slice, never": {"slice": "nothing"},
        "model, newest": {"model": "1.5"},
        "model, long past": {"model": "1.0"},
        "model, rare and new": {"model": "1.6-rc1"},
        "model, rare and past": {"model": "0.9"},
        "model, never": {"model": "9.9"},
        "language, frequent": {"language": "en"},
        "language, 2 %": {"language": "es"},
        "language, rare": {"language": "nl"},
        "language, rare and past": {"language": "cy"},
        "language, never": {"language": "xx"},
        "confidence, half": {"confidence_to": 0.5},
        "confidence, rare": {"confidence_to": 0.01},
        "confidence, never": {"confidence_from": 0.1, "confidence_to": 0.2},
        "sure": {"confidence_from": 0.999},
        "decision none": {"decision": "none"},
        "decision keep": {"decision": "keep"},
        "decision review": {"decision": "review"},
        "decision drop": {"decision": "drop"},
        "text, frequent": {"text": "turn on"},
        "text, some": {"text": "Dim our gate"},
        "text, rare and past": {"text": "zebra"},
        "text, never": {"text": "qq"},
        "a day": {"since_ms": now - 9 * DAY_MS, "until_ms": now - 8 * DAY_MS},
        "the last hour": {"since_ms": now - DAY_MS // 24},
        "long ago": {"until_ms": now - 115 * DAY_MS},
        "slice and review": {"slice": "room/3", "decision": "review"},
        "small slice and review": {"slice": "room/150", "decision": "review"},
        "slice of the past, no label": {"slice": "old/1", "decision": "none"},
        "slice of the past, newest model": {"slice": "old/1", "model": "1.5"},
        "old model, rare language": {"model": "1.0", "language": "nl"},
        "language, drop, unsure": {"language": "de", "decision": "drop", "confidence_to": 0.4},
        "device, no label": {
            "device": lambda rng: known.one("segments", rng).device, "decision": "none",
        },
        "long ago, no label": {"until_ms": now - 100 * DAY_MS, "decision": "none"},
        "long ago, review": {"until_ms": now - 100 * DAY_MS, "decision": "review"},
        "text and decision": {"text": "turn off", "decision": "drop"},
        "rare text and language": {"text": "zebra", "language": "en"},
        "new model, sure, drop": {"model": "1.5", "confidence_from": 0.9, "decision": "drop"},
        "old model, lately": {"model": "1.0", "since_ms": now - 5 * DAY_MS},
    }  # fmt: skip
    route = "/v1/segments"
    for name, params in filters.items():
        yield _case(route, name, **params)
        yield _case(route, f"{name}, deep", **params, cursor=newest)
        yield _case(route, f"{name}, least sure", **params, order="least-sure")
        yield _case(route, f"{name}, largest", **params, limit=MOST)
    yield _case(route, "least sure, deep", order="least-sure", cursor=surest)
    yield _case(route, "least sure, deep, largest", order="least-sure", cursor=surest, limit=MOST)

    def path(table: str, column: str, rest: str = "") -> Ask:
        return lambda rng: f"/v1/segments/{getattr(known.one(table, rng), column)}{rest}"

    route = "/v1/segments/{id}"
    yield _case(route, "any", path("segments", "id"), kind="detail")
    yield _case(route, "labelled", path("labels", "segment"), kind="detail")
    yield _case(route, "answered by a person", path("people", "segment"), kind="detail")
    yield Case(
        route=route, name="erased", kind="detail", next=path("erased", "key"), statuses=(410,)
    )
    route = "/v1/segments/{id}/audio"
    yield _case(route, "whole", path("segments", "id", "/audio"), kind="detail")
    yield Case(
        route=route, name="a range", kind="detail", next=path("segments", "id", "/audio"),
        headers={"Range": "bytes=1000-4999"}, statuses=(206,),
    )  # fmt: skip


def _review(known: Known) -> Iterator[Case]:
    route = "/v1/review"

    def deep(rng: random.Random) -> str:
        return _after(known.one("waiting", rng), "created_ms")

    for name, params in {
        "oldest": {},
        "largest": {"limit": MOST},
        "deep": {"cursor": deep},
        "deep, largest": {"cursor": deep, "limit": MOST},
        "slice, large": {"slice": "room/1"},
        "slice, small": {"slice": "room/150"},
        "slice, one device": {"slice": "lab/one"},
        "slice, past": {"slice": "old/1"},
        "slice, never": {"slice": "nothing"},
        "slice, deep": {"slice": "room/3", "cursor": deep},
        "useful": {"order": "useful"},
        "useful, largest": {"order": "useful", "limit": MOST},
        "useful, slice": {"order": "useful", "slice": "room/1"},
        "useful, slice of the past": {"order": "useful", "slice": "old/1"},
    }.items():
        yield _case(route, name, **params)


def _learning(known: Known) -> Iterator[Case]:
    def created(table: str) -> Ask:
        return lambda rng: _after(known.one(table, rng), "created_ms")

    yield _case("/v1/datasets", "first")
    yield _case("/v1/datasets", "largest", limit=MOST)
    yield _case("/v1/datasets", "deep", cursor=created("datasets"))
    route = "/v1/datasets/{id}"
    [largest] = known.tables["largest"]
    yield _case(
        route, "any", lambda rng: f"/v1/datasets/{known.one('datasets', rng).id}", kind="detail"
    )
    yield _case(route, "the largest", f"/v1/datasets/{largest.id}", kind="detail")
    route = "/v1/datasets/{id}/members"
    path = f"/v1/datasets/{largest.id}/members"

    def member(rng: random.Random) -> str:
        return pack((known.one("members", rng).segment,))

    for name, params in {
        "first": {},
        "largest": {"limit": MOST},
        "deep": {"cursor": member},
        "deep, largest": {"cursor": member, "limit": MOST},
        "split, frequent": {"split": "train"},
        "split, rare": {"split": "test", "limit": MOST},
        "split, rare, deep": {"split": "test", "cursor": member},
        "split, never": {"split": "nothing"},
    }.items():
        yield _case(route, name, path, **params)

    def version(rng: random.Random) -> str:
        row = known.one("models", rng)
        return pack((row.created_ms, row.name, row.version))

    yield _case("/v1/models", "first")
    yield _case("/v1/models", "largest", limit=MOST)
    yield _case("/v1/models", "deep", cursor=version)
    yield _case(
        "/v1/models/{name}/{version}", "any",
        lambda rng: "/v1/models/{0.name}/{0.version}".format(known.one("models", rng)),
        kind="detail",
    )  # fmt: skip
    yield _case("/v1/runs", "first")
    yield _case("/v1/runs", "largest", limit=MOST)
    yield _case("/v1/runs", "deep", before="run-0003")
    yield _case(
        "/v1/runs/{id}", "any", lambda rng: f"/v1/runs/run-{rng.randrange(5):04}", kind="detail"
    )
    yield _case("/v1/ledger", "first")
    yield _case("/v1/ledger", "largest", limit=MOST)


def _rolling(known: Known) -> Iterator[Case]:
    ids = [row.id for row in known.tables["rollouts"]]
    for name, params in {
        "first": {},
        "open": {"state": "open"},
        "deep": {"cursor": lambda rng: _after(known.one("rollouts", rng), "created_ms")},
    }.items():
        yield _case("/v1/rollouts", name, **params)
    route = "/v1/rollouts/{id}"
    yield _case(route, "under way", f"/v1/rollouts/{ids[-1]}", kind="detail")
    yield _case(route, "any", lambda rng: f"/v1/rollouts/{rng.choice(ids)}", kind="detail")
    route = "/v1/rollouts/{id}/log"
    for name, params in {
        "first": {},
        "largest": {"limit": MOST},
        "deep, largest": {"after": lambda rng: rng.randrange(9000), "limit": MOST},
    }.items():
        yield _case(route, name, f"/v1/rollouts/{ids[-1]}/log", **params)
    route = "/v1/rollouts/{id}/devices"
    for name, params in {
        "first": {},
        "largest": {"limit": MOST},
        "deep, largest": {
            "cursor": lambda rng: pack((known.one("devices", rng).name,)), "limit": MOST,
        },
        "status, frequent": {"status": "committed"},
        "status, rare": {"status": "failed"},
        "status, never": {"status": "nothing"},
    }.items():  # fmt: skip
        yield _case(route, name, f"/v1/rollouts/{ids[-1]}/devices", **params)
    yield _case(route, "any", lambda rng: f"/v1/rollouts/{rng.choice(ids)}/devices")


def _happenings(known: Known) -> Iterator[Case]:
    yield _case("/v1/erasures", "first")
    yield _case("/v1/erasures", "largest", limit=MOST)
    yield _case(
        "/v1/erasures", "deep", cursor=lambda rng: _after(known.one("erasures", rng), "created_ms")
    )
    route = "/v1/erasures/{id}"
    rows = known.tables["erasures"]
    yield _case(route, "any", lambda rng: f"/v1/erasures/{rng.choice(rows[1:]).id}", kind="detail")
    yield _case(route, "all of the fleet", f"/v1/erasures/{rows[0].id}", kind="detail")
    yield _case("/v1/events", "first")
    yield _case("/v1/events", "deep, largest", since=lambda rng: rng.randrange(400), limit=MOST)
    yield _case("/v1/events", "none", since=1 << 40)
    for path in ("/v1/me", "/v1/overview", "/healthz", "/readyz", "/metrics", "/v1/openapi.json"):
        yield _case(path, "any", kind="detail" if path == "/v1/overview" else "other")
