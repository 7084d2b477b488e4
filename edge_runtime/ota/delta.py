"""A new model as the difference from one that a device already has.

Fine-tuning moves most weights of a model, each by a little.  General binary deltas find nothing in
common then, but the differences are small numbers, and small numbers compress.  Floats are compared
as integers in the order of their values: a small step is a small number whatever the exponent::

    make(base, new)                    -> delta          at the publisher
    apply(base, delta, limit=size)     -> new            at the device

A delta is a line of JSON and compressed bytes::

    {"base": sha256, "new": sha256, "pieces": [[kind, length in new, offset in base], ...]}
    xz stream: for each kind in turn, the bytes of all its pieces

=========  ==================================================================================
copy       bytes of the base
literal    new bytes
u8 u16 u32 numbers of that width, less those of the base, folded (0 -1 1 -2 2 ... -> 0 1 2 3 4 ...);
           first all lowest bytes, then all second ones: the higher ones are nearly all zero.
           Floats come in the order of the base's exponents: the length of a step, counted in
           numbers that can be represented, goes with them, and the coder adapts as it goes
=========  ==================================================================================

What a delta makes is not believed for that: its SHA-256 must be the one the delta names, and the
caller compares it with the one that was signed.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BundleTampered

NOTHING = hashlib.sha256(b"").hexdigest()  # a delta against it is the file itself, compressed
_MAGIC = b"vitconformer-delta-1\n"
_KINDS = ("literal", "u8", "u16", "u32")  # those with bytes of their own, in their order
_WIDTH = {"u8": 1, "u16": 2, "u32": 4}
_EXPONENT = {"u16": (10, 31), "u32": (23, 255)}  # shift and mask
_MAX_PIECES = 100_000
_MAX_HEADER = 8 << 20  # bytes
_ONNX_KINDS = {1: "u32", 2: "u8", 3: "u8", 10: "u16", 16: "u16"}  # TensorProto.DataType


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where the numbers of a tensor lie in a file."""

    name: str
    kind: str
    offset: int
    length: int  # bytes


def make(base: bytes, new: bytes) -> bytes:
    """The delta that turns `base` into `new`, both ONNX files (others are taken as one literal)."""
    pieces: list[tuple[str, int, int]] = []
    bodies: dict[str, list[bytes]] = {kind: [] for kind in _KINDS}
    bases: dict[str, list[bytes]] = {kind: [] for kind in _KINDS}  # what those are less of
    old = {tensor.name: tensor for tensor in tensors(base)}
    at = before = 0  # in new and in base, behind the last tensor

    def between(stop: int) -> None:
        """What stands between two tensors: the graph, which is mostly what it was."""
        data = new[at:stop]
        if not data:
            return
        if base[before : before + len(data)] == data:
            pieces.append(("copy", len(data), before))
        elif (found := base.find(data)) >= 0 and len(data) >= 16:
            pieces.append(("copy", len(data), found))
        else:
            pieces.append(("literal", len(data), 0))
            bodies["literal"].append(data)

    for tensor in tensors(new):
        was = old.get(tensor.name)
        if was is None or (was.kind, was.length) != (tensor.kind, tensor.length):
            continue
        between(tensor.offset)
        at, before = tensor.offset + tensor.length, was.offset + was.length
        ours, theirs = new[tensor.offset : at], base[was.offset : before]
        if ours == theirs:
            pieces.append(("copy", tensor.length, was.offset))
        else:
            pieces.append((tensor.kind, tensor.length, was.offset))
            bodies[tensor.kind].append(_difference(ours, theirs, tensor.kind))
            bases[tensor.kind].append(theirs)
    between(len(new))
    header = {
        "base": hashlib.sha256(base).hexdigest(),
        "new": hashlib.sha256(new).hexdigest(),
        "pieces": pieces,
    }
    body = b"".join(
        _planes(_sorted(b"".join(bodies[kind]), b"".join(bases[kind]), kind), _WIDTH.get(kind, 1))
        for kind in _KINDS
    )
    return b"".join(
        [
            _MAGIC,
            json.dumps(header, separators=(",", ":")).encode(),
            b"\n",
            lzma.compress(body, preset=9 | lzma.PRESET_EXTREME),
        ]
    )


def apply(base: bytes, delta: bytes, *, limit: int) -> bytes:
    """The new file, of at most `limit` bytes.

    Raises BundleTampered for a delta that is damaged, against another base, or makes something else
    than it says: fetch the whole file instead.
    """
    try:
        return _apply(base, delta, limit)
    except (ValueError, TypeError, KeyError, RecursionError, lzma.LZMAError) as error:
        raise BundleTampered(f"is not a sound delta: {error}") from error


def _apply(base: bytes, delta: bytes, limit: int) -> bytes:
    if not delta.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    end = delta.find(b"\n", len(_MAGIC), len(_MAGIC) + _MAX_HEADER)
    header = json.loads(delta[len(_MAGIC) : end])
    if hashlib.sha256(base).hexdigest() != header["base"]:
        raise ValueError("it is against another base than the one that is here")
    pieces = [_piece(piece, len(base)) for piece in header["pieces"][:_MAX_PIECES]]
    total = sum(length for _, length, _ in pieces)
    if total > limit:
        raise ValueError(f"it makes {total} bytes, where {limit} were promised")
    sizes = {kind: sum(n for k, n, _ in pieces if k == kind) for kind in _KINDS}
    wanted = sum(sizes.values())
    # Never more than that in memory, whatever the stream would unfold to.
    reader = lzma.LZMADecompressor(memlimit=256 << 20)
    body = reader.decompress(delta[end + 1 :], max_length=wanted + 1)
    if len(body) != wanted:
        raise ValueError("its content is not as long as its pieces")
    streams, start = {}, 0
    for kind in _KINDS:
        part = body[start : start + sizes[kind]]
        old = b"".join(base[at : at + n] for k, n, at in pieces if k == kind)
        streams[kind] = _unsorted(_interleave(part, _WIDTH.get(kind, 1)), old, kind)
        start += sizes[kind]
    used = dict.fromkeys(_KINDS, 0)
    out = []
    for kind, length, offset in pieces:
        old = base[offset : offset + length]
        if kind == "copy":
            out.append(old)
            continue
        own = streams[kind][used[kind] : used[kind] + length]
        used[kind] += length
        out.append(own if kind == "literal" else _sum(own, old, kind))
    new = b"".join(out)
    if hashlib.sha256(new).hexdigest() != header["new"]:
        raise ValueError("it makes another file than it says")
    return new


def _piece(piece: Any, base_size: int) -> tuple[str, int, int]:
    kind, length, offset = piece
    if kind not in (*_KINDS, "copy") or not (isinstance(length, int) and isinstance(offset, int)):
        raise ValueError(f"a piece is {piece!r}"[:100])
    inside = kind == "literal" or 0 <= offset <= base_size - length
    if length < 0 or not inside or length % _WIDTH.get(kind, 1):
        raise ValueError(f"a piece lies outside of the base: {piece!r}"[:100])
    return kind, length, offset


# -- numbers ---------------------------------------------------------------------------------------


def _difference(new: bytes, old: bytes, kind: str) -> bytes:
    """new - old, number by number, folded to unsigned."""
    steps = _ordered(new, kind) - _ordered(old, kind)
    signed = steps.view(steps.dtype.str.replace("u", "i"))
    bits = 8 * steps.itemsize - 1
    folded = (steps << 1) ^ (signed >> bits).view(steps.dtype)
    return bytes(folded.tobytes())


def _sum(folded: bytes, old: bytes, kind: str) -> bytes:
    numbers = np.frombuffer(folded, f"<u{_WIDTH[kind]}")
    one = numbers.dtype.type(1)
    steps = (numbers >> one) ^ (~(numbers & one) + one)
    return _unordered(_ordered(old, kind) + steps, kind)


def _ordered(data: bytes, kind: str) -> NDArray[Any]:
    """Numbers whose order is that of the values: floats have their sign in a bit of its own."""
    numbers = np.frombuffer(data, f"<u{_WIDTH[kind]}")
    if kind == "u8":
        return numbers
    top = numbers.dtype.type(1 << (8 * numbers.itemsize - 1))
    return np.where(numbers & top, ~numbers, numbers | top)


def _unordered(numbers: NDArray[Any], kind: str) -> bytes:
    if kind != "u8":
        top = numbers.dtype.type(1 << (8 * numbers.itemsize - 1))
        numbers = np.where(numbers & top, numbers & ~top, ~numbers)
    return numbers.tobytes()


def _sorted(data: bytes, old: bytes, kind: str) -> bytes:
    """Numbers in the order of the exponents of their bases."""
    if kind not in _EXPONENT:
        return data
    return bytes(np.frombuffer(data, f"<u{_WIDTH[kind]}")[_order(old, kind)].tobytes())


def _unsorted(data: bytes, old: bytes, kind: str) -> bytes:
    if kind not in _EXPONENT:
        return data
    numbers = np.frombuffer(data, f"<u{_WIDTH[kind]}")
    found = np.empty_like(numbers)
    found[_order(old, kind)] = numbers
    return bytes(found.tobytes())


def _order(old: bytes, kind: str) -> NDArray[np.intp]:
    """Of float16's five bits of exponent and float32's eight; of bfloat16's the upper five."""
    shift, mask = _EXPONENT[kind]
    numbers = np.frombuffer(old, f"<u{_WIDTH[kind]}")
    return np.argsort((numbers >> shift & mask).astype(np.uint8), kind="stable")


def _planes(data: bytes, width: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, width).T.tobytes()


def _interleave(data: bytes, width: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(width, -1).T.tobytes()


# -- ONNX ------------------------------------------------------------------------------------------


def tensors(file: bytes) -> list[Tensor]:
    """The constants of an ONNX file that are stored as raw numbers, by place; [] for other files.

    Reads just enough of protobuf (https://protobuf.dev/programming-guides/encoding) for that, as
    devices have no onnx package: model.graph (7) .initializer (5) .data_type (2) .name (8)
    .raw_data (9).
    """
    found = []
    try:
        for graph, start, end in _fields(file, 0, len(file)):
            if graph != 7:
                continue
            for number, first, last in _fields(file, start, end):
                if number != 5:
                    continue
                name, data_type, raw = "", 0, (0, 0)
                for field, low, high in _fields(file, first, last):
                    if field == 2:
                        data_type = _varint(file, low)[0]
                    elif field == 8:
                        name = file[low:high].decode()
                    elif field == 9:
                        raw = (low, high - low)
                kind = _ONNX_KINDS.get(data_type)
                if kind and raw[1] and raw[1] % _WIDTH[kind] == 0:
                    found.append(Tensor(name, kind, *raw))
    except (ValueError, IndexError):
        return []
    return sorted(found, key=lambda tensor: tensor.offset)


def _fields(file: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of the content of every field of a message."""
    while at < end:
        key, at = _varint(file, at)
        wire = key & 7
        if wire == 0:
            stop = _varint(file, at)[1]
        elif wire == 1:
            stop = at + 8
        elif wire == 2:
            size, at = _varint(file, at)
            stop = at + size
        elif wire == 5:
            stop = at + 4
        else:
            raise ValueError(f"wire type {wire}")
        if stop > end:
            raise ValueError("a field ends outside of its message")
        yield key >> 3, at, stop
        at = stop


def _varint(file: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = file[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that does not end")
