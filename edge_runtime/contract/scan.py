"""Which CBOR (RFC 8949) a message may be, decided before a library builds anything from it.

Allowed are whole numbers of 64 bits, bytes, text, arrays, maps with text keys, finite floats,
false, true and null, all of definite length. Not allowed are tags, because they are how CBOR makes
cycles, huge numbers, regular expressions and dates; indefinite lengths; and lengths beyond the
bytes that are there.

Of what is allowed, only the deterministic encoding (section 4.2.1) is: numbers and lengths in the
fewest bytes that hold them, keys in the order of their bytes and none twice.

One pass without recursion, so neither depth nor length costs memory. Every message comes through
here, so the loop is written for speed: what messages are mostly made of comes first.
"""

from __future__ import annotations

import struct

from edge_runtime.contract.fields import MAX_DEPTH
from edge_runtime.errors import ContractError

_BYTES, _TEXT, _ARRAY, _MAP, _TAG = 2, 3, 4, 5, 6
_CONSTANTS = (0xF4, 0xF5, 0xF6)  # false, true, null
_DOUBLE = 0xFB
_ORDER = "RFC 8949, section 4.2"


def scan(data: bytes) -> None:
    """Raises ContractError unless `data` is one item of the allowed kind and nothing else."""
    end = len(data)
    position = 0
    left, key = 1, None  # items still to come here; the key before, in a map
    is_map = False
    outer: list[tuple[int, bytes | None, bool]] = []
    while True:
        while not left:
            if not outer:
                if position != end:
                    raise ContractError(
                        f"goes on for {end - position} bytes", expected="one CBOR item"
                    )
                return
            left, key, is_map = outer.pop()
        left -= 1
        if position >= end:
            raise _cut()
        start = position
        first = data[position]
        if is_map and left & 1:  # then a key is next
            if 0x60 <= first < 0x78:
                position += first - 0x5F
            elif first >> 5 == _TEXT:
                length, position = argument(data, position, end)
                position += length
            else:
                raise ContractError("has a key that is no text", expected="text keys")
            if position > end:
                raise _cut()
            name = data[start:position]
            if key is not None and name <= key:
                raise _not_deterministic("keys out of order")
            key = name
        elif 0x60 <= first < 0x78:  # a short text
            position += first - 0x5F
            if position > end:
                raise _cut()
        elif first < 0x18 or first in _CONSTANTS:
            position += 1
        elif first == _DOUBLE and position + 9 <= end:
            position += 9
            if data[start + 1] & 0x7F == 0x7F and data[start + 2] >= 0xF0:
                raise _not_finite()
            if not data[position - 1] and _fits(data[start + 1 : position], ">d", ">f"):
                raise _not_deterministic("a number in more bytes than it needs")
        else:
            major = first >> 5
            if major > _TAG:
                position = _float(data, position, end)
                continue
            number, position = argument(data, position, end)
            if major in (_BYTES, _TEXT):
                position += number
                if position > end:
                    raise _cut()
            elif major in (_ARRAY, _MAP):
                count = number * 2 if major == _MAP else number
                if count > end - position:
                    raise _cut()
                if len(outer) >= MAX_DEPTH:
                    raise ContractError("is nested too deeply", expected=f"{MAX_DEPTH} levels")
                outer.append((left, key, is_map))
                left, key, is_map = count, None, major == _MAP
            elif major == _TAG:
                raise ContractError(f"has the tag {number}", expected="no tags")
            elif major and number >> 63:
                raise ContractError("is a number of 65 bits", expected="64 bits")


def argument(data: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    """-> the number in an item's head, position of what follows. Raises ContractError."""
    minor = data[position] & 31
    position += 1
    if minor < 24:
        return minor, position
    if minor > 27:
        raise ContractError("has an indefinite length", expected="definite lengths")
    size = 1 << (minor - 24)
    if position + size > end:
        raise _cut()
    argument = int.from_bytes(data[position : position + size], "big")
    if argument < 24 or (argument >> (4 * size) == 0 and size > 1):
        raise _not_deterministic("a number in more bytes than it needs")
    return argument, position + size


def _float(data: bytes, position: int, end: int) -> int:
    """-> position of what follows a number of 2, 4 or 8 bytes."""
    minor = data[position] & 31
    if minor not in (25, 26, 27):
        raise ContractError(f"has the simple value {minor}", expected="false, true or null")
    stop = position + 1 + (1 << (minor - 24))
    if stop > end:
        raise _cut()
    content = data[position + 1 : stop]
    number = int.from_bytes(content, "big")
    exponent = {25: 0x7C00, 26: 0x7F80 << 16, 27: 0x7FF0 << 48}[minor]
    if number & exponent == exponent:
        raise _not_finite()
    if (minor == 26 and _fits(content, ">f", ">e")) or (minor == 27 and _fits(content, ">d", ">f")):
        raise _not_deterministic("a number in more bytes than it needs")
    return stop


def _fits(content: bytes, wide: str, narrow: str) -> bool:
    """Whether a number is the same in fewer bytes."""
    (number,) = struct.unpack(wide, content)
    try:
        return bool(struct.unpack(narrow, struct.pack(narrow, number))[0] == number)
    except OverflowError:
        return False


def _cut() -> ContractError:
    return ContractError("ends in the middle", expected="whole CBOR")


def _not_finite() -> ContractError:
    return ContractError("has a number that is none", expected="finite numbers")


def _not_deterministic(why: str) -> ContractError:
    return ContractError(f"is not encoded deterministically: {why}", expected=_ORDER)
