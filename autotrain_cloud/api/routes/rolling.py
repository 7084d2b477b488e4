"""Rollouts: how far they are, and what people do about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from autotrain_cloud.api import models, reads
from autotrain_cloud.api.access import Admin, Operator, Viewer
from autotrain_cloud.api.models import Page
from autotrain_cloud.api.problems import responses
from autotrain_cloud.api.routes.common import Cursor, Filter, PageLimit, key_of, page
from autotrain_cloud.api.services import Here, Services, existing, now_ms
from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.log import Entry

router = APIRouter(prefix="/v1", tags=["rollouts"], responses=responses(401, 403, 422, 503))
_ACT = responses(404, 409)


@router.get("/rollouts", summary="Rollouts, the newest first")
def rollouts(
    here: Here,
    _: Viewer,
    state: Literal["open", "all"] = "all",
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> Page[models.RolloutRow]:
    with here.read() as db:
        rows = reads.rollout_page(
            db, open_only=state == "open", before=key_of(cursor, int, str), limit=limit + 1
        )
    found = page(rows, limit, lambda row: (row.created_ms, row.id))
    return Page[models.RolloutRow].model_validate(found)


@router.get(
    "/rollouts/{id}", responses=responses(404), summary="A rollout, its plan and how far it is"
)
def rollout(id: str, here: Here, _: Viewer) -> models.RolloutDetail:
    return _detail(here, id)


@router.get(
    "/rollouts/{id}/log", responses=responses(404), summary="All that happened in a rollout"
)
def log(
    id: str,
    here: Here,
    _: Viewer,
    after: Annotated[int, Query(ge=-1, lt=1 << 63, description="number of the last entry")] = -1,
    limit: PageLimit = 100,
) -> Page[models.RolloutEntry]:
    """The oldest first; `next` goes into `after`. Where many devices are meant, their number is
    given in place of their names.
    """
    with here.read() as db:
        existing(reads.rollout(db, id), _none(id))
        rows = reads.rollout_entries(db, id, after=after, limit=limit + 1)
    more = str(rows[limit - 1].number) if len(rows) > limit else None
    items = [_short(row.entry) for row in rows[:limit]]
    return Page[models.RolloutEntry].model_validate({"items": items, "next": more})


@router.get(
    "/rollouts/{id}/devices", responses=responses(404),
    summary="Devices that were given the release, and what became of it",
)  # fmt: skip
def devices(
    id: str,
    here: Here,
    _: Viewer,
    status: Filter = None,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> Page[models.RolloutDevice]:
    (after,) = key_of(cursor, str) or ("",)
    with here.read() as db:
        row = existing(reads.rollout(db, id), _none(id))
        rows = here.replays.devices(db, row, status=status, after=after, limit=limit + 1)
    found = page(rows, limit, lambda one: (one["device"],), list)
    return Page[models.RolloutDevice].model_validate(found)


@router.post(
    "/rollouts/{id}/approve", responses=_ACT,
    summary="Agree to a rollout; its author cannot",
)  # fmt: skip
def approve(id: str, here: Here, who: Admin) -> models.RolloutDetail:
    now = now_ms()
    return _act(here, id, lambda rollout: rollout.approve(who.name, now), now)


@router.post("/rollouts/{id}/pause", responses=_ACT, summary="No further devices for now")
def pause(id: str, asked: models.Because, here: Here, who: Operator) -> models.RolloutDetail:
    now = now_ms()
    return _act(here, id, lambda rollout: rollout.pause(who.name, asked.reason, now), now)


@router.post(
    "/rollouts/{id}/resume", responses=_ACT,
    summary="Go on; after a halt what was held against the release is forgotten",
)  # fmt: skip
def resume(id: str, asked: models.Because, here: Here, who: Admin) -> models.RolloutDetail:
    now = now_ms()
    return _act(here, id, lambda rollout: rollout.resume(who.name, asked.reason, now), now)


@router.post(
    "/rollouts/{id}/halt", responses=_ACT,
    summary="Stop: devices that have not begun with the release do not",
)  # fmt: skip
def halt(id: str, asked: models.Because, here: Here, who: Operator) -> models.RolloutDetail:
    now = now_ms()
    return _act(here, id, lambda rollout: rollout.halt(who.name, asked.reason, now), now)


@router.post(
    "/rollouts/{id}/back", responses=_ACT,
    summary="After a halt: devices are to run the previous model again",
)  # fmt: skip
def back(id: str, asked: models.Because, here: Here, who: Admin) -> models.RolloutDetail:
    now = now_ms()
    return _act(here, id, lambda rollout: rollout.go_back(who.name, asked.reason, now), now)


def _act(
    here: Services, id: str, do: Callable[[Rollout], list[Entry]], now: int
) -> models.RolloutDetail:
    """The journal gets what happens from the rollout itself, with who did it."""
    with here.read() as db:
        existing(reads.rollout(db, id), _none(id))
    here.rolling.act(id, do, now)
    return _detail(here, id)


def _detail(here: Services, id: str) -> models.RolloutDetail:
    with here.read() as db:
        row = existing(reads.rollout(db, id), _none(id))
        progress = here.replays.progress(db, row)
    return models.RolloutDetail.model_validate({**row._mapping, "progress": progress})


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    event = {
        name: len(value) if name == "devices" and len(value) > 20 else value
        for name, value in entry["event"].items()
    }
    return {**entry, "event": event}


def _none(id: str) -> str:
    return f"no rollout {id}; /v1/rollouts lists them"
