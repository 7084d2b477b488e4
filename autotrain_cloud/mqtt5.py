"""As much of MQTT 5 as a client needs that uses QoS 1: bytes to packets and back, without a socket.

Numbers in comments are sections of the standard (OASIS, 2019). What the other side sends wrongly is
a ProtocolError, an IndexError or a UnicodeDecodeError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT = 2, 3, 4, 9, 13, 14
RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE = 0x21, 0x27
FAILURE = 0x80  # and above: reason codes

# 2.2.2.2: bytes of each property's value; how many texts it is
_FIXED = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_STRINGS = {
    0x03: 1,
    0x08: 1,
    0x09: 1,
    0x12: 1,
    0x15: 1,
    0x16: 1,
    0x1A: 1,
    0x1C: 1,
    0x1F: 1,
    0x26: 2,
}


Bytes = bytes | memoryview


class ProtocolError(Exception):
    """The other side does not speak MQTT 5."""


def connect(
    *,
    client_id: str,
    keepalive_s: int,
    will: tuple[str, bytes] | None = None,
    username: str = "",
    session_s: int = 0,
    receive_maximum: int = 0,
    maximum_packet_size: int = 0,
) -> bytes:
    """3.1: a will is retained and of QoS 1; with `session_s` the session of before goes on."""
    flags = (0 if session_s else 0x02) | (0x2C if will else 0) | (0x80 if username else 0)
    body = b"\x00\x04MQTT\x05" + bytes([flags]) + keepalive_s.to_bytes(2, "big")
    terms = b"\x11" + session_s.to_bytes(4, "big") if session_s else b""
    terms += b"\x21" + receive_maximum.to_bytes(2, "big") if receive_maximum else b""
    terms += b"\x27" + maximum_packet_size.to_bytes(4, "big") if maximum_packet_size else b""
    body += bytes([len(terms)]) + terms + _text(client_id)
    if will:
        body += b"\x00" + _text(will[0]) + _binary(will[1])
    return _packet(0x10, body + (_text(username) if username else b""))


def publish(packet_id: int, topic: str, payload: bytes, *, retain: bool = False) -> bytes:
    """3.3: QoS 1."""
    head = _text(topic) + packet_id.to_bytes(2, "big") + b"\x00"
    return _packet(0x32 | retain, head + payload)


def subscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    """3.8: QoS 1."""
    body = packet_id.to_bytes(2, "big") + b"\x00"
    return _packet(0x82, body + b"".join(_text(each) + b"\x01" for each in filters))


def puback(packet_id: int) -> bytes:
    """3.4."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


PINGREQ = b"\xc0\x00"
GOODBYE = b"\xe0\x00"  # 3.14: no will is published


def received(body: Bytes, first: int) -> tuple[int, str, int]:
    """What a PUBLISH says (3.3): packet id or 0, topic, where in `body` the payload begins."""
    topic, at = _read_text(body, 0)
    packet_id = 0
    if first & 0x06:
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
    if body[at]:
        _, at = properties(body, at)
    else:
        at += 1
    return packet_id, topic, at


def reason(body: Bytes) -> int:
    """Of a PUBACK or DISCONNECT after `body`'s packet id; a missing one is success (3.4.2.1)."""
    return body[2] if len(body) > 2 else 0


def packets(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Takes whole packets from the front: first byte, and what follows the length."""
    start = 0
    try:
        with memoryview(buffer) as view:
            while found := packet(view, start, len(buffer)):
                first, at, start = found
                yield first, bytes(view[at:start])
    finally:
        del buffer[:start]


def packet(view: memoryview, start: int, end: int) -> tuple[int, int, int] | None:
    """The packet that begins at `start`, if it is whole: first byte, and where what follows the
    length begins, and ends (2.1)."""
    length, at = 0, start + 1
    for shift in (0, 7, 14, 21):
        if at >= end:
            return None
        low = view[at]
        length |= (low & 0x7F) << shift
        at += 1
        if low < 0x80:
            return (view[start], at, at + length) if at + length <= end else None
    raise ProtocolError("a length of more than four bytes")


def properties(body: Bytes, at: int) -> tuple[dict[int, int], int]:
    """-> those that are numbers, and where what follows begins (2.2.2)."""
    length, at = _variable(body, at)
    end = at + length
    found = {}
    while at < end:
        kind = body[at]
        at += 1
        if kind in _FIXED:
            found[kind] = int.from_bytes(body[at : at + _FIXED[kind]], "big")
            at += _FIXED[kind]
        elif kind in _STRINGS:
            for _ in range(_STRINGS[kind]):
                at += 2 + int.from_bytes(body[at : at + 2], "big")
        elif kind == 0x0B:
            found[kind], at = _variable(body, at)
        else:
            raise ProtocolError(f"property {kind:#x}")
    if at != end or end > len(body):
        raise ProtocolError("properties of another length")
    return found, end


def _packet(first: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while True:
        rest, low = rest >> 7, rest & 0x7F
        length += bytes([low | (0x80 if rest else 0)])
        if not rest:
            return bytes([first]) + length + body


def _text(text: str) -> bytes:
    return _binary(text.encode())


def _binary(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _read_text(body: Bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if end > len(body):
        raise ProtocolError("a text that is cut off")
    return str(body[at + 2 : end], "utf-8"), end


def _variable(body: Bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21):
        value |= (body[at] & 0x7F) << shift
        at += 1
        if body[at - 1] < 0x80:
            return value, at
    raise ProtocolError("a number of more than four bytes")
