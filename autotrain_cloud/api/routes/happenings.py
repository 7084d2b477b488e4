"""What happens, as pages and as a stream; and whether this server is well."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool

from autotrain_cloud.api import models, stream
from autotrain_cloud.api.access import Metered, Viewer
from autotrain_cloud.api.metrics import CONTENT_TYPE
from autotrain_cloud.api.problems import responses
from autotrain_cloud.api.routes.common import PageLimit
from autotrain_cloud.api.services import Here

router = APIRouter(prefix="/v1", tags=["events"], responses=responses(401, 403, 422, 503))
health = APIRouter(tags=["health"])

MOST_S = 600  # of one stream; clients come again with the last number, and show their token again
Number = Annotated[int, Query(ge=0, lt=1 << 63, description="number of the last one that is known")]


@router.get("/events", summary="What happened after an event, the oldest first")
def events(here: Here, _: Viewer, since: Number = 0, limit: PageLimit = 100) -> models.Events:
    with here.read() as db:
        rows = stream.after(db, since, limit=limit)
    items = [models.Event.model_validate(row) for row in rows]
    return models.Events(items=items, next=items[-1].number if items else since)


@router.get(
    "/events/stream", response_class=StreamingResponse,
    responses={200: {"description": "server-sent events", "content": {"text/event-stream": {}}}},
    summary="What happens, as it does (server-sent events)",
)  # fmt: skip
async def listen(
    here: Here,
    _: Viewer,
    since: Annotated[int | None, Query(ge=0, lt=1 << 63)] = None,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """Each event has its number as id and the same JSON as `/v1/events` as data. From the event
    after `Last-Event-ID`, or after `since`, or from now on. Comments keep the line open; after ten
    minutes it ends, and the client comes again.
    """
    if here.hub.listeners >= here.settings.streams:
        raise HTTPException(503, "too many streams are open; share one, or ask again later")
    number = since
    if last_event_id and last_event_id.isascii() and last_event_id.isdigit():
        number = min(int(last_event_id[:18]), 1 << 62)
    if number is None:
        number = await here.hub.newest()
    body = here.hub.listen(number, heartbeat_s=here.settings.heartbeat_s, most_s=MOST_S)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(body, media_type="text/event-stream", headers=headers)


@health.get("/healthz", summary="Whether this process runs")
async def healthz() -> models.Health:
    return models.Health(status="ok")


@health.get(
    "/readyz", responses=responses(503), summary="Whether database and audio can be reached"
)
def readyz(here: Here) -> models.Health:
    with here.read() as db:
        db.execute(text("SELECT 1"))
    here.store.blobs.check()
    return models.Health(status="ok")


@health.get(
    "/metrics", response_class=Response,
    responses={
        **responses(401), 200: {"description": "for Prometheus", "content": {"text/plain": {}}},
    },
    summary="Numbers for Prometheus",
)  # fmt: skip
async def metrics(_: Metered, here: Here) -> Response:
    content = await run_in_threadpool(here.metrics.text)
    return Response(content, media_type=CONTENT_TYPE)
