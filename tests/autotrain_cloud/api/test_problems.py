"""Errors that say what to do, and what machines ask of a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from autotrain_cloud.api.app import create_app
from autotrain_cloud.gate.ledger import append
from autotrain_cloud.settings import ApiSettings, CloudSettings, StoreSettings
from autotrain_cloud.store import Store
from edge_runtime.errors import ConfigError
from edge_runtime.settings import build
from tests.autotrain_cloud.api.fleet import Asker, add_token, fill, segment_id
from tests.postgres import Postgres

DOCS = Path(__file__).parents[3] / "docs"


def test_what_is_absent_says_so(admin: Asker) -> None:
    for method, path in (
        ("GET", "/v1/runs"), ("POST", "/v1/runs/x/resume"), ("GET", "/v1/ledger"),
    ):  # fmt: skip
        response = admin(method, path)
        assert response.status_code == 503, path
        assert "under [api]" in response.json()["detail"] and response.headers["retry-after"]


def test_a_problem_has_its_fields_and_no_traceback(viewer: Asker) -> None:
    response = viewer("GET", "/v1/devices/nobody", headers={"X-Request-ID": "r-1"})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank", "title": "Not Found", "status": 404, "instance":
        "/v1/devices/nobody", "request_id": "r-1",
        "detail": "no device nobody; /v1/devices lists them",
    }  # fmt: skip
    response = viewer("GET", "/v1/devices?limit=0")
    assert response.json()["errors"][0]["where"] == "query.limit"
    assert viewer("GET", "/v1/nothing").json()["status"] == 404
    assert viewer("DELETE", "/v1/devices").json()["status"] == 405


def test_a_mistake_of_ours_is_a_500_with_a_number_and_nothing_else(
    viewer: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the secret thing")

    monkeypatch.setattr("autotrain_cloud.api.reads.slices", broken)
    response = viewer("GET", "/v1/slices")
    assert response.status_code == 500 and "secret" not in response.text
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_bodies_have_a_limit_whether_they_say_their_length_or_not(small: Store) -> None:
    app = create_app(small, ApiSettings(body_kilobytes=1))
    with TestClient(app) as client:
        ask = Asker(client, add_token(small, "ada", "admin"))
        big = b'{"slice": "' + b"a" * 2000 + b'"}'
        for content in (big, iter([big[:700], big[700:1400], big[1400:]])):
            response = ask("PUT", "/v1/devices/hall/slice", content=content)
            assert response.status_code == 413, response.text
            assert "1024 bytes" in response.json()["detail"]
        assert ask("PUT", "/v1/devices/hall/slice", json={"slice": "a"}).status_code == 200


def test_a_database_that_is_down_is_a_503_and_comes_back(
    postgres: Postgres, tmp_path: Path
) -> None:
    with Postgres.start() as own:
        store = Store.open(StoreSettings(url=own.new_store(), blobs=str(tmp_path)))
        fill(store)
        with TestClient(create_app(store, ApiSettings()), raise_server_exceptions=False) as client:
            ask = Asker(client, add_token(store, "ada", "admin"))
            assert ask("GET", "/v1/devices").status_code == 200
            own.stop("immediate")
            for method, path in (
                ("GET", "/v1/devices"), ("GET", f"/v1/segments/{segment_id(0)}/audio"),
                ("PUT", "/v1/devices/hall/slice"), ("GET", "/readyz"), ("GET", "/v1/overview"),
                ("GET", "/v1/events/stream"),
            ):  # fmt: skip
                response = ask(method, path, json={"slice": "x"})
                assert response.status_code == 503, path
                assert response.headers["retry-after"] == "5"
                assert "ask again" in response.json()["detail"]
            assert client.get("/healthz").status_code == 200
            assert "vitconformer_store_up 0.0" in ask("GET", "/metrics").text
            own.go()
            codes = {ask("GET", "/v1/devices").status_code for _ in range(20)}
            assert codes <= {200, 503} and ask("GET", "/v1/devices").status_code == 200
        store.close()


def test_metrics_are_for_who_may_and_have_no_device(small: Store, viewer: Asker) -> None:
    viewer("GET", "/v1/devices/kitchen")
    assert viewer.client.get("/metrics").status_code == 401
    text = viewer("GET", "/metrics").text
    assert 'vitconformer_devices_by_model{model_version="1.0"} 2.0' in text
    assert 'route="/v1/devices/{name}",status_class="2xx"} 1.0' in text
    assert "kitchen" not in text
    with TestClient(create_app(small, ApiSettings(open_metrics=True))) as client:
        assert client.get("/metrics").status_code == 200


def test_it_can_be_mounted_beside_something_else(small: Store) -> None:
    outer = FastAPI()
    outer.mount("/api", create_app(small, ApiSettings()))
    with TestClient(outer) as client:
        ask = Asker(client, add_token(small, "vera", "viewer"))
        assert ask.get("/api/v1/devices")["items"][0]["name"] == "hall"
        assert ask("GET", "/api/v1/devices/nobody").status_code == 404


def test_the_ledger_is_shown_and_a_changed_one_is_said(small: Store, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for reason in ("first", "second"):
        append(path, "rollback", "ada", {"release_counter": 1, "reason": reason})
    with TestClient(create_app(small, ApiSettings(ledger=path))) as client:
        ask = Asker(client, add_token(small, "vera", "viewer"))
        found = ask.get("/v1/ledger", limit=1)
        assert found["intact"] and found["total"] == 2
        assert [entry["body"]["reason"] for entry in found["entries"]] == ["second"]
        path.write_text(path.read_text().replace("first", "third"))
        found = ask.get("/v1/ledger")
        assert not found["intact"] and ":1:" in found["problem"]


def test_the_description_is_whole_and_the_page_lists_every_path(viewer: Asker) -> None:
    found = viewer.client.get("/v1/openapi.json").json()
    page = (DOCS / "api.md").read_text("utf-8")
    ids = []
    for path, verbs in found["paths"].items():
        for verb, operation in verbs.items():
            assert operation["summary"] and operation["tags"], (verb, path)
            assert f"`{verb.upper()} {path}`" in page, (verb, path)
            ids.append(operation["operationId"])
    assert len(set(ids)) == len(ids)


def test_every_setting_is_described() -> None:
    page = (DOCS / "cloud.md").read_text("utf-8")
    section = page.split("## `[api]`")[1].split("\n## ")[0]
    for name in ApiSettings.__dataclass_fields__:
        assert f"| `{name}` |" in section, name


def test_who_would_send_tokens_in_the_clear_is_refused() -> None:
    with pytest.raises(ConfigError, match="unencrypted"):
        build(CloudSettings, {"api": {"host": "0.0.0.0"}}, "cloud.toml")
    build(CloudSettings, {"api": {"host": "0.0.0.0", "behind_proxy": True}}, "cloud.toml")
