"""Errors as people and programs can use them: problem+json (RFC 9457), never a traceback."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, Response

from autotrain_cloud.api.cursors import BadCursor
from autotrain_cloud.api.models import Problem
from edge_runtime.errors import ConfigError, ContractError, StorageError

log = logging.getLogger(__name__)

RETRY_S = 5
SAID = {
    401: "no token, or one that is not valid",
    403: "the token's role is too low",
    404: "there is none",
    409: "it does not fit the present state",
    413: "too large",
    422: "a parameter or field is wrong",
    503: "something that is needed does not answer, or is not part of this server",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": SAID[status], "model": Problem, "content": content}
        for status in statuses
    }


def problem(
    status: int,
    detail: str,
    *,
    instance: str,
    request_id: str,
    headers: dict[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> Response:
    """A response that says what is wrong."""
    found = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, instance=instance,
        request_id=request_id, errors=errors,
    )  # fmt: skip
    return JSONResponse(
        found.model_dump(exclude_none=True), status, headers, "application/problem+json"
    )


def not_found(what: str) -> HTTPException:
    return HTTPException(404, what)


def absent(what: str) -> HTTPException:
    """A part that this server was started without."""
    return HTTPException(503, what)


def install(app: FastAPI) -> None:
    """Makes problems of all that can be raised."""

    def answer(request: Request, status: int, detail: str, **more: Any) -> Response:
        id = getattr(request.state, "request_id", "")
        return problem(status, detail, instance=request.url.path, request_id=id, **more)

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 503:
            headers.setdefault("Retry-After", str(RETRY_S))
        return answer(request, error.status_code, str(error.detail), headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"where": ".".join(map(str, one["loc"])), "problem": one["msg"]}
            for one in error.errors()
        ]
        first = errors[0] if errors else {"where": "request", "problem": "cannot be read"}
        detail = f"{first['where']}: {first['problem']}"
        safe = detail.encode("utf-8", "replace").decode()
        return answer(request, 422, safe, errors=_safe(errors))

    @app.exception_handler(BadCursor)
    async def cursor(request: Request, error: BadCursor) -> Response:
        return answer(request, 422, str(error))

    @app.exception_handler(ContractError)
    async def contract(request: Request, error: ContractError) -> Response:
        return answer(request, 422, str(error))

    @app.exception_handler(ConfigError)
    async def refused(request: Request, error: ConfigError) -> Response:
        return answer(request, 409, str(error))

    @app.exception_handler(DataError)
    async def data(request: Request, error: DataError) -> Response:
        return answer(request, 422, "a value that the database cannot hold; change it")

    @app.exception_handler(StorageError)
    async def storage(request: Request, error: StorageError) -> Response:
        log.error("%s: %s", request.url.path, error)
        said = "the store does not answer; ask again in a few seconds"
        return answer(request, 503, said, headers={"Retry-After": str(RETRY_S)})

    @app.exception_handler(PoolTimeout)
    async def busy(request: Request, error: PoolTimeout) -> Response:
        said = "all connections to the store are in use; ask again in a few seconds"
        return answer(request, 503, said, headers={"Retry-After": str(RETRY_S)})


def _safe(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: str(value).encode("utf-8", "replace").decode() for name, value in one.items()}
        for one in errors[:20]
    ]
