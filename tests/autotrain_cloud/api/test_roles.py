"""Every path by every role, and what a token is worth."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from autotrain_cloud import api_tokens
from autotrain_cloud.api_tokens import ROLES
from autotrain_cloud.store import Store
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.api.fleet import add_token

OPEN = {"/healthz", "/readyz", "/v1/openapi.json"}
WRITES = {
    ("PUT", "/v1/devices/{name}/slice"): "operator",
    ("PUT", "/v1/devices/{name}/consent"): "operator",
    ("DELETE", "/v1/devices/{name}/consent"): "operator",
    ("POST", "/v1/segments/{id}/labels"): "operator",
    ("POST", "/v1/review/leases"): "operator",
    ("POST", "/v1/runs"): "operator",
    ("POST", "/v1/runs/{id}/resume"): "operator",
    ("POST", "/v1/runs/{id}/approve"): "admin",
    ("POST", "/v1/runs/{id}/cancel"): "operator",
    ("POST", "/v1/rollouts/{id}/approve"): "admin",
    ("POST", "/v1/rollouts/{id}/pause"): "operator",
    ("POST", "/v1/rollouts/{id}/resume"): "admin",
    ("POST", "/v1/rollouts/{id}/halt"): "operator",
    ("POST", "/v1/rollouts/{id}/back"): "admin",
    ("POST", "/v1/erasures"): "admin",
}


def operations(client: TestClient) -> list[tuple[str, str]]:
    """Of the whole interface, by its own description."""
    paths = client.get("/v1/openapi.json").json()["paths"]
    return [(verb.upper(), path) for path, verbs in paths.items() for verb in verbs]


def filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "nothing", path)


def test_every_path_wants_a_token_and_the_role_that_is_written_here(
    small: Store, client: TestClient
) -> None:
    tokens = {role: add_token(small, role, role) for role in ROLES}
    found = operations(client)
    assert {key for key in found if key[0] != "GET"} == set(WRITES)
    for method, path in found:
        if path in OPEN:
            assert client.request(method, filled(path)).status_code == 200
            continue
        assert client.request(method, filled(path)).status_code == 401, path
        if path == "/v1/events/stream":
            continue  # does not end; test_live.py reads it
        needed = WRITES.get((method, path), "viewer")
        for role in ROLES:
            headers = {"Authorization": f"Bearer {tokens[role]}"}
            status = client.request(method, filled(path), headers=headers, json={}).status_code
            refused = ROLES.index(role) < ROLES.index(needed)
            assert (status == 403) is refused, (method, path, role, status)
            assert status != 401 and status != 500, (method, path, role)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic dTpw", "Bearer \xff", "vct_x"])
def test_what_is_no_token_is_refused(client: TestClient, header: str) -> None:
    response = client.get("/v1/me", headers={"Authorization": header.encode("latin-1")})
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert "api-token add" in response.json()["detail"]


def test_a_token_ends_by_time_and_by_hand(small: Store, client: TestClient) -> None:
    def status(token: str) -> int:
        client.app.state.services._callers.clear()  # type: ignore[attr-defined]
        headers = {"Authorization": f"Bearer {token}"}
        return client.get("/v1/me", headers=headers).status_code

    short = add_token(small, "short", "viewer", valid_ms=1)
    time.sleep(0.01)
    assert status(short) == 401
    token = add_token(small, "long", "viewer")
    assert status(token) == 200
    with small.begin() as db:
        api_tokens.revoke(db, "long", now_ms=1)
    assert status(token) == 401


def test_the_store_has_no_secret_and_a_name_is_used_once(small: Store) -> None:
    token = add_token(small, "a", "viewer")
    with small.read() as db:
        content = str(db.exec_driver_sql("SELECT * FROM api_tokens").all())
        assert token not in content and "a" in content
        assert "digest" not in api_tokens.all_tokens(db)[0]._mapping
    with pytest.raises(ConfigError, match="another name"):
        add_token(small, "a", "admin")


def test_tokens_by_the_command(
    tmp_path: Path, small: Store, client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cloud.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/store.db"\nblobs = "{tmp_path}/b"\n')

    def said(*arguments: str) -> str:
        options = ["--config", str(config)]
        assert main(["cloud", "api-token", arguments[0], *options, *arguments[1:]]) == 0
        return capsys.readouterr().out

    token = said("add", "ann", "--role", "operator").strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get("/v1/me", headers=headers).json() == {"name": "ann", "role": "operator"}
    assert re.search(r"ann +operator +valid", said("list"))
    said("revoke", "ann")
    assert "revoked" in said("list") and token not in said("list", "--json")
    assert main(["cloud", "api-token", "revoke", "--config", str(config), "nobody"]) == 2
