"""Runs and rollouts, as people act on them by the interface and by the commands."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from autotrain_cloud.api.app import create_app
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.rollout.plan import Plan, Release
from autotrain_cloud.service.roll import Rolling
from autotrain_cloud.settings import ApiSettings
from autotrain_cloud.store import Store
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.api.fleet import Asker, add_token
from tests.autotrain_cloud.fleet import NOW
from tests.autotrain_cloud.pipeline.test_controller import COMMANDS, write_settings

PLAN = Plan(
    id="r-1", release=Release(version="2.0", counter=2), previous=Release(version="1.0", counter=1),
    author="policy", approvals=1, shares=(0.5, 1.0), soak_ms=0, holdback=0.0, least_looks=0,
)  # fmt: skip


def never(bundle: Path, above: Release) -> Release:
    raise AssertionError


@pytest.fixture
def rolling(small: Store) -> Rolling:
    found = Rolling(small, never)
    found.begin(PLAN, bundle=Path("new"), previous=Path("old"), now_ms=NOW)
    return found


@pytest.fixture
def acting(small: Store, rolling: Rolling, tmp_path: Path) -> Iterator[Asker]:
    (tmp_path / "weights").write_text("w\n")
    controller = Controller.open(write_settings(tmp_path, commands=COMMANDS))
    app = create_app(small, ApiSettings(), controller=controller, rolling=rolling)
    with TestClient(app) as client:
        yield Asker(client, add_token(small, "ada", "admin"))
    controller.close()


def test_a_run_is_asked_for_cancelled_and_resumed(acting: Asker) -> None:
    made = acting("POST", "/v1/runs", json={"why": "errors rose", "id": "r1", "slice": "en/car"})
    assert made.status_code == 201 and made.json()["state"] == "queued"
    assert made.json()["why"] == "ada: errors rose"
    acting("POST", "/v1/runs", json={"why": "again", "id": "r2"})
    page = acting.get("/v1/runs", limit=1)
    assert [run["id"] for run in page["items"]] == ["r2"] and page["next"] == "r2"
    assert acting.get("/v1/runs", before="r2")["items"][0]["id"] == "r1"
    assert acting.get("/v1/overview")["runs_under_way"] == ["r1", "r2"]
    assert acting("POST", "/v1/runs/r1/approve", json={"publish": True}).status_code == 409
    assert acting("POST", "/v1/runs/r1/resume").status_code == 409
    assert acting("POST", "/v1/runs/r1/cancel").status_code == 200
    response = acting("GET", "/v1/runs/nothing")
    assert response.status_code == 404 and "the newest are" in response.json()["detail"]
    assert acting("POST", "/v1/runs", json={"why": "x", "id": "../y"}).status_code == 422
    texts = [event["text"] for event in acting.get("/v1/events")["items"] if event["kind"] == "run"]
    assert texts == ["ada: asked for: errors rose", "ada: asked for: again", "ada: cancelled"]


def test_a_rollout_is_approved_halted_and_gone_back_from(acting: Asker, rolling: Rolling) -> None:
    path = "/v1/rollouts/r-1"
    assert acting.get(path)["state"] == "awaiting approval"
    assert acting("POST", f"{path}/approve").json()["progress"]["approved_by"] == ["ada"]
    rolling.step(NOW + 60_000)
    found = acting.get(path)
    assert found["progress"]["devices"] == 2
    given = acting.get(f"{path}/devices")["items"]
    assert len(given) == sum(found["progress"]["by_status"].values())
    halted = acting("POST", f"{path}/halt", json={"reason": "it stutters"})
    assert halted.json()["state"] == "halted" and halted.json()["progress"]["reason"]
    refused = acting("POST", f"{path}/pause", json={})
    assert refused.status_code == 409 and "while halted" in refused.json()["detail"]
    assert acting("POST", f"{path}/back", json={}).json()["state"] == "reverting"
    log = acting.get(f"{path}/log", limit=3)
    assert [entry["number"] for entry in log["items"]] == [0, 1, 2] and log["next"] == "2"
    assert acting.get(f"{path}/log", after=2)["items"][0]["number"] == 3
    assert acting("POST", "/v1/rollouts/none/halt", json={}).status_code == 404
    told = [event for event in acting.get("/v1/events")["items"] if event["kind"] == "rollout"]
    assert ("ada", "halted: it stutters") in [(e["facts"]["who"], e["text"]) for e in told]


def test_another_process_may_halt_what_the_service_rolls_out(
    small: Store, rolling: Rolling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cloud.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/store.db"\nblobs = "{tmp_path}/b"\n')

    def said(*arguments: str) -> str:
        assert main(["cloud", *arguments, "--config", str(config)]) == 0
        return capsys.readouterr().out

    said("rollouts", "approve", "r-1", "--by", "ada")
    rolling.step(NOW + 60_000)  # it has not loaded the rollout since
    assert "halted: no" in said("rollouts", "halt", "r-1", "--by", "ada", "--why", "no")
    before = json.loads(said("rollouts", "show", "r-1", "--json"))
    rolling.step(NOW + 120_000)
    after = json.loads(said("rollouts", "show", "r-1", "--json"))
    assert after["state"] == "halted" and after["log"] == before["log"]
    assert json.loads(said("status", "--json"))["rollouts"][0]["state"] == "halted"
    assert "r-1" in said("rollouts", "list") and "kitchen" in said("devices", "--state", "online")
    assert json.loads(said("devices", "hall", "--json"))["slice"] == "en/hall"
    assert "it fell" in said("alarms") and said("alarms", "--all").count("it fell") == 2
    assert main(["cloud", "rollouts", "halt", "x", "--by", "a", "--config", str(config)]) == 2
    assert "none under way" in capsys.readouterr().err


def test_threads_that_act_at_once_leave_one_log(small: Store, rolling: Rolling) -> None:
    other = Rolling(small, never)
    rolling.act("r-1", lambda rollout: rollout.approve("ada", NOW), NOW)
    refused = []

    def act(who: str, mine: Rolling) -> None:
        for _ in range(3):
            for do in ("pause", "resume"):
                try:
                    mine.act("r-1", lambda r, do=do: getattr(r, do)(who, "", NOW), NOW)  # type: ignore[misc]
                except ConfigError as error:
                    refused.append(str(error))
            mine.step(NOW + 1)

    threads = [
        threading.Thread(target=act, args=(str(number), mine))
        for number, mine in enumerate((rolling, rolling, other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = Rolling(small, never).rollout("r-1")
    assert fresh is not None
    numbers = [entry.number for entry in fresh.entries]
    assert numbers == list(range(len(numbers)))
    done = sum(type(entry.event).__name__ in ("Paused", "Resumed") for entry in fresh.entries)
    assert done + len(refused) == 18
