"""The promotion ledger, shown in MLflow: each entry a run, each promotion a version of a model.

    Mirror(ledger, "http://mlflow:5000").send()       # -> how many entries went out

The ledger stays the truth, and nothing is read back from there. LEDGER.mirror says how far it got.
A run is tagged with the hash of its entry, and looked for before it is made, so that whatever was
cut off is completed and nothing is there twice. What MLflow does not take waits, and those after it
wait too: the newest promotion is the one that has the alias `champion`.

A tracking server's REST interface of version 2 is all that is used, so no library is needed here.
Credentials are where MLflow's own programs look: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME
and MLFLOW_TRACKING_PASSWORD.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from autotrain_cloud.gate.ledger import Entry, read_ledger
from autotrain_cloud.locks import if_free
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import write_atomically

EXPERIMENT = "vitconformer promotions"
ALIAS = "champion"
ENTRY = "vitconformer.entry"  # the tag
ANSWER_S = 5.0
MOST = 50  # entries at a time
_TEXT = 5000  # characters of a value; MLflow takes 6000 of a parameter, and 8000 of a tag
_NO_REGISTRY = ("ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED")


class RefusedError(StorageError):
    """An answer that is an error."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Mirror:
    """Of one ledger, to one server."""

    def __init__(self, ledger: Path, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"mirror: {url!r} (expected http://HOST:PORT of an MLflow tracking server; for a "
                "folder, `mlflow server --backend-store-uri FOLDER`)"
            )
        if "@" in parts.netloc:
            raise ConfigError(
                "mirror: credentials do not belong in the URL; set MLFLOW_TRACKING_USERNAME and"
                " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        self._ledger = ledger
        self._state = ledger.with_name(f"{ledger.name}.mirror")
        self.url = url.rstrip("/")

    def send(self) -> int:
        """Entries that are not there yet, the oldest first; -> how many. Another that is at it
        sends them too: then none.

        Raises StorageError when MLflow does not answer or refuses, LedgerTampered for a ledger that
        was changed. What was sent before stays sent.
        """
        lock = self._state.with_name(f"{self._state.name}.lock")
        try:
            lock.touch(0o600)
        except OSError as error:
            raise StorageError(f"{lock}: {error.strerror}") from error
        with if_free(lock) as mine:
            return self._send_due() if mine else 0

    def _send_due(self) -> int:
        entries = read_ledger(self._ledger).entries
        sent = self._sent(entries)
        due = entries[sent : sent + MOST]
        if due:
            experiment = self._experiment()
            for entry in due:
                self._send(experiment, entry)
                write_atomically(self._state, json.dumps(self._note(entry)).encode())
        return len(due)

    def waiting(self) -> int:
        """How many entries are not there yet."""
        entries = read_ledger(self._ledger).entries
        return len(entries) - self._sent(entries)

    # -- how far it got ----------------------------------------------------------------------------

    def _note(self, entry: Entry) -> dict[str, Any]:
        return {"url": self.url, "sent": entry.number, "hash": entry.hash}

    def _sent(self, entries: Sequence[Entry]) -> int:
        """None of them at another server, or where the note is of another ledger."""
        try:
            note = json.loads(self._state.read_text("utf-8"))
            sent = int(note["sent"])
            return sent if sent > 0 and note == self._note(entries[sent - 1]) else 0
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return 0  # nothing is sent twice: each is looked for

    # -- what MLflow gets --------------------------------------------------------------------------

    def _experiment(self) -> str:
        name = quote(EXPERIMENT)
        try:
            found = self._ask("GET", f"experiments/get-by-name?experiment_name={name}")
            return str(found["experiment"]["experiment_id"])
        except RefusedError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
        return str(self._ask("POST", "experiments/create", {"name": EXPERIMENT})["experiment_id"])

    def _send(self, experiment: str, entry: Entry) -> None:
        at_ms = round(datetime.fromisoformat(entry.at).timestamp() * 1000)
        search = {"experiment_ids": [experiment], "filter": f"tags.`{ENTRY}` = '{entry.hash}'"}
        found = self._ask("POST", "runs/search", search).get("runs", [])
        if not found:
            new = {
                "experiment_id": experiment, "run_name": f"{entry.number} {entry.kind}",
                "start_time": at_ms, "tags": [{"key": ENTRY, "value": entry.hash}],
            }  # fmt: skip
            found = [self._ask("POST", "runs/create", new)["run"]]
        run = str(found[0]["info"]["run_id"])
        facts = {
            "run_id": run,
            "params": [{"key": key, "value": value} for key, value in _params(entry)],
            "metrics": [
                {"key": key, "value": value, "timestamp": at_ms, "step": 0}
                for key, value in _metrics(entry)
            ],
            "tags": [{"key": key, "value": value} for key, value in _tags(entry)],
        }
        self._ask("POST", "runs/log-batch", facts)
        if entry.kind == "verdict" and entry.body["decision"] == "promote":
            try:
                self._register(run, entry)
            except RefusedError as error:
                if error.code not in _NO_REGISTRY:
                    raise
        ended = {"run_id": run, "status": "FINISHED", "end_time": at_ms}
        self._ask("POST", "runs/update", ended)

    def _register(self, run: str, entry: Entry) -> None:
        model = entry.body["challenger"]
        name = str(model["name"])
        try:
            self._ask("POST", "registered-models/create", {"name": name})
        except RefusedError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        search = quote(f"run_id = '{run}'")
        found = self._ask("GET", f"model-versions/search?filter={search}")
        versions = found.get("model_versions", [])
        if not versions:
            new = {
                "name": name, "source": f"runs:/{run}/bundle", "run_id": run,
                "tags": [
                    {"key": f"vitconformer.{key}", "value": str(model[key])}
                    for key in ("version", "release_counter", "digest")
                ],
            }  # fmt: skip
            versions = [self._ask("POST", "model-versions/create", new)["model_version"]]
        alias = {"name": name, "alias": ALIAS, "version": str(versions[0]["version"])}
        self._ask("POST", "registered-models/alias", alias)

    def _ask(self, method: str, path: str, fields: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{path}",
            method=method,
            headers={"Content-Type": "application/json"} | _credentials(),
            data=None if fields is None else json.dumps(fields).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise self._refused(path, error) from error
        except ValueError as error:
            raise StorageError(f"{self.url}: what answers is no MLflow: not JSON") from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", None) or error
            raise StorageError(f"{self.url}: MLflow does not answer: {reason}") from error

    def _refused(self, path: str, error: urllib.error.HTTPError) -> RefusedError:
        body = error.read().decode("utf-8", "replace")
        try:
            answer = json.loads(body)
            code, said = str(answer["error_code"]), str(answer.get("message", ""))
        except (ValueError, KeyError, TypeError):
            code, said = str(error.code), body
        if error.code in (401, 403):
            said = "refuses: set MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN"
        elif error.code in (404, 501) and code == str(error.code):
            code, said = "ENDPOINT_NOT_FOUND", "there is no such thing; is this an MLflow server?"
        said = " ".join(said.split())[:200]
        return RefusedError(f"{self.url}: MLflow: {path.partition('?')[0]}: {said}", code)


def _tags(entry: Entry) -> Iterable[tuple[str, str]]:
    yield "mlflow.user", entry.who
    for name in ("number", "kind", "who", "previous"):
        yield f"vitconformer.{name}", _cut(getattr(entry, name))
    for name in ("decision", "reason", "verdict"):
        if name in entry.body:
            yield f"vitconformer.{name}", _cut(entry.body[name])
    if entry.body.get("reasons"):
        yield "vitconformer.reasons", _cut("\n".join(entry.body["reasons"]))


def _params(entry: Entry) -> Iterable[tuple[str, str]]:
    for role in ("champion", "challenger"):
        for name, value in dict(entry.body.get(role, {})).items():
            yield f"{role}.{name}", _cut(value)
    for one in entry.body.get("sets", ()):
        yield _name(f"{one['role']}.{one['name']}"), _cut(one["digest"])
    for one in entry.body.get("training", ()):
        yield _name(f"training.{one['name']}"), _cut(one["sha256"])
    if "release_counter" in entry.body:
        yield "release_counter", _cut(entry.body["release_counter"])


def _metrics(entry: Entry) -> Iterable[tuple[str, float]]:
    if entry.kind == "verdict":
        yield "promote", float(entry.body["decision"] == "promote")
    for rule, numbers in dict(entry.body.get("measured", {})).items():
        for name, value in numbers.items():
            if math.isfinite(value):
                yield _name(f"{rule}/{name}"), float(value)


def _cut(value: object) -> str:
    return str(value)[:_TEXT]


def _name(text: str) -> str:
    """As MLflow lets keys be."""
    return re.sub(r"[^\w\-./ ]", "_", text)[:250]


def _credentials() -> dict[str, str]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        both = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {both}"}
    return {}
