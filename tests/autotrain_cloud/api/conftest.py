"""The interface over a small fleet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from autotrain_cloud.api.app import create_app
from autotrain_cloud.settings import ApiSettings, StoreSettings
from autotrain_cloud.store import Store
from tests.autotrain_cloud.api.fleet import Asker, add_token, fill
from tests.autotrain_cloud.conftest import empty_sqlite


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Store]:
    """SQLite with the small fleet in it."""
    (tmp_path / "store.db").write_bytes(empty_sqlite())
    url = f"sqlite:///{tmp_path}/store.db"
    store = Store.open(StoreSettings(url=url, blobs=str(tmp_path / "blobs")))
    fill(store)
    yield store
    store.close()


@pytest.fixture
def client(small: Store) -> Iterator[TestClient]:
    """Without pipeline, rollouts and ledger."""
    app = create_app(small, ApiSettings())
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


@pytest.fixture
def viewer(small: Store, client: TestClient) -> Asker:
    return Asker(client, add_token(small, "vera", "viewer"))


@pytest.fixture
def operator(small: Store, client: TestClient) -> Asker:
    return Asker(client, add_token(small, "olga", "operator"))


@pytest.fixture
def admin(small: Store, client: TestClient) -> Asker:
    return Asker(client, add_token(small, "ada", "admin"))
