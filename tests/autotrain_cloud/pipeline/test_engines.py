"""Workflows outlive the processes that carry them, on either engine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autotrain_cloud.pipeline.workflows import Engine, open_engine
from edge_runtime.errors import ConfigError, StorageError
from tests.autotrain_cloud.pipeline.engine_process import engine, workflow


@pytest.fixture(params=["sqlite", "dbos"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(kind: str, tmp_path: Path) -> Iterator[Engine]:
    found = engine(kind, tmp_path, "client")
    yield found
    found.close()


@contextmanager
def carrier(kind: str, folder: Path, executor: str) -> Iterator[subprocess.Popen[bytes]]:
    """Killed at the end of the block."""
    with (folder / f"{executor}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", engine.__module__, kind, str(folder), executor],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("successor", ["one", "two"])
def test_a_killed_workflow_goes_on_where_it_was_in_its_own_process_or_another(
    client: Engine, kind: str, tmp_path: Path, successor: str
) -> None:
    said = tmp_path / "said"
    for _ in range(2):  # the same twice is one
        client.start("a", {"file": str(said)})
    assert client.states()["a"].phase == "queued"
    with carrier(kind, tmp_path, "one"):
        until(lambda: lines(said) == ["first", "slow"])
        assert client.states()["a"].phase == "running"
    client.send("a", "topic", {"yes": 1})
    said.with_suffix(".go").touch()
    time.sleep(0.2)
    assert client.states()["a"].phase == "running"  # nobody has noticed
    with carrier(kind, tmp_path, successor):
        until(lambda: client.states()["a"].phase == "done")
    # The step that was cut off is done again; the one before it is not.
    assert lines(said) == ["first", "slow", "slow", "True {'yes': 1} None"]


def test_an_exception_that_leaves_a_workflow_is_its_end_and_is_kept(
    client: Engine, kind: str, tmp_path: Path
) -> None:
    client.start("bad", {"file": str(tmp_path / "said"), "fails": True})
    with carrier(kind, tmp_path, "one"):
        until(lambda: client.states()["bad"].phase == "failed")
    assert "as it was told" in client.states()["bad"].error


def test_two_processes_of_one_name_are_refused_by_dbos(tmp_path: Path) -> None:
    with carrier("dbos", tmp_path, "one"):
        until(lambda: (tmp_path / "executors" / "one").exists())
        second = engine("dbos", tmp_path, "one")
        try:
            with pytest.raises(ConfigError, match="a controller of the name 'one' is at work"):
                second.work()
        finally:
            second.close()


def test_engines_and_databases_that_do_not_exist_are_refused_in_words(tmp_path: Path) -> None:
    def open_(kind: str, url: str) -> None:
        open_engine(kind, workflow, url=url, executor="x", concurrency=1, folder=tmp_path)

    with pytest.raises(ConfigError, match="engine 'celery': 'dbos', or 'sqlite'"):
        open_("celery", "")
    with pytest.raises(ConfigError, match="needs sqlite:///FILE"):
        open_("sqlite", "postgresql://localhost/x")
    with pytest.raises(StorageError, match=r"postgresql://…@127.0.0.1:1/x: .* cannot be used"):
        open_("dbos", "postgresql://me:secret@127.0.0.1:1/x")
