"""The benchmark of the interface, on a small store."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import api, api_store
from tests.postgres import BIN, Postgres


@pytest.mark.slow
def test_every_page_is_asked_for_and_every_event_received(tmp_path: Path) -> None:
    if not BIN:
        pytest.skip("Debian: apt install postgresql")
    args = argparse.Namespace(rounds=1, requests=40, seconds=1.0)
    with Postgres.start() as postgres:
        found = api.measured(postgres, tmp_path, api_store.small(), args)
    assert found["pages"]["/v1/segments"]["requests"] > 150
    assert found["pages"]["/v1/review"]["cases"]["useful"]["p50"] > 0
    assert found["events"]["received"] == found["events"]["events"] * found["events"]["listeners"]
    assert len(api.table(found)) > 30
    assert "p99" in api.headline(found)
