"""Which CBOR (RFC 8949) a message may be, decided before a library builds anything from it.

Allowed are whole numbers, bytes, text, arrays, maps with text keys, floats, false, true and null,
all of definite length. Not allowed are tags, because they are how CBOR makes cycles, huge numbers,
regular expressions and dates; indefinite lengths; and lengths beyond the bytes that are there. Of
floats, the codec then refuses those that are not finite.

One pass without recursion, so neither depth nor length costs memory.
"""

from __future__ import annotations

from edge_runtime.contract.fields import MAX_DEPTH
from edge_runtime.errors import ContractError

_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 2, 3, 4, 5, 6, 7
_CONSTANTS = (20, 21, 22)  # false, true, null
_FLOATS = (25, 26, 27)  # 2, 4 and 8 bytes


def scan(data: bytes) -> None:
    """Raises ContractError unless `data` is one item of the allowed kind and nothing else."""
    end = len(data)
    position = 0
    open_items: list[tuple[int, bool]] = [(1, False)]  # items still to come, and whether of a map
    while open_items:
        left, is_map = open_items.pop()
        if not left:
            continue
        open_items.append((left - 1, is_map))
        major, minor, argument, position = _head(data, position, end)
        if is_map and left % 2 == 0 and major != _TEXT:
            raise ContractError("has a key that is no text", expected="text keys")
        if major in (_BYTES, _TEXT):
            position += argument
            if position > end:
                raise ContractError("ends in the middle", expected="whole CBOR")
        elif major in (_ARRAY, _MAP):
            count = argument * 2 if major == _MAP else argument
            if count > end - position:
                raise ContractError("ends in the middle", expected="whole CBOR")
            if len(open_items) > MAX_DEPTH:
                raise ContractError("is nested too deeply", expected=f"{MAX_DEPTH} levels")
            open_items.append((count, major == _MAP))
        elif major == _TAG:
            raise ContractError(f"has the tag {argument}", expected="no tags")
        elif major == _SIMPLE and minor not in (*_CONSTANTS, *_FLOATS):
            raise ContractError(f"has the simple value {minor}", expected="false, true or null")
    if position != end:
        raise ContractError(f"goes on for {end - position} bytes", expected="one CBOR item")


def _head(data: bytes, position: int, end: int) -> tuple[int, int, int, int]:
    """-> major type, minor type, argument, position of what follows."""
    if position >= end:
        raise ContractError("ends in the middle", expected="whole CBOR")
    major, minor = data[position] >> 5, data[position] & 31
    position += 1
    if minor < 24:
        return major, minor, minor, position
    if minor > 27:
        raise ContractError("has an indefinite length", expected="definite lengths")
    stop = position + (1 << (minor - 24))
    if stop > end:
        raise ContractError("ends in the middle", expected="whole CBOR")
    return major, minor, int.from_bytes(data[position:stop], "big"), stop
