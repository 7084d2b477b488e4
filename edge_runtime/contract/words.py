"""The words of a segment, recognised in its bytes without building them.

Most of a segment but its audio are words, and a server that only keeps them does not need them
apart. A pattern, made from the annotations of `SpokenWord`, matches those that keep the contract:
in the one encoding, with nothing unknown in them, each number well within its range. What it does
not match may be right all the same, so then they are decoded like everything else.
"""

from __future__ import annotations

import re
import struct
from functools import cache
from typing import Any

from edge_runtime.contract.fields import Length, Range, fields_of
from edge_runtime.contract.records import SpokenWord

MANY = 2000  # at most, as the contract has it
_AT_ONCE = 64
_SHORT = range(1, 24)  # bytes of a text that has its length in its first byte
_ASCII, _ANY = b"[\\x01-\\x7f]", b"[^\\x00]"  # what PostgreSQL can hold: no NUL


def words_end(data: bytes | memoryview, position: int, count: int) -> int:
    """Where `count` words that begin at `position` end; 0: decode them."""
    if count > MANY:
        return 0
    if end := _end(data, position, count, _ASCII):
        return end
    end = _end(data, position, count, _ANY)
    try:
        b" ".join(_pattern(1, _ANY).findall(data, position, end)).decode()
    except UnicodeDecodeError:
        return 0
    return end


def _end(data: bytes | memoryview, position: int, count: int, character: bytes) -> int:
    while count:
        some = min(count, _AT_ONCE)
        found = _pattern(some, character).match(data, position)
        if found is None:
            return 0
        position, count = found.end(), count - some
    return position


@cache
def _pattern(count: int, character: bytes) -> re.Pattern[bytes]:
    """So many words, one after the other; their texts are a group."""
    fields = sorted((key_of(field.name), field.hint) for field in fields_of(SpokenWord))
    word = bytes([0xA0 + len(fields)]) + b"".join(
        re.escape(key) + _value(hint, character) for key, hint in fields
    )
    return re.compile(b"(?:%b){%d}" % (word, count), re.DOTALL)


def key_of(name: str) -> bytes:
    """A field's name, of less than 24 bytes, as CBOR."""
    return bytes([0x60 + len(name)]) + name.encode()


def _value(hint: Any, character: bytes) -> bytes:
    kind, (rule,) = hint.__origin__, hint.__metadata__
    if kind is str and isinstance(rule, Length) and rule.low <= 1 and rule.high >= max(_SHORT):
        return b"(%b)" % b"|".join(
            re.escape(bytes([0x60 + n])) + b"%b{%d}" % (character, n) for n in _SHORT
        )
    if kind is float and isinstance(rule, Range) and rule.low == 0 and rule.high >= 1:
        return _numbers(rule.high)
    raise NotImplementedError(f"a word with {hint}")


def _numbers(high: float) -> bytes:
    """From 0 to at most `high`."""
    eight, four = _less(struct.pack(">d", high)), _less(struct.pack(">f", high))
    two = _less(struct.pack(">e", min(high, 65_504.0)))
    return b"(?:%b|\\xf9\\x3c\\x00)" % numbers(eight, four, two)  # the last is 1.0


def numbers(eight: bytes, four: bytes, two: bytes) -> bytes:
    """A pattern for floats of 8, 4 or 2 bytes that begin with these two, and are in no more bytes
    than they need: those that a shorter form has no room for are not all 0. A few may be missing.
    """
    eight += b".{4}(?:.[^\\x00]|[^\\x00]\\x00)"
    four += b"(?:.[^\\x00]|[^\\x00\\x20\\x40\\x60\\x80\\xa0\\xc0\\xe0]\\x00)"
    return b"(?:\\xfb%b|\\xfa%b|\\xf9%b)" % (eight, four, two)


def _less(number: bytes) -> bytes:
    """Two bytes that are less than the first two of this one."""
    first, second = number[0], number[1]
    less = b"[\\x00-\\x%02x]." % (first - 1)
    return less if not second else b"(?:%b|\\x%02x[\\x00-\\x%02x])" % (less, first, second - 1)
