"""What messages hold, as columns can hold it.

Bytes in JSON become {"base64": ...}. The character NUL, which PostgreSQL has in no text, becomes
U+FFFD, the sign for what could not be shown.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from edge_runtime.contract.fields import to_plain
from edge_runtime.contract.records import SpokenWord

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
    return [_word(item) if type(item) is SpokenWord else to_plain(item) for item in items]


def _word(word: SpokenWord) -> dict[str, Any]:
    """What `to_plain` makes of it, faster: most of what is stored are words."""
    return {
        "word": word.word,
        "start_s": word.start_s,
        "end_s": word.end_s,
        "confidence": word.confidence,
        **word.extra,
    }
