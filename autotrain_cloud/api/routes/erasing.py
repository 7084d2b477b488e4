"""Requests to erase, and what they answered."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException

from autotrain_cloud.api import models, reads
from autotrain_cloud.api.access import Admin, Viewer
from autotrain_cloud.api.models import Page
from autotrain_cloud.api.problems import responses
from autotrain_cloud.api.routes.common import Cursor, PageLimit, key_of, page, plain
from autotrain_cloud.api.services import Here, Services, existing, now_ms
from autotrain_cloud.service.forget import forget
from autotrain_cloud.store.erasure import erase

router = APIRouter(prefix="/v1", tags=["erasures"], responses=responses(401, 403, 422, 503))


@router.get("/erasures", summary="Erase requests, the newest first")
def erasures(
    here: Here, _: Viewer, cursor: Cursor = None, limit: PageLimit = 50
) -> Page[models.Erasure]:
    with here.read() as db:
        rows = reads.erasure_page(db, before=key_of(cursor, int, str), limit=limit + 1)
    found = page(rows, limit, lambda row: (row.created_ms, row.id))
    return Page[models.Erasure].model_validate(found)


@router.post(
    "/erasures", status_code=201,
    summary="Erase segments, all of a consent or all of a device, here and on devices",
)  # fmt: skip
def request(asked: models.AskErasure, here: Here, who: Admin) -> models.ErasureDetail:
    """Done when this answers, in the pipeline's folder too. Only a run that is under way with it is
    first stopped; it begins anew, some seconds later, without. The answer names the data sets they
    were in and the models that were trained on them, and is kept; devices answer later.
    """
    if not (asked.segments or asked.consents or asked.devices):
        raise HTTPException(422, "nothing to erase: name segments, consents or devices")
    done = erase(
        here.store, segments=asked.segments, consents=asked.consents, devices=asked.devices,
        reason=asked.reason, now_ms=now_ms(),
    )  # fmt: skip
    if here.has_pipeline:
        forget(here.store, here.controller, now_ms=now_ms())
    here.noted(who, "erasure", done.id, f"erased {done.segments} segments")
    return _detail(here, done.id)


@router.get(
    "/erasures/{id}", responses=responses(404),
    summary="An erase request: models that are concerned, devices that have answered",
)  # fmt: skip
def erasure(id: str, here: Here, _: Viewer) -> models.ErasureDetail:
    return _detail(here, id)


def _detail(here: Services, id: str) -> models.ErasureDetail:
    with here.read() as db:
        row = existing(reads.erasure(db, id), f"no erase request {id}; /v1/erasures lists them")
        answers = plain(reads.erasure_answers(db, id))
    return models.ErasureDetail.model_validate({**row._mapping, "devices": answers})
