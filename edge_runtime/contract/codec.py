"""Messages as bytes: deterministic CBOR (RFC 8949, section 4.2), derived from the dataclasses.

    data = encode(Receipt(ids=(segment_id,)))
    message = decode(data)                      # Receipt(...), or ContractError

A message is one map: `v`, the version of the contract, `type`, and the fields. A message has
exactly one encoding and any other is refused, so a digest or signature over the bytes survives
being decoded and encoded again. Fields that a later version added are kept in `extra` and written
back. Additions keep `v`; a newer `v` is refused.

Whatever the bytes, `decode` returns a message that keeps the contract or raises ContractError.
"""

from __future__ import annotations

from typing import Any

from edge_runtime.contract.fields import build_record, shown, to_plain
from edge_runtime.contract.messages import MESSAGES, Message, Segment
from edge_runtime.contract.scan import scan
from edge_runtime.contract.words import words_end
from edge_runtime.errors import ConfigError, ContractError

VERSION = 1
MAX_PACKET_BYTES = 120_000  # AWS IoT takes 128 KiB, every other broker more
MAX_MESSAGE_BYTES = 1_500_000  # of a message put together from parts
_NO_WORDS = b"\x80"


def encode(message: Message, *, limit: int = MAX_MESSAGE_BYTES) -> bytes:
    """The one encoding of a message.

    Raises ContractError if it is larger than `limit` bytes, ConfigError where cbor2 is missing.
    """
    data = _dumps({"v": VERSION, "type": message.type, **to_plain(message)})
    if len(data) > limit:
        raise ContractError(
            f"has {len(data)} bytes", message=message.type, expected=f"at most {limit}"
        )
    return data


def decode(
    data: bytes, *, allowed: tuple[type[Message], ...] = (), limit: int = MAX_MESSAGE_BYTES
) -> Message:
    """The message that `data` is the encoding of; one of `allowed`, where given.

    Raises ContractError for anything else, ConfigError where cbor2 is missing.
    """
    if len(data) > limit:
        raise ContractError(f"has {len(data)} bytes", expected=f"at most {limit}")
    return _message(_loads(data), allowed)


def decode_but_words(
    data: bytes, *, allowed: tuple[type[Message], ...] = (), limit: int = MAX_MESSAGE_BYTES
) -> tuple[Message, bytes | None]:
    """The same for a server that keeps words as they came: those of a segment as CBOR, and the
    message without them; or None, and the whole message.

    What is accepted, and what is refused, is the same.
    """
    if len(data) > limit:
        raise ContractError(f"has {len(data)} bytes", expected=f"at most {limit}")
    found = scan(data, words_end)
    if found is not None:
        start, end = found
        message = _message(_parsed(data[:start] + _NO_WORDS + data[end:]), allowed)
        if isinstance(message, Segment):
            return message, data[start:end]
    return _message(_parsed(data), allowed), None


def pack(plain: Any) -> bytes:
    """Plain data as CBOR. Raises ConfigError where cbor2 is missing."""
    return _dumps(plain)


def unpack(data: bytes) -> Any:
    """What `pack` had. Raises ContractError."""
    return _loads(data)


def _message(plain: Any, allowed: tuple[type[Message], ...]) -> Message:
    if not isinstance(plain, dict):
        raise ContractError(f"is {shown(plain)}", expected="a map")
    version = plain.pop("v", None)
    if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise ContractError(f"is {shown(version)}", field="v", expected=str(VERSION))
    name = plain.pop("type", None)
    kind = MESSAGES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ContractError(f"is {shown(name)}", field="type", expected="a message of this version")
    if allowed and kind not in allowed:
        expected = " or ".join(each.type for each in allowed)
        raise ContractError(f"is {kind.type}", field="type", expected=expected)
    try:
        message: Message = build_record(kind, plain)
    except ContractError as error:
        raise ContractError(
            error.problem, message=kind.type, field=error.field, expected=error.expected
        ) from None
    return message


def peek(data: bytes, field: str) -> str | None:
    """A text field of bytes that `decode` refuses, if it can be read: what an answer is about."""
    try:
        plain = _loads(data)
    except ContractError:
        return None
    value = plain.get(field) if isinstance(plain, dict) else None
    return value if isinstance(value, str) else None


# The one door to cbor2. A recogniser without an agent does without it.


def _dumps(plain: Any) -> bytes:
    try:
        import cbor2
    except ImportError as error:
        raise ConfigError(_MISSING) from error
    data: bytes = cbor2.dumps(plain, canonical=True)
    return data


def _loads(data: bytes) -> Any:
    scan(data)
    return _parsed(data)


def _parsed(data: bytes) -> Any:
    try:
        import cbor2
    except ImportError as error:
        raise ConfigError(_MISSING) from error
    try:
        plain = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise ContractError(f"cannot be decoded: {error}", expected="CBOR") from error
    return plain


_MISSING = "messages need cbor2: pip install 'vitconformer[agent]'"
