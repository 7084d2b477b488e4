"""Cursors of pages: the sort key of the last row, which stays right while rows come and go."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

Key = tuple[Any, ...]
_INT64 = 1 << 63


class BadCursor(ValueError):
    """Not one that this page gave out."""


def pack(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode()


def unpack(cursor: str, kinds: tuple[type, ...]) -> Key:
    """The key, which has values of these kinds. Raises BadCursor."""
    try:
        key = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise BadCursor("cursor: not one of this page's (leave it out to begin)") from error
    if not isinstance(key, list) or len(key) != len(kinds) or not all(map(_is, key, kinds)):
        raise BadCursor("cursor: of another page (leave it out to begin)")
    return tuple(key)


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and value == value and abs(value) < 1e308
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return False
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        if "\0" in value:
            return False
    return isinstance(value, kind)
