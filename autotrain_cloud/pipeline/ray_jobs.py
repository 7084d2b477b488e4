"""A cluster's job server, as far as steps need it: the REST interface of Ray Jobs.

    jobs = RayJobs("http://head:8265", token="...")
    jobs.submit("train-1", "python train.py", cpus=1)
    jobs.find("train-1")            # JobInfo(status="RUNNING", ...)

Standard library only: whoever controls a cluster needs no ray, no four seconds to import it, and no
version that equals the cluster's.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError, StorageError

ANSWER_S = 30.0  # a submission waits for the node's agent: ten seconds on a busy machine
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """What a cluster knows of a job."""

    status: str  # PENDING, RUNNING or one of OVER
    message: str = ""
    code: int | None = None  # of its entrypoint, where that ran to its end

    @property
    def over(self) -> bool:
        return self.status in OVER


class RayJobs:
    """Every call raises StorageError where the server does not answer, which may pass, and
    ConfigError where it refuses the token, which will not."""

    def __init__(self, url: str, *, token: str = "") -> None:
        self.url = url
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def find(self, id: str) -> JobInfo | None:
        """None for a job that was never submitted, or that a new cluster does not know."""
        code, body = self._ask("GET", f"/api/jobs/{id}")
        if code == 404:
            return None
        fields = self._json(code, body)
        return JobInfo(
            status=fields["status"],
            message=fields.get("message") or "",
            code=fields.get("driver_exit_code"),
        )

    def submit(self, id: str, entrypoint: str, *, cpus: float = 0, gpus: float = 0) -> bool:
        """Whether the job is new; one with this id is left as it is."""
        request = {
            "submission_id": id, "entrypoint": entrypoint,
            "entrypoint_num_cpus": cpus, "entrypoint_num_gpus": gpus,
        }  # fmt: skip
        code, body = self._ask("POST", "/api/jobs/", request)
        if code != 200 and f"submission_id {id} already exists" in body:
            return False
        self._json(code, body)
        return True

    def stop(self, id: str) -> None:
        """Asks for the end of a job. Ends as asked even where there is none."""
        self._ask("POST", f"/api/jobs/{id}/stop", {})

    def forget(self, id: str) -> None:
        """Frees the id of a job that is over."""
        self._ask("DELETE", f"/api/jobs/{id}")

    def _ask(
        self, method: str, path: str, fields: Mapping[str, Any] | None = None
    ) -> tuple[int, str]:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            headers=self._headers,
            data=None if fields is None else json.dumps(fields).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            body = error.read().decode("utf-8", "replace")
            if error.code in (401, 403):
                raise ConfigError(
                    f"{self.url}: the Ray cluster refuses this token ({body.strip()[:100]}); put "
                    "its own (`ray get-auth-token` on the head node) into RAY_AUTH_TOKEN, or a "
                    "file's path into RAY_AUTH_TOKEN_PATH"
                ) from error
            return error.code, body
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", None) or error
            raise StorageError(
                f"{self.url}: no Ray job server answers ({reason}); is the cluster up, and its "
                "dashboard reachable from here (`ray start --head --dashboard-host ...`)?"
            ) from error

    def _json(self, code: int, body: str) -> dict[str, Any]:
        try:
            if code == 200:
                fields: dict[str, Any] = json.loads(body)
                return fields
            problem = f"HTTP {code}"
        except ValueError:
            problem = "an answer that is not JSON"
        said = (body.strip().splitlines() or [""])[-1][:200]
        raise StorageError(f"{self.url}: the Ray job server gave {problem}: {said}")


def find_token() -> str:
    """Where Ray itself looks: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Empty where there is none, which suits a cluster that wants none. Raises ConfigError for a file
    that was named and cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        if named:
            raise ConfigError(
                f"RAY_AUTH_TOKEN_PATH: {path}: cannot be read: {error.strerror}"
            ) from error
        return ""
