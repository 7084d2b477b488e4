"""How PostgreSQL goes about a page: what it reads for it, on a fleet that is large enough to tell.

Its own numbers are believed: every statement of a request is run again with EXPLAIN (ANALYZE), in
the same transaction.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from autotrain_cloud.api.app import create_app
from autotrain_cloud.settings import ApiSettings, StoreSettings
from autotrain_cloud.store import Store
from benchmarks import api_cases, api_store
from tests.autotrain_cloud.api.fleet import Asker, add_token
from tests.postgres import Postgres

SIZES = dataclasses.replace(
    api_store.small(), devices=400, segments=40_000, telemetry=12_000, members=400, datasets=10,
)  # fmt: skip
# Everything looks worth a worker and a compilation to a database that is told this.
EAGER = (
    " -c parallel_setup_cost=0 -c parallel_tuple_cost=0 -c min_parallel_table_scan_size=0"
    " -c min_parallel_index_scan_size=0 -c jit=on -c jit_above_cost=0"
)


pytestmark = pytest.mark.slow


@dataclass
class Watched:
    """The interface over a store, and the plans of all that it asked of it."""

    store: Store
    ask: Asker
    cases: list[api_cases.Case]
    plans: list[dict[str, Any]] = field(default_factory=list)

    def case(self, route: str, name: str) -> api_cases.Case:
        [case] = [one for one in self.cases if (one.route, one.name) == (route, name)]
        return case

    def rows_read(self, path: str) -> tuple[int, int]:
        """-> rows that the database looked at for a page, rows that the page has."""
        self.plans.clear()
        found = self.ask.get(path)
        assert self.plans, path
        looked = sum(_rows(plan["Plan"]) for plan in self.plans)
        return looked, len(found["items"])


@pytest.fixture(scope="module")
def watched(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("large")
    url, now_ms = postgres.new_store(), time.time_ns() // 1_000_000
    store = Store.open(StoreSettings(url=url, blobs=str(folder / "blobs")))
    api_store.fill(store, folder, SIZES, now_ms=now_ms)
    store.close()
    store = Store.open(StoreSettings(url=url + quote(EAGER), blobs=str(folder / "blobs")))
    with store.read() as db:
        cases = api_cases.cases(api_cases.Known.of(db, now_ms))
    with TestClient(create_app(store, ApiSettings())) as client:
        watched = Watched(store, Asker(client, add_token(store, "vera", "viewer")), cases)
        _watch(watched)
        yield watched
    store.close()


def _watch(watched: Watched) -> None:
    @event.listens_for(watched.store.engine, "after_cursor_execute")
    def explain(db: Any, _: object, statement: str, values: Any, *more: object) -> None:
        if not statement.startswith(("SELECT", "WITH")) or "set_config" in statement:
            return
        cursor = db.connection.driver_connection.cursor()
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", values)
        [[[plan]]] = cursor.fetchall()
        watched.plans.append(plan)


def _rows(node: Mapping[str, Any]) -> int:
    """That the scans of a plan met, wanted or not."""
    here = 0
    if "Relation Name" in node:
        met = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        here = (met + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
    return here + sum(_rows(below) for below in node.get("Plans", ()))


FEW = 1000  # rows: of a page of a hundred, what is joined to them, and a table that is small
DEEP = [
    ("/v1/segments", "no filter, deep"), ("/v1/segments", "least sure, deep"),
    ("/v1/segments", "decision keep, deep"), ("/v1/datasets/{id}/members", "deep"),
    ("/v1/datasets/{id}/members", "split, frequent"), ("/v1/review", "deep"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "name"), DEEP)
def test_a_page_reads_few_rows_wherever_it_is(watched: Watched, route: str, name: str) -> None:
    case, rng, most = watched.case(route, name), random.Random(1), 0
    for _ in range(12):
        path = case.next(rng)
        looked, shown = watched.rows_read(path)
        assert looked <= FEW, (path, looked, shown)
        most = max(most, shown)
    assert most >= 50  # they were deep in something


@pytest.mark.parametrize(
    "name", ["slice, long past", "language, rare and past", "text, rare and past", "device"]
)
def test_a_filter_that_few_meet_costs_those_few(watched: Watched, name: str) -> None:
    """Wherever they lie in the order of the page: that is not walked through to find them."""
    case = watched.case("/v1/segments", name)
    looked, shown = watched.rows_read(f"{case.next(random.Random(2))}&limit=500")
    assert shown and looked < SIZES.segments / 4, (looked, shown)


def test_no_page_starts_workers_or_compiles_a_query(watched: Watched) -> None:
    rng = random.Random(3)
    watched.plans.clear()
    for case in rng.sample([one for one in watched.cases if one.kind == "list"], 60):
        if case.route not in ("/v1/runs", "/v1/ledger"):
            watched.ask.get(case.next(rng))
    with watched.store.read() as db:  # this database would, if it were left to itself
        db.execute(text("SELECT count(*) FROM segments"))
    *ours, left_to_itself = map(json.dumps, watched.plans)
    assert '"JIT"' in left_to_itself and '"Workers Planned"' in left_to_itself
    assert len(ours) > 50
    assert not [plan for plan in ours if '"JIT"' in plan or '"Workers Planned"' in plan]
