"""What MLflow shows is what the ledger says, once, however often it was cut off."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from autotrain_cloud.gate import mirror as mirroring
from autotrain_cloud.gate.ledger import append, read_ledger
from autotrain_cloud.gate.mirror import ENTRY, EXPERIMENT, Mirror
from autotrain_cloud.service.rounds import Rounds
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError, StorageError
from tests import mlflow


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow.RealServer]:
    if not mlflow.PROGRAM:
        pytest.skip("mlflow is not on PATH")
    server = mlflow.RealServer(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.close()


@pytest.fixture
def stand_in() -> Iterator[mlflow.StandIn]:
    server = mlflow.StandIn()
    yield server
    server.close()


@pytest.fixture(params=["stand-in", "real"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(mirroring, "ANSWER_S", 60)  # the real one's first answers take their time
    return request.getfixturevalue("real" if request.param == "real" else "stand_in")


def verdict(counter: int, *, name: str, promote: bool = True) -> dict[str, Any]:
    def model(counter: int) -> dict[str, Any]:
        version, digest = f"1.{counter}", f"{counter:064x}"
        return {"name": name, "version": version, "release_counter": counter, "digest": digest}

    return {
        "verdict": f"{counter + 1000:064x}",
        "decision": "promote" if promote else "reject",
        "reasons": [] if promote else ["guard home: worse", "speed: slower"],
        "champion": model(counter - 1),
        "challenger": model(counter),
        "sets": [{"name": "street", "role": "target", "digest": f"{7:064x}"}],
        "training": [{"name": "train.jsonl", "sha256": f"{8:064x}"}],
        "measured": {"target street": {"difference": -0.031}, "size": {"ratio": 1.0}},
    }


def ask(url: str, path: str, fields: dict[str, Any] | None = None) -> Any:
    data = None if fields is None else json.dumps(fields).encode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def runs_of(url: str, entry: str) -> list[Any]:
    found = ask(url, f"experiments/get-by-name?experiment_name={quote(EXPERIMENT)}")
    search = {
        "experiment_ids": [found["experiment"]["experiment_id"]],
        "filter": f"tags.`{ENTRY}` = '{entry}'",
    }
    runs: list[Any] = ask(url, "runs/search", search).get("runs", [])
    return runs


def versions_of(url: str, name: str) -> list[Any]:
    search = quote(f"name = '{name}'")
    found = ask(url, f"model-versions/search?filter={search}")
    versions: list[Any] = found.get("model_versions", [])
    return versions


def data(run: Any, kind: str) -> dict[str, Any]:
    return {each["key"]: each["value"] for each in run["data"][kind]}


def test_each_entry_is_a_run_and_each_promotion_a_version_of_the_model(
    server: Any, tmp_path: Path
) -> None:
    book, name = tmp_path / "ledger.jsonl", f"one-{type(server).__name__}"
    append(book, "verdict", "zoë", verdict(2, name=name))
    append(book, "verdict", "zoë", verdict(3, name=name, promote=False))
    append(book, "verdict", "zoë", verdict(4, name=name))
    append(book, "rollback", "ann", {"release_counter": 4, "reason": "worse in the street"})
    mirror = Mirror(book, server.url)
    assert mirror.waiting() == 4
    assert mirror.send() == 4
    assert mirror.send() == mirror.waiting() == 0
    entries = read_ledger(book).entries
    runs = [runs_of(server.url, entry.hash) for entry in entries]
    assert [len(each) for each in runs] == [1, 1, 1, 1]
    [first], [second], _, [rollback] = runs
    assert first["info"]["status"] == "FINISHED"
    assert data(first, "params")["challenger.version"] == "1.2"
    assert data(first, "params")["target.street"] == f"{7:064x}"
    assert data(first, "metrics") == {
        "promote": 1.0, "target street/difference": -0.031, "size/ratio": 1.0,
    }  # fmt: skip
    assert data(first, "tags")["vitconformer.who"] == "zoë"
    assert data(second, "tags")["vitconformer.decision"] == "reject"
    assert data(second, "tags")["vitconformer.reasons"] == "guard home: worse\nspeed: slower"
    assert data(rollback, "tags")["vitconformer.reason"] == "worse in the street"
    versions = {each["run_id"]: each["version"] for each in versions_of(server.url, name)}
    assert set(versions) == {runs[0][0]["info"]["run_id"], runs[2][0]["info"]["run_id"]}
    model = ask(server.url, f"registered-models/get?name={name}")["registered_model"]
    newest = versions[runs[2][0]["info"]["run_id"]]
    assert model["aliases"] == [{"alias": "champion", "version": newest}]


def test_without_its_note_nothing_is_sent_twice(server: Any, tmp_path: Path) -> None:
    book, name = tmp_path / "ledger.jsonl", f"twice-{type(server).__name__}"
    append(book, "verdict", "ann", verdict(2, name=name))
    for _ in range(3):
        assert Mirror(book, server.url).send() == 1
        (tmp_path / "ledger.jsonl.mirror").unlink()
    [entry] = read_ledger(book).entries
    assert len(runs_of(server.url, entry.hash)) == 1
    assert len(versions_of(server.url, name)) == 1


@pytest.mark.parametrize("requests", range(18))
def test_cut_off_anywhere_it_is_completed_by_the_next(
    stand_in: mlflow.StandIn, tmp_path: Path, requests: int
) -> None:
    book = tmp_path / "ledger.jsonl"
    for counter in (2, 3):
        append(book, "verdict", "ann", verdict(counter, name="m"))
    stand_in.fail_at = requests
    mirror = Mirror(book, stand_in.url)
    with pytest.raises(StorageError, match="as asked"):
        mirror.send()
    mirror.send()
    assert [run["status"] for run in stand_in.runs.values()] == ["FINISHED"] * 2
    assert all(data["promote"] for data in (run["metrics"] for run in stand_in.runs.values()))
    assert len(stand_in.models["m"]["versions"]) == 2
    assert stand_in.models["m"]["aliases"] == {"champion": "2"}


def test_while_it_is_down_entries_wait_it_is_told_once_and_they_are_sent_later(
    tmp_path: Path,
) -> None:
    book = tmp_path / "ledger.jsonl"
    server = mlflow.StandIn()
    url = server.url
    server.close()
    said: list[str] = []
    mirror = Mirror(book, url)
    rounds = Rounds({"mirror": lambda _: mirror.send()}, said.append)
    for counter in (2, 3, 4):
        append(book, "verdict", "ann", verdict(counter, name="m"))
        rounds.go(0)
    assert len(said) == 1
    assert "MLflow does not answer" in said[0]
    server = mlflow.StandIn()
    try:
        mirror.url = server.url  # as it would be at the same address
        rounds.go(0)
        assert said[1:] == ["mirror: works again"]
        assert len(server.runs) == 3
    finally:
        server.close()


def test_a_server_without_a_registry_shows_the_runs(tmp_path: Path) -> None:
    server = mlflow.StandIn(registry=False)
    try:
        append(tmp_path / "l", "verdict", "ann", verdict(2, name="m"))
        assert Mirror(tmp_path / "l", server.url).send() == 1
        assert [run["status"] for run in server.runs.values()] == ["FINISHED"]
    finally:
        server.close()


def test_two_at_once_send_each_entry_once(stand_in: mlflow.StandIn, tmp_path: Path) -> None:
    for counter in range(2, 12):
        append(tmp_path / "l", "verdict", "ann", verdict(counter, name="m"))
    threads = [threading.Thread(target=Mirror(tmp_path / "l", stand_in.url).send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stand_in.runs) == len(stand_in.models["m"]["versions"]) == 10


def test_another_server_gets_all_of_it(stand_in: mlflow.StandIn, tmp_path: Path) -> None:
    append(tmp_path / "l", "verdict", "ann", verdict(2, name="m"))
    other = mlflow.StandIn()
    try:
        assert Mirror(tmp_path / "l", stand_in.url).send() == 1
        assert Mirror(tmp_path / "l", other.url).send() == 1
    finally:
        other.close()


def test_credentials_come_from_the_environment(
    stand_in: mlflow.StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "l", "approval", "ann", {"verdict": "ab"})
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    Mirror(tmp_path / "l", stand_in.url).send()
    assert {each["Authorization"] for each in stand_in.headers} == {"Basic YW5uOmh1c2g="}
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        Mirror(tmp_path / "l", "http://ann:hush@host")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["folder", "file:///folder", "sqlite:///x.db", "http://"])
def test_what_is_no_server_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="mlflow server --backend-store-uri"):
        Mirror(tmp_path / "l", url)


def test_one_that_takes_connections_and_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "ANSWER_S", 0.2)
    append(tmp_path / "l", "approval", "ann", {"verdict": "ab"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = Mirror(tmp_path / "l", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match="does not answer"):
            mirror.send()
    assert mirror.waiting() == 1


def test_the_command_sends_what_waits(
    stand_in: mlflow.StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for counter in range(2, 5):
        append(tmp_path / "l", "verdict", "ann", verdict(counter, name="m"))
    arguments = ["cloud", "ledger", "mirror", str(tmp_path / "l"), "--to", stand_in.url]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "3 entries sent, 0 wait\n"
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sent": 0, "waiting": 0}
    assert main([*arguments[:-1], "http://127.0.0.1:9"]) == 1
    assert "MLflow does not answer" in capsys.readouterr().err
