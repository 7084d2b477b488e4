"""What the routes share: parameters of pages, and the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, Field

from autotrain_cloud.api.cursors import Key, pack, unpack
from autotrain_cloud.api.models import Limit

Cursor = Annotated[
    str | None, Query(max_length=1000, description="`next` of the page before; none: begin")
]
PageLimit = Annotated[Limit, Query()]


def _clean(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


Filter = Annotated[str | None, Query(max_length=200), AfterValidator(lambda v: v and _clean(v))]
Since = Annotated[int | None, Query(ge=0, lt=1 << 63)]
Portion = Annotated[float | None, Query(ge=0, le=1), Field(allow_inf_nan=False)]


def key_of(cursor: str | None, *kinds: type) -> Any:
    """None for the first page. Raises BadCursor."""
    return unpack(cursor, kinds) if cursor else None


def plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of one query. They are mappings themselves, but slower to read than to copy."""
    names = rows[0]._fields if rows else ()
    return [dict(zip(names, row, strict=True)) for row in rows]


def page(
    rows: Sequence[Any],
    limit: int,
    key: Callable[[Any], Key],
    items: Callable[[Sequence[Any]], Sequence[Mapping[str, Any]]] = plain,
) -> dict[str, Any]:
    """Rows that were asked for with one more than `limit`."""
    shown = rows[:limit]
    more = len(rows) > limit
    return {"items": items(shown), "next": pack(key(shown[-1])) if more else None}
