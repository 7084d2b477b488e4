"""Data sets, models, runs of the pipeline and the ledger of promotions."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Query

from autotrain_cloud.api import models, reads
from autotrain_cloud.api.access import Admin, Operator, Viewer
from autotrain_cloud.api.models import Page
from autotrain_cloud.api.problems import absent, not_found, responses
from autotrain_cloud.api.routes.common import Cursor, Filter, PageLimit, key_of, page
from autotrain_cloud.api.services import Here, Services, existing
from autotrain_cloud.gate.ledger import LedgerTampered
from autotrain_cloud.pipeline.record import Run
from edge_runtime.errors import ConfigError

router = APIRouter(prefix="/v1", responses=responses(401, 403, 422, 503))


@router.get("/datasets", tags=["datasets"], summary="Data sets, the newest first")
def datasets(
    here: Here, _: Viewer, cursor: Cursor = None, limit: PageLimit = 100
) -> Page[models.Dataset]:
    with here.read() as db:
        rows = reads.dataset_page(db, before=key_of(cursor, int, str), limit=limit + 1)
    found = page(rows, limit, lambda row: (row.created_ms, row.id))
    return Page[models.Dataset].model_validate(found)


@router.get(
    "/datasets/{id}", tags=["datasets"], responses=responses(404),
    summary="A data set: its recipe, its parts, and the models trained on it",
)  # fmt: skip
def dataset(id: str, here: Here, _: Viewer) -> models.DatasetDetail:
    with here.read() as db:
        row = existing(reads.dataset(db, id), _no_dataset(id))
        splits = reads.splits_of(db, id)
        trained = [tuple(model) for model in reads.models_of_dataset(db, id)]
    return models.DatasetDetail.model_validate(
        {**row._mapping, "splits": splits, "models": trained}
    )


@router.get(
    "/datasets/{id}/members", tags=["datasets"], responses=responses(404),
    summary="The segments of a data set, with both texts",
)  # fmt: skip
def members(
    id: str,
    here: Here,
    _: Viewer,
    split: Filter = None,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> Page[models.Member]:
    (after,) = key_of(cursor, str) or ("",)
    with here.read() as db:
        existing(reads.dataset(db, id), _no_dataset(id))
        rows = reads.member_page(db, id, split=split, after=after, limit=limit + 1)
    found = page(rows, limit, lambda row: (row.segment,))
    return Page[models.Member].model_validate(found)


@router.get("/models", tags=["models"], summary="Models, the newest first, and who runs them")
def all_models(
    here: Here, _: Viewer, cursor: Cursor = None, limit: PageLimit = 100
) -> Page[models.ModelRow]:
    with here.read() as db:
        before = key_of(cursor, int, str, str)
        rows = reads.model_page(db, before=before, limit=limit + 1)
    found = page(rows, limit, lambda row: (row.created_ms, row.name, row.version))
    return Page[models.ModelRow].model_validate(found)


@router.get(
    "/models/{name}/{version}", tags=["models"], responses=responses(404),
    summary="A model: what it was trained on, what it grew from, what grew from it",
)  # fmt: skip
def model(name: str, version: str, here: Here, _: Viewer) -> models.ModelDetail:
    with here.read() as db:
        row = existing(
            reads.model(db, name, version), f"no model {name} {version}; /v1/models lists them"
        )
        more = {
            "datasets": reads.datasets_of_model(db, name, version),
            "children": reads.children_of_model(db, name, version),
            "devices": reads.devices_running(db, name, version),
        }
    return models.ModelDetail.model_validate({**row._mapping, **more})


# -- runs ------------------------------------------------------------------------------------------


@router.get("/runs", tags=["runs"], summary="Retrainings, the newest first")
def runs(
    here: Here,
    _: Viewer,
    before: Annotated[str | None, Query(max_length=63, description="id of the last one")] = None,
    limit: PageLimit = 50,
) -> Page[models.Run]:
    """`next` of this page goes into `before`."""
    ids = here.controller.runs.ids()[::-1]
    if before is not None:
        ids = ids[ids.index(before) + 1 :] if before in ids else []
    shown = ids[:limit]
    more = shown[-1] if len(ids) > limit else None
    items = [_run(here, id) for id in shown]
    return Page[models.Run].model_validate({"items": items, "next": more})


@router.post(
    "/runs",
    tags=["runs"],
    status_code=201,
    responses=responses(409),
    summary="Ask for a retraining",
)
def start(asked: models.StartRun, here: Here, who: Operator) -> models.RunDetail:
    controller = here.controller
    id = controller.start(why=f"{who.name}: {asked.why}", id=asked.id or "", slice=asked.slice)
    here.noted(who, "run", id, f"asked for: {asked.why}")
    return _detail(here, id)


@router.get(
    "/runs/{id}", tags=["runs"], responses=responses(404),
    summary="A retraining: every step with its result, times and reason",
)  # fmt: skip
def run(id: str, here: Here, _: Viewer) -> models.RunDetail:
    return _detail(here, id)


@router.post(
    "/runs/{id}/resume", tags=["runs"], responses=responses(404, 409),
    summary="Go on with a parked or cancelled run; nothing is made twice",
)  # fmt: skip
def resume(id: str, here: Here, who: Operator) -> models.RunDetail:
    _read(here, id)
    here.controller.resume(id)
    here.noted(who, "run", id, "resumed")
    return _detail(here, id)


@router.post(
    "/runs/{id}/approve", tags=["runs"], responses=responses(404, 409),
    summary="Let a run publish its model, or not",
)  # fmt: skip
def approve(id: str, asked: models.Judge, here: Here, who: Admin) -> models.RunDetail:
    _read(here, id)
    here.controller.approve(id, by=who.name, yes=asked.publish, why=asked.why)
    here.noted(who, "run", id, "approved" if asked.publish else f"rejected: {asked.why}")
    return _detail(here, id)


@router.post(
    "/runs/{id}/cancel", tags=["runs"], responses=responses(404, 409), summary="Stop a run"
)
def cancel(id: str, here: Here, who: Operator) -> models.RunDetail:
    _read(here, id)
    here.controller.cancel(id, by=who.name)
    here.noted(who, "run", id, "cancelled")
    return _detail(here, id)


@router.get(
    "/ledger", tags=["models"],
    summary="The promotion ledger, the newest first, its chain checked",
)  # fmt: skip
def ledger(here: Here, _: Viewer, limit: PageLimit = 100) -> models.Ledger:
    path = here.settings.ledger
    if path is None:
        raise absent("no promotion ledger here: name its file, `ledger` under [api]")
    try:
        reading = here.ledger.get(path)
    except LedgerTampered as error:
        broken = {"intact": False, "problem": str(error), "head": "", "entries": [], "total": 0}
        return models.Ledger.model_validate(broken)
    newest = [entry.to_json() for entry in reading.entries[::-1][:limit]]
    return models.Ledger.model_validate(
        {
            "intact": True, "problem": "", "head": reading.head, "entries": newest,
            "total": len(reading.entries),
        }
    )  # fmt: skip


_RUN = tuple(field.name for field in dataclasses.fields(Run))


def _read(here: Services, id: str) -> Run:
    try:
        return here.controller.runs.read(id)
    except ConfigError as error:
        raise not_found(str(error)) from error


def _run(here: Services, id: str) -> dict[str, Any]:
    found = _read(here, id)
    plan = here.controller.runs.plan(id)
    facts = {name: getattr(found, name) for name in _RUN}
    return {**facts, "why": plan.why, "created": plan.created, "cpu_seconds": found.cpu_seconds}


def _detail(here: Services, id: str) -> models.RunDetail:
    facts = _run(here, id)
    plan = here.controller.runs.plan(id)
    more = {"inputs": dict(plan.inputs), "settings": dict(plan.settings), "code": plan.code}
    return models.RunDetail.model_validate({**facts, **more})


def _no_dataset(id: str) -> str:
    return f"no data set {id}; /v1/datasets lists them"
