"""MLflow's tracking server for tests: the real one where its program is, and a stand-in.

MLflow (850 MB with what it needs, and it holds back pyarrow) is not part of the development
environment. `python -m venv m && m/bin/pip install mlflow==3.17.2`, and PATH=$PATH:m/bin lets the
same tests run against it. The stand-in answers the few questions that are asked as that one did.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.broker import free_ports

PROGRAM = shutil.which("mlflow")


class RealServer:
    """`mlflow server` with SQLite."""

    def __init__(self, folder: Path) -> None:
        [port] = free_ports(1)
        assert PROGRAM
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [PROGRAM, "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
             "--default-artifact-root", str(folder / "artifacts"), "--host", "127.0.0.1",
             "--port", str(port), "--workers", "1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                assert self._process.poll() is None
                time.sleep(0.2)

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # with its workers
        self._process.wait()


class StandIn:
    """The same answers, without a registry where `registry` is false."""

    def __init__(self, registry: bool = True) -> None:
        self.registry = registry
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.fail_at = -1  # requests until one is answered with 500
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.headers.append(dict(self.headers))
                parts = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                status, answer = outer.answer(
                    parts.path.removeprefix("/api/2.0/mlflow/"), json.loads(body or b"{}") | query
                )
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        self.fail_at -= 1
        if self.fail_at == -1:
            return 500, {"error_code": "INTERNAL_ERROR", "message": "as asked"}
        if not self.registry and path.startswith(("registered-models", "model-versions")):
            return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": ""}
        known = getattr(self, "_" + re.sub(r"\W", "_", path), None)
        answer: tuple[int, Any] = known(asked) if known else (404, "<!doctype html>")
        return answer

    def _experiments_get_by_name(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked["experiment_name"] not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": ""}
        return 200, {"experiment": {"experiment_id": self.experiments[asked["experiment_name"]]}}

    def _experiments_create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        self.experiments[asked["name"]] = id = str(len(self.experiments) + 1)
        return 200, {"experiment_id": id}

    def _runs_search(self, asked: dict[str, Any]) -> tuple[int, Any]:
        found = re.fullmatch(r"tags\.`(.+)` = '(.+)'", asked["filter"])
        assert found
        runs = [run for run in self.runs.values() if run["tags"].get(found[1]) == found[2]]
        return 200, {"runs": [_as_told(run) for run in runs]} if runs else {}

    def _runs_create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        id = f"{len(self.runs) + 1:032x}"
        tags = {each["key"]: each["value"] for each in asked["tags"]}
        run = {"id": id, "status": "RUNNING", "tags": tags, "params": {}, "metrics": {}}
        self.runs[id] = run
        return 200, {"run": _as_told(run)}

    def _runs_log_batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        run = self.runs[asked["run_id"]]
        for kind in ("tags", "params", "metrics"):
            for each in asked[kind]:
                if kind == "params" and run[kind].get(each["key"], each["value"]) != each["value"]:
                    return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": each["key"]}
                run[kind][each["key"]] = each["value"]
        return 200, {}

    def _runs_update(self, asked: dict[str, Any]) -> tuple[int, Any]:
        self.runs[asked["run_id"]]["status"] = asked["status"]
        return 200, {}

    def _registered_models_create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked["name"] in self.models:
            return 400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": ""}
        self.models[asked["name"]] = {"versions": [], "aliases": {}}
        return 200, {}

    def _registered_models_get(self, asked: dict[str, Any]) -> tuple[int, Any]:
        aliases = self.models[asked["name"]]["aliases"]
        told = [{"alias": name, "version": version} for name, version in aliases.items()]
        return 200, {"registered_model": {"aliases": told}}

    def _registered_models_alias(self, asked: dict[str, Any]) -> tuple[int, Any]:
        self.models[asked["name"]]["aliases"][asked["alias"]] = asked["version"]
        return 200, {}

    def _model_versions_create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        versions = self.models[asked["name"]]["versions"]
        tags = {each["key"]: each["value"] for each in asked["tags"]}
        version = {"version": str(len(versions) + 1), "run_id": asked["run_id"], "tags": tags}
        versions.append(version)
        return 200, {"model_version": version}

    def _model_versions_search(self, asked: dict[str, Any]) -> tuple[int, Any]:
        found = re.fullmatch(r"(\w+) ?= ?'(.+)'", asked["filter"])
        assert found
        versions = [
            version
            for name, model in self.models.items()
            for version in model["versions"]
            if {**version, "name": name}[found[1]] == found[2]
        ]
        return 200, {"model_versions": versions} if versions else {}


def _as_told(run: dict[str, Any]) -> dict[str, Any]:
    data = {
        kind: [{"key": key, "value": value} for key, value in run[kind].items()]
        for kind in ("tags", "params", "metrics")
    }
    return {"info": {"run_id": run["id"], "status": run["status"]}, "data": data}
