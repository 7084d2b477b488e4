"""What messages hold, as columns can hold it.

Bytes in JSON become {"base64": ...}. The character NUL, which PostgreSQL has in no text, becomes
U+FFFD, the sign for what could not be shown.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from edge_runtime.contract.fields import to_plain

_encode = json.JSONEncoder(
    ensure_ascii=False,
    separators=(",", ":"),
    default=lambda value: {"base64": base64.b64encode(value).decode()},
).encode


def to_json(value: Any) -> str:
    """JSON of plain data."""
    text = _encode(value)
    if "\\u0000" in text:
        text = _encode(without_nul(value))
    return text


def clean(text: str) -> str:
    """Text that every database can hold."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def without_nul(value: Any) -> Any:
    """Plain data, its texts cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [without_nul(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): without_nul(item) for name, item in value.items()}
    return value


def records(items: tuple[Any, ...]) -> list[Any]:
    """Records of a message as plain data."""
    return [to_plain(item) for item in items]
