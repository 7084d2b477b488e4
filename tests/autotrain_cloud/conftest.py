"""Stores for tests: SQLite in a temporary folder, and a database of one PostgreSQL per session."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store
from tests.postgres import BIN, Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if not BIN:
        pytest.skip("Debian: apt install postgresql")
    with Postgres.start() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    if request.param == "sqlite":
        (tmp_path / "store.db").write_bytes(empty_sqlite())
        url = f"sqlite:///{tmp_path}/store.db"
    else:
        url = request.getfixturevalue("postgres").new_store()
    return StoreSettings(url=url, blobs=str(tmp_path / "blobs"))


@cache
def empty_sqlite() -> bytes:
    """The file of an empty store: to make it anew for every test would be most of the time."""
    with tempfile.TemporaryDirectory() as folder:
        Store.open(StoreSettings(url=f"sqlite:///{folder}/store.db", blobs=folder)).close()
        return (Path(folder) / "store.db").read_bytes()


@pytest.fixture
def store(store_settings: StoreSettings) -> Iterator[Store]:
    opened = Store.open(store_settings)
    yield opened
    opened.close()
