"""The overview, devices, consents and alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, HTTPException

from autotrain_cloud.api import models, reads
from autotrain_cloud.api.access import Operator, Viewer
from autotrain_cloud.api.models import Page
from autotrain_cloud.api.problems import responses
from autotrain_cloud.api.routes.common import (
    Cursor,
    Filter,
    PageLimit,
    Since,
    key_of,
    page,
    plain,
)
from autotrain_cloud.api.services import Here, existing, now_ms
from autotrain_cloud.service.watch import set_slice
from autotrain_cloud.store import consents
from autotrain_cloud.store.segments import DAY_MS

router = APIRouter(prefix="/v1", responses=responses(401, 403, 422, 503))
HISTOGRAMS = ("confidence", "word_confidence", "deletion_score", "first_word_s", "final_s")


@router.get("/me", tags=["overview"], summary="Whose token this is")
def me(caller: Viewer) -> models.Me:
    return models.Me.model_validate(caller)


@router.get("/overview", tags=["overview"], summary="The fleet and what is going on, in numbers")
def overview(here: Here, _: Viewer) -> models.Overview:
    found = here.overview()
    with here.read() as db:
        active = reads.rollout_page(db, open_only=True, limit=1)
    runs = [run.id for run in here.controller.runs.open()] if here.has_pipeline else None
    rollout = models.RolloutRow.model_validate(active[0]) if active else None
    return models.Overview.model_validate({**found, "runs_under_way": runs, "rollout": rollout})


@router.get("/devices", tags=["devices"], summary="Devices, by name")
def devices(
    here: Here,
    _: Viewer,
    q: Filter = None,
    state: Literal["unknown", "online", "offline", "stopped"] | None = None,
    model: Filter = None,
    slice: Filter = None,
    seen_before_ms: Since = None,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> Page[models.Device]:
    """`q`: how the name begins; `model`: the version that the device says it runs."""
    (after,) = key_of(cursor, str) or ("",)
    with here.read() as db:
        rows = reads.device_page(
            db, prefix=q or "", state=state, model=model, slice=slice,
            seen_before_ms=seen_before_ms, after=after, limit=limit + 1,
        )  # fmt: skip
    return Page[models.Device].model_validate(page(rows, limit, lambda row: (row.name,)))


@router.get(
    "/devices/{name}", tags=["devices"], responses=responses(404),
    summary="A device: what it reported, its updates, alarms and consents",
)  # fmt: skip
def device(name: str, here: Here, _: Viewer) -> models.DeviceDetail:
    with here.read() as db:
        row = existing(reads.device(db, name), _no_device(name))
        return models.DeviceDetail.model_validate(
            {
                **row._mapping,
                "consents": plain(reads.consents_of(db, name)),
                "alarms": plain(reads.alarm_page(db, level="device", name=name)),
                "telemetry": points(reads.telemetry_page(db, name)),
                "updates": plain(reads.update_page(db, name, limit=20)),
            }
        )


@router.get(
    "/devices/{name}/telemetry", tags=["devices"], responses=responses(404),
    summary="What a device reported over time, the newest first",
)  # fmt: skip
def telemetry(
    name: str, here: Here, _: Viewer, cursor: Cursor = None, limit: PageLimit = 100
) -> Page[models.TelemetryPoint]:
    with here.read() as db:
        existing(reads.device(db, name), _no_device(name))
        before = key_of(cursor, int, int)
        rows = reads.telemetry_page(db, name, before=before, limit=limit + 1)
    found = page(rows, limit, lambda row: (row.session, row.sequence), points)
    return Page[models.TelemetryPoint].model_validate(found)


@router.get(
    "/devices/{name}/updates", tags=["devices"], responses=responses(404),
    summary="What a device reported about its updates, the newest first",
)  # fmt: skip
def updates(
    name: str, here: Here, _: Viewer, cursor: Cursor = None, limit: PageLimit = 100
) -> Page[models.UpdateRow]:
    with here.read() as db:
        existing(reads.device(db, name), _no_device(name))
        before = key_of(cursor, int, int)
        rows = reads.update_page(db, name, before=before, limit=limit + 1)
    found = page(rows, limit, lambda row: (row.session, row.sequence))
    return Page[models.UpdateRow].model_validate(found)


@router.put(
    "/devices/{name}/slice", tags=["devices"], responses=responses(404),
    summary="Say which slice of the fleet a device belongs to",
)  # fmt: skip
def put_slice(name: str, asked: models.SetSlice, here: Here, who: Operator) -> models.Device:
    with here.store.begin() as db:
        existing(reads.device(db, name), _no_device(name))
        set_slice(db, name, asked.slice)
        here.note(db, who, "device", name, f"slice {asked.slice}")
        row = reads.device(db, name)
    return models.Device.model_validate(row)


@router.get("/slices", tags=["devices"], summary="Slices of the fleet, and their devices")
def slices(here: Here, _: Viewer) -> list[models.Slice]:
    with here.read() as db:
        return [models.Slice.model_validate(row) for row in reads.slices(db)]


@router.get(
    "/devices/{name}/consents", tags=["consents"], responses=responses(404),
    summary="Every decision about a device's consent, the newest first",
)  # fmt: skip
def consents_of(name: str, here: Here, _: Viewer) -> list[models.ConsentRow]:
    with here.read() as db:
        existing(reads.device(db, name), _no_device(name))
        return [models.ConsentRow.model_validate(row) for row in reads.consents_of(db, name)]


@router.put(
    "/devices/{name}/consent", tags=["consents"], responses=responses(409),
    summary="Let a device record under a consent from now on",
)  # fmt: skip
def grant(
    name: models.DeviceName, asked: models.GrantConsent, here: Here, who: Operator
) -> models.ConsentRow:
    now = now_ms()
    with here.store.begin() as db:
        consents.grant(
            db, name, asked.id, now_ms=now,
            until_ms=None if asked.days is None else now + asked.days * DAY_MS,
            purposes=asked.purposes, retention_days=asked.retention_days,
        )  # fmt: skip
        here.note(db, who, "consent", name, f"granted {asked.id}")
        return models.ConsentRow.model_validate(consents.current(db, name))


@router.delete(
    "/devices/{name}/consent", tags=["consents"], responses=responses(404, 409),
    summary="End a device's consent; what is here already stays until it is erased",
)  # fmt: skip
def withdraw(name: str, here: Here, who: Operator) -> models.ConsentRow:
    with here.store.begin() as db:
        existing(reads.device(db, name), _no_device(name))
        if consents.withdraw(db, name, now_ms=now_ms()) is None:
            raise HTTPException(409, f"{name} has no consent that could be withdrawn")
        here.note(db, who, "consent", name, "withdrawn")
        return models.ConsentRow.model_validate(consents.current(db, name))


@router.get("/alarms", tags=["alarms"], summary="Alarms, the newest first")
def alarms(
    here: Here,
    _: Viewer,
    state: Literal["open", "all"] = "open",
    level: Literal["fleet", "slice", "device"] | None = None,
    name: Filter = None,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> Page[models.Alarm]:
    """`name`: of the slice or device."""
    with here.read() as db:
        rows = reads.alarm_page(
            db, open_only=state == "open", level=level, name=name,
            before=key_of(cursor, int, str), limit=limit + 1,
        )  # fmt: skip
    found = page(rows, limit, lambda row: (row.opened_ms, row.id))
    return Page[models.Alarm].model_validate(found)


@router.get(
    "/alarms/{id:path}", tags=["alarms"], responses=responses(404),
    summary="An alarm, with all that it was judged by",
)  # fmt: skip
def alarm(id: str, here: Here, _: Viewer) -> models.AlarmDetail:
    with here.read() as db:
        row = existing(reads.alarm(db, id), f"no alarm {id}; /v1/alarms?state=all lists them")
    return models.AlarmDetail.model_validate(row)


def points(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Reports, their histograms as means."""
    found = plain(rows)
    for one in found:
        one.update((name, _mean(one[name])) for name in HISTOGRAMS)
    return found


def _mean(histogram: Mapping[str, Any]) -> float | None:
    count = sum(histogram.get("counts", ()))
    return histogram.get("total", 0.0) / count if count else None


def _no_device(name: str) -> str:
    return f"no device {name}; /v1/devices lists them"
