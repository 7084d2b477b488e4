"""The tables are what the queries think, whoever made them, whenever."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store, schema
from autotrain_cloud.store.engine import open_engine
from autotrain_cloud.store.migrations import STEPS, migrate
from edge_runtime.errors import ConfigError, StorageError
from tests.postgres import Postgres


def test_the_migrations_make_the_tables_that_the_queries_use(store: Store) -> None:
    found = inspect(store.engine)
    assert set(found.get_table_names()) - {"schema_steps"} == set(schema.metadata.tables)
    for name, table in schema.metadata.tables.items():
        columns = {column["name"]: column for column in found.get_columns(name)}
        assert list(columns) == [column.name for column in table.columns], name
        for column in table.columns:
            there = columns[column.name]
            assert there["type"]._type_affinity is column.type._type_affinity, column
            if not column.primary_key:
                assert there["nullable"] == column.nullable, column
        keys = found.get_pk_constraint(name)["constrained_columns"]
        assert set(keys) == {column.name for column in table.primary_key}, name


def fresh_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/new/store.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.new_store()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_at_once_migrate_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = fresh_url(kind, tmp_path, request)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            Store.open(StoreSettings(url=url, blobs=str(tmp_path))).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    engine = open_engine(url)
    with engine.connect() as db:
        assert db.scalar(text("SELECT count(*) FROM schema_steps")) == len(STEPS)
    engine.dispose()


def test_later_steps_are_applied_to_what_is_there_and_an_older_program_refuses(
    store: Store, store_settings: StoreSettings
) -> None:
    later = (*STEPS, ("more", "CREATE TABLE more (x BIGINT); CREATE INDEX more_x ON more (x)"))
    assert migrate(store.engine, later) == len(later)
    assert migrate(store.engine, later) == len(later)
    assert "more" in inspect(store.engine).get_table_names()
    says = f"schema {len(later)}, this version knows {len(STEPS)}: install"
    with pytest.raises(ConfigError, match=says):
        Store.open(store_settings)


def test_a_step_that_fails_leaves_the_schema_as_it_was(store: Store) -> None:
    broken = (*STEPS, ("broken", "CREATE TABLE half (x BIGINT); CREATE TABLE nonsense ("))
    with pytest.raises(Exception, match=r"syntax|incomplete"):
        migrate(store.engine, broken)
    assert "half" not in inspect(store.engine).get_table_names()
    assert migrate(store.engine) == len(STEPS)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("store.db", "not a database URL"),
        ("mysql://x/y", "'mysql'"),
        ("sqlite://", "names no file"),
        ("sqlite:////proc/nowhere/store.db", "nowhere"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_engine(url)


def test_a_database_that_does_not_answer_is_a_storage_error(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody@/none?host={tmp_path}"
    with pytest.raises(StorageError, match="the store is not available"):
        Store.open(StoreSettings(url=url, blobs=str(tmp_path)))


def test_sqlite_is_durable_and_checks_references(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/store.db")
    with engine.connect() as db:
        values = {
            name: db.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    engine.dispose()
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
    }
