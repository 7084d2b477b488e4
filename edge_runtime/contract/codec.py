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
from edge_runtime.contract.glimpse import Bytes, Glimpse, check_rest, glimpse
from edge_runtime.contract.messages import MESSAGES, Message
from edge_runtime.contract.scan import scan
from edge_runtime.errors import ConfigError, ContractError

VERSION = 1
MAX_PACKET_BYTES = 120_000  # AWS IoT takes 128 KiB, every other broker more
MAX_MESSAGE_BYTES = 1_500_000  # of a message put together from parts


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


def glance(data: Bytes, *, limit: int = MAX_MESSAGE_BYTES) -> tuple[dict[str, Any], Glimpse] | None:
    """A segment for a server that keeps audio and words as they came: its fields, these two empty,
    and where the two are in `data`.

    None where `decode` has to be asked: for other messages, rare segments, and what it refuses.
    """
    found = glimpse(data) if len(data) <= limit else None
    if found is None:
        return None
    try:
        plain: dict[str, Any] = _parsed(found.rest)
        check_rest(plain)
    except ContractError:
        return None
    return plain, found


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
