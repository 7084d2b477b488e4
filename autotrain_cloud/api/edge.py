"""What every request meets first: an id, limits, a line in the log, its place in the numbers.

An ASGI layer of its own around the application, so that it sees what goes out and when, streams
included, and turns whatever nobody caught into a plain 500.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotrain_cloud.api.metrics import Metrics
from autotrain_cloud.api.problems import problem

log = logging.getLogger(__name__)
access = logging.getLogger("autotrain_cloud.api.access")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class _TooLarge(HTTPException):
    """More bytes than a body may have. An HTTPException, because FastAPI takes every other one that
    it meets while it reads a body for a malformed body.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body may have {limit} bytes")


class Edge:
    """ASGI around ASGI."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(self._app, self._metrics, self._body_bytes, scope, receive, send).run()


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, limit: int, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.app, self.metrics, self.limit = app, metrics, limit
        self.scope, self._receive, self._send = scope, receive, send
        self.headers = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        self.state: MutableMapping[str, Any] = scope.setdefault("state", {})
        self.state["request_id"] = self.id
        self.status, self.sent, self.received = 0, 0, 0

    async def run(self) -> None:
        began = time.perf_counter()
        try:
            if said := self._refused():
                await self._answer(*said)
            else:
                await self.app(self.scope, self.receive, self.send)
        except _TooLarge as error:  # read by something that is not FastAPI
            await self._answer(error.status_code, error.detail)
        except Exception:
            log.exception("%s %s", self.scope["method"], self.scope["path"])
            if self.status:
                raise  # the answer is half out: all that is left is to cut the line
            await self._answer(500, f"a mistake of this server; its log has it as {self.id}")
        finally:
            self._note(time.perf_counter() - began)

    def _refused(self) -> tuple[int, str] | None:
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.limit:
            return 413, f"the body may have {self.limit} bytes"
        if "\0" in self.scope["path"] or b"%00" in self.scope["query_string"]:
            return 422, "the address has the character NUL; leave it out"
        return None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            if self.received > self.limit:
                raise _TooLarge(self.limit)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            have = {name.lower() for name, _ in message["headers"]}
            more = [*_HEADERS, (b"x-request-id", self.id.encode()), (b"cache-control", b"no-store")]
            message["headers"] = [
                *message["headers"],
                *(header for header in more if header[0] not in have),
            ]
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        await self._send(message)

    async def _answer(self, status: int, detail: str) -> None:
        response = problem(status, detail, instance=self.scope["path"], request_id=self.id)
        await response(self.scope, self._receive, self.send)

    def _note(self, seconds: float) -> None:
        route = getattr(self.scope.get("route"), "path", "")
        self.metrics.answered(self.scope["method"], route, self.status, seconds)
        client = self.scope.get("client")
        facts = {
            "at": round(time.time(), 3), "request": self.id, "method": self.scope["method"],
            "path": self.scope["path"], "route": route, "status": self.status,
            "ms": round(1000 * seconds, 1), "bytes": self.sent,
            "who": self.state.get("who", ""), "address": client[0] if client else "",
        }  # fmt: skip
        access.info("%s", json.dumps(facts))
