"""Segments, their sound and labels, and what people are to look at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException
from fastapi.responses import Response
from pydantic import Field

from autotrain_cloud.api import models, reads
from autotrain_cloud.api.access import Operator, Viewer
from autotrain_cloud.api.difference import difference
from autotrain_cloud.api.models import Page
from autotrain_cloud.api.problems import responses
from autotrain_cloud.api.queues import LENGTH, why
from autotrain_cloud.api.routes.common import (
    Cursor,
    Filter,
    PageLimit,
    Portion,
    Since,
    key_of,
    page,
    plain,
)
from autotrain_cloud.api.services import Here, Services, existing, now_ms
from autotrain_cloud.api.sound import Sound, answer
from autotrain_cloud.store import leases
from autotrain_cloud.store.lineage import add_label, lineage
from edge_runtime.contract.records import new_id

router = APIRouter(prefix="/v1", tags=["segments"], responses=responses(401, 403, 422, 503))


@router.get("/segments", summary="What devices sent, with the newest label of each")
def segments(
    here: Here,
    _: Viewer,
    device: Filter = None,
    slice: Filter = None,
    model: Filter = None,
    language: Filter = None,
    confidence_from: Portion = None,
    confidence_to: Portion = None,
    decision: Annotated[models.Decision | None, Field()] = None,
    text: Filter = None,
    since_ms: Since = None,
    until_ms: Since = None,
    order: Literal["newest", "least-sure"] = "newest",
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> Page[models.Segment]:
    """`text`: how it begins; `decision`: what became of the newest label, `none`: there is no
    label; `since_ms`, `until_ms`: when it arrived.
    """
    wanted = reads.SegmentFilter(
        device=device, slice=slice, model=model, language=language,
        confidence_from=confidence_from, confidence_to=confidence_to, decision=decision,
        text=text, since_ms=since_ms, until_ms=until_ms,
    )  # fmt: skip
    sure = order == "least-sure"
    after = key_of(cursor, float if sure else int, str)
    with here.read() as db:
        rows = reads.segment_page(db, wanted, order=order, after=after, limit=limit + 1)
    found = page(rows, limit, lambda row: (row.confidence if sure else row.received_ms, row.id))
    return Page[models.Segment].model_validate(found)


@router.get(
    "/segments/{id}", responses=responses(404),
    summary="A segment with its words, labels, what came of it, and where a label differs",
)  # fmt: skip
def segment(id: str, here: Here, _: Viewer) -> models.SegmentDetail:
    with here.read() as db:
        row = _segment(here, db, id)
        labels = reads.labels_of(db, id)
        origin = lineage(db, [id])
    differing = next((label for label in labels if label.text), None)
    return models.SegmentDetail.model_validate(
        {
            **row._mapping,
            **_label(labels[0] if labels else None),
            "labels": plain(labels),
            "lineage": models.Origin.model_validate(origin),
            "difference": differing and difference(differing, row),
        }
    )


@router.get(
    "/segments/{id}/audio", responses={**responses(404), **{
        200: {"description": "the whole sound", "content": {"audio/*": {}}},
        206: {"description": "the range that was asked for"},
        304: {"description": "the client has it already"},
        410: {"description": "it was erased", "model": models.Problem},
        416: {"description": "a range that is not there", "model": models.Problem},
    }},
    response_class=Response, summary="The sound of a segment; ranges, and ETag",
)  # fmt: skip
def audio(
    id: str,
    here: Here,
    who: Viewer,
    range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """Opus in Ogg, FLAC, or WAV where the device sent plain samples. Who listens is noted."""
    with here.read() as db:
        row = _segment(here, db, id)
    sound = Sound.of(row.codec, row.sample_rate, row.audio)
    if if_none_match and sound.matches(if_none_match):
        return sound.unchanged()
    sound = sound.with_data(here.store.audio(row.audio))
    response = answer(sound, range=range, if_range=if_range)
    if response.status_code < 300 and sound.begins(response):
        here.noted(who, "listened", id, f"listened to a segment of {row.device}")
    return response


@router.post(
    "/segments/{id}/labels", status_code=201, responses=responses(404),
    summary="Say what was said in a segment",
)  # fmt: skip
def submit(id: str, asked: models.SubmitLabel, here: Here, who: Operator) -> models.LabelRow:
    text = " ".join(asked.text.split())
    if asked.verdict == "text" and not text:
        raise HTTPException(
            422, "text: is empty (expected what was said; if nothing was, the verdict is unusable)"
        )
    now = now_ms()
    label = new_id(now, os.urandom(10))
    usable = asked.verdict == "text"
    with here.store.begin() as db:
        row = _segment(here, db, id)
        before = max((label.created_ms for label in reads.labels_of(db, id)), default=0)
        now = max(now, before + 1)  # a person has the last word, whatever the clocks say
        add_label(
            db, id=label, segment=id, source="human", author=who.name,
            text=text if usable else "", now_ms=now, confidence=1.0 if usable else None,
            language=row.language, accepted=usable,
            provenance={"decision": "keep" if usable else "drop", "verdict": asked.verdict},
        )  # fmt: skip
        leases.end(db, id)
        here.note(db, who, "label", id, f"said what was said: {asked.verdict}")
        made = next(one for one in reads.labels_of(db, id) if one.id == label)
    return models.LabelRow.model_validate(made)


@router.get("/review", summary="Labels that a person should look at, the oldest or the best first")
def review(
    here: Here,
    _: Viewer,
    slice: Filter = None,
    order: Literal["oldest", "useful"] = "oldest",
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> Page[models.ReviewItem]:
    """An item leaves the queue when its segment has a newer label: POST one.

    `useful`: a queue of some hundred, in which those come first that are doubtful and unlike the
    others, from all slices and devices, and some drawn at random from all labels. `why` says it.
    Pages go on in the queue in which they began; after a while it ends, and a cursor of it is
    refused. To get items that nobody else gets, ask for leases.
    """
    now = now_ms()
    if order == "useful":
        after = key_of(cursor, int, int)
        with here.read() as db:
            found = here.queues.page(db, slice, after=after, limit=limit + 1)
        items = page(
            found, limit, lambda one: one.key,
            lambda places: [_leased(one.facts, now) for one in places],
        )  # fmt: skip
        return Page[models.ReviewItem].model_validate(items)
    with here.read() as db:
        after = key_of(cursor, int, str)
        rows = reads.review_page(db, slice=slice, after=after, limit=limit + 1)
    return Page[models.ReviewItem].model_validate(
        page(
            rows, limit, lambda row: (row.created_ms, row.label),
            lambda rows: [
                _leased({**one, "priority": row.doubt, "why": why(row)}, now)
                for one, row in zip(plain(rows), rows, strict=True)
            ],
        )
    )  # fmt: skip


@router.post("/review/leases", summary="Get items to review that nobody else gets for a while")
def lease(asked: models.Lease, here: Here, who: Operator) -> models.Leased:
    """Those that you have already come first, and are yours for longer; then the most useful that
    nobody has. A lease ends with your label, or by its time.
    """
    now = now_ms()
    until = now + asked.minutes * 60_000
    items: list[Mapping[str, Any]] = []
    with here.store.begin() as db:
        free = [
            one.facts
            for one in here.queues.page(db, asked.slice, after=None, limit=LENGTH)
            if one.facts["who"] == who.name or (one.facts["until_ms"] or 0) <= now
        ]
        for facts in sorted(free, key=lambda facts: facts["who"] != who.name):
            if len(items) == asked.count:
                break
            if leases.take(db, facts["segment"], who.name, now_ms=now, until_ms=until):
                items.append(_leased({**facts, "who": who.name, "until_ms": until}, now))
    return models.Leased.model_validate({"items": items})


def _leased(facts: Mapping[str, Any], now: int) -> Mapping[str, Any]:
    until = facts["until_ms"] or 0
    held = until > now
    return {**facts, "leased_by": facts["who"] if held else None,
            "leased_until_ms": until if held else None}  # fmt: skip


def _segment(here: Services, db: Any, id: str) -> Any:
    row = reads.segment(db, id)
    if row is None and reads.was_erased(db, id):
        raise HTTPException(410, f"segment {id} was erased on request; nothing of it is kept")
    return existing(row, f"no segment {id}; /v1/segments lists them")


def _label(label: Any) -> Mapping[str, Any]:
    if label is None:
        return {}
    return {
        "decision": label.decision, "label_text": label.text, "label_source": label.source,
    }  # fmt: skip
