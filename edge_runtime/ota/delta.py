"""A new model as the difference from one that a device already has.

Fine-tuning moves most weights of a model, each by a little.  General binary deltas find nothing in
common then, but the differences are small numbers, and small numbers compress.  Floats are compared
as integers in the order of their values: a small step is a small number whatever the exponent::

    make(base, new)                    -> delta          at the publisher
    apply(base, delta, limit=size)     -> new            at the device

Where every float of a tensor is a whole number of equal steps from its base, as `vitconformer
export --update-step` makes them, those few steps are all that is sent.

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
s16 s32    floats of that width: how many steps of 2^n each is from the base's, folded likewise.
           The piece ends with n; the sum is made in float64 and rounded to the float's width
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
_KINDS = ("literal", "u8", "u16", "u32", "s16", "s32")  # with bytes of their own, in their order
_WIDTH = {"u8": 1, "u16": 2, "u32": 4, "s16": 2, "s32": 4}
_STEPS = {"u16": "s16", "u32": "s32"}  # what floats of that width may be instead
_EXPONENTS = range(0, -49, -1)  # of steps that are looked for, the longest first
_SELDOM = 2000  # numbers, of which one may be no whole number of steps away
_SOME = 64  # numbers
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


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of a new file: where it comes from."""

    kind: str
    length: int  # bytes
    offset: int = 0  # in the base
    exponent: int = 0  # of two: the length of a step

    def to_json(self) -> list[Any]:
        found = [self.kind, self.length, self.offset]
        return [*found, self.exponent] if self.kind in _STEPS.values() else found


def make(base: bytes, new: bytes) -> bytes:
    """The delta that turns `base` into `new`, both ONNX files (others are taken as one literal)."""
    pieces: list[_Piece] = []
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
            pieces.append(_Piece("copy", len(data), before))
        elif (found := base.find(data)) >= 0 and len(data) >= 16:
            pieces.append(_Piece("copy", len(data), found))
        else:
            pieces.append(_Piece("literal", len(data)))
            bodies["literal"].append(data)

    for tensor in tensors(new):
        was = old.get(tensor.name)
        if was is None or (was.kind, was.length) != (tensor.kind, tensor.length):
            continue
        between(tensor.offset)
        at, before = tensor.offset + tensor.length, was.offset + was.length
        ours, theirs = new[tensor.offset : at], base[was.offset : before]
        if ours == theirs:
            pieces.append(_Piece("copy", tensor.length, was.offset))
            continue
        for piece, body in _numbers(ours, theirs, tensor.kind, was.offset):
            pieces.append(piece)
            bodies[piece.kind].append(body)
            bases[piece.kind].append(_old(base, piece))
    between(len(new))
    header = {
        "base": hashlib.sha256(base).hexdigest(),
        "new": hashlib.sha256(new).hexdigest(),
        "pieces": [piece.to_json() for piece in pieces],
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
    total = sum(piece.length for piece in pieces)
    if total > limit:
        raise ValueError(f"it makes {total} bytes, where {limit} were promised")
    sizes = {kind: sum(each.length for each in pieces if each.kind == kind) for kind in _KINDS}
    wanted = sum(sizes.values())
    # Never more than that in memory, whatever the stream would unfold to.
    reader = lzma.LZMADecompressor(memlimit=256 << 20)
    body = reader.decompress(delta[end + 1 :], max_length=wanted + 1)
    if len(body) != wanted:
        raise ValueError("its content is not as long as its pieces")
    streams, start = {}, 0
    for kind in _KINDS:
        part = body[start : start + sizes[kind]]
        old = b"".join(_old(base, piece) for piece in pieces if piece.kind == kind)
        streams[kind] = _unsorted(_interleave(part, _WIDTH.get(kind, 1)), old, kind)
        start += sizes[kind]
    used = dict.fromkeys(_KINDS, 0)
    out = []
    for piece in pieces:
        kind, old = piece.kind, _old(base, piece)
        if kind == "copy":
            out.append(old)
            continue
        own = streams[kind][used[kind] : used[kind] + piece.length]
        used[kind] += piece.length
        if kind == "literal":
            out.append(own)
        elif kind in _STEPS.values():
            out.append(_stepped(_unfolded(own, kind), old, kind, piece.exponent))
        else:
            out.append(_sum(own, old, kind))
    new = b"".join(out)
    if hashlib.sha256(new).hexdigest() != header["new"]:
        raise ValueError("it makes another file than it says")
    return new


def _piece(piece: Any, base_size: int) -> _Piece:
    kind, length, offset, *more = piece
    if kind not in (*_KINDS, "copy") or not all(type(n) is int for n in (length, offset, *more)):
        raise ValueError(f"a piece is {piece!r}"[:100])
    inside = kind == "literal" or 0 <= offset <= base_size - length
    if length < 0 or not inside or length % _WIDTH.get(kind, 1):
        raise ValueError(f"a piece lies outside of the base: {piece!r}"[:100])
    found = _Piece(kind, length, offset, *more)
    if len(found.to_json()) != len(piece) or found.exponent not in _EXPONENTS:
        raise ValueError(f"a piece has other steps than its kind: {piece!r}"[:100])
    return found


def _old(base: bytes, piece: _Piece) -> bytes:
    return base[piece.offset : piece.offset + piece.length]


# -- numbers ---------------------------------------------------------------------------------------


def _difference(new: bytes, old: bytes, kind: str) -> bytes:
    """new - old, number by number, folded to unsigned."""
    return _folded(_ordered(new, kind) - _ordered(old, kind))


def _sum(folded: bytes, old: bytes, kind: str) -> bytes:
    return _unordered(_ordered(old, kind) + _unfolded(folded, kind), kind)


def _folded(numbers: NDArray[Any]) -> bytes:
    """Unsigned ones, the upper half of which stand for negative ones."""
    signed = numbers.view(numbers.dtype.str.replace("u", "i"))
    bits = 8 * numbers.itemsize - 1
    return bytes(((numbers << 1) ^ (signed >> bits).view(numbers.dtype)).tobytes())


def _unfolded(folded: bytes, kind: str) -> NDArray[Any]:
    numbers = np.frombuffer(folded, f"<u{_WIDTH[kind]}")
    one = numbers.dtype.type(1)
    steps: NDArray[Any] = (numbers >> one) ^ (~(numbers & one) + one)
    return steps


def _numbers(new: bytes, old: bytes, kind: str, offset: int) -> Iterator[tuple[_Piece, bytes]]:
    """Pieces that lead from a tensor to its successor, and their bodies; `offset` is the old's."""
    found = _steps(new, old, kind) if kind in _STEPS else None
    difference = _difference(new, old, kind)
    if found is None or _bits(_folded(found[1]), kind) >= _bits(difference, kind):
        yield _Piece(kind, len(new), offset), difference
        return
    exponent, steps, wrong = found
    width, at = _WIDTH[kind], 0
    for index in [*wrong, len(steps)]:
        if index > at:
            piece = _Piece(_STEPS[kind], width * (index - at), offset + width * at, exponent)
            yield piece, _folded(steps[at:index])
        if index < len(steps):
            yield _Piece("literal", width), new[width * index : width * (index + 1)]
        at = index + 1


def _steps(new: bytes, old: bytes, kind: str) -> tuple[int, NDArray[Any], list[int]] | None:
    """Exponent of the longest step that leads from old floats to new ones, how many of them, and
    where they do not lead, which is seldom: where the exporter rounded once more.

    None where there is no such step.
    """
    width = _WIDTH[kind]
    with np.errstate(invalid="ignore", over="ignore"):
        moved = _floats(new, width) - _floats(old, width)
        largest = float(np.abs(moved).max(initial=0.0))
    for exponent in _EXPONENTS:
        if not largest < 2.0 ** (exponent + 8 * width - 1):  # or infinite, or not a number
            return None
        steps = np.rint(np.ldexp(moved, -exponent)).astype(f"<i{width}").view(f"<u{width}")
        for part in (steps[:_SOME], steps):  # a few show that most exponents are not it
            made = _stepped(part, old[: part.nbytes], _STEPS[kind], exponent)
            words = (np.frombuffer(data, f"<u{width}") for data in (made, new[: part.nbytes]))
            wrong = np.flatnonzero(np.not_equal(*words))
            if len(wrong) > max(1, len(part) // _SELDOM):
                break
        else:
            return exponent, steps, wrong.tolist()
    return None


def _bits(folded: bytes, kind: str) -> float:
    """About as many as each number needs."""
    numbers = np.frombuffer(folded, f"<u{_WIDTH[kind]}")
    return float(np.log2(1.0 + numbers).mean())


def _stepped(numbers: NDArray[Any], old: bytes, kind: str, exponent: int) -> bytes:
    width = _WIDTH[kind]
    with np.errstate(invalid="ignore", over="ignore"):  # nonsense is found out by its digest
        new = _floats(old, width) + np.ldexp(
            numbers.view(f"<i{width}").astype(np.float64), exponent
        )
        return bytes(new.astype(f"<f{width}").tobytes())


def _floats(data: bytes, width: int) -> NDArray[np.float64]:
    return np.frombuffer(data, f"<f{width}").astype(np.float64)


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
