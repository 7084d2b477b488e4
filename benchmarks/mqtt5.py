"""As much of MQTT 5 as ten thousand devices in one process need: a client on asyncio.

    link = Link(handler, connect(client_id="d1", will=(topic, payload)), keepalive_s=120)
    await loop.create_connection(lambda: link, host, port)

What arrives calls the handler: `connected`, `acknowledged`, `received`, `lost`. QoS 1 both ways;
what arrives is acknowledged at once. Numbers in comments are sections of the standard (OASIS,
2019). Errors of the other side end the connection; `lost` tells why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP, DISCONNECT = 2, 3, 4, 9, 13, 14
RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE = 0x21, 0x27

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


class ProtocolError(Exception):
    """The other side does not speak MQTT 5."""


class Handler(Protocol):
    """What a link tells."""

    def connected(self, code: int, properties: dict[int, int]) -> None: ...
    def acknowledged(self, packet_id: int, code: int) -> None: ...
    def received(self, topic: str, payload: bytes) -> None: ...
    def lost(self, reason: str) -> None: ...


def connect(
    *, client_id: str, will: tuple[str, bytes], keepalive_s: int, username: str = ""
) -> bytes:
    """3.1: a clean start, a retained will of QoS 1."""
    flags = 0x02 | 0x04 | 0x08 | 0x20 | (0x80 if username else 0)
    body = b"\x00\x04MQTT\x05" + bytes([flags]) + keepalive_s.to_bytes(2, "big") + b"\x00"
    body += _text(client_id) + b"\x00" + _text(will[0]) + _binary(will[1])
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


def packets(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Takes whole packets from the front: first byte, and what follows the length."""
    while len(buffer) >= 2:
        length, at = 0, 1
        for shift in (0, 7, 14, 21):
            if at >= len(buffer):
                return
            length |= (buffer[at] & 0x7F) << shift
            at += 1
            if buffer[at - 1] < 0x80:
                break
        else:
            raise ProtocolError("a length of more than four bytes")
        if len(buffer) < at + length:
            return
        first, body = buffer[0], bytes(buffer[at : at + length])
        del buffer[: at + length]
        yield first, body


def properties(body: bytes, at: int) -> tuple[dict[int, int], int]:
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


class Link(asyncio.Protocol):
    """One connection, from its CONNECT on."""

    def __init__(self, handler: Handler, hello: bytes, keepalive_s: float) -> None:
        self._handler = handler
        self._hello = hello
        self._keepalive_s = keepalive_s
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wrote = 0.0
        self._reason = ""
        self._over = False

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
            self._wrote = asyncio.get_running_loop().time()

    def end(self, reason: str) -> None:
        """At once; also where there is no connection yet, and will be none."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()  # and then connection_lost
        else:
            self._lost(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        if self._over:
            transport.abort()
            return
        self.write(self._hello)
        self._keep_alive()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._lost(self._reason or str(error or "closed by the broker"))

    def _lost(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._handler.lost(reason)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            for first, body in packets(self._buffer):
                self._take(first, body)
        except (ProtocolError, IndexError, UnicodeDecodeError) as error:
            self.end(f"protocol error: {error!r}")

    def _take(self, first: int, body: bytes) -> None:
        match first >> 4:
            case 3:  # PUBLISH
                topic, at = _read_text(body, 0)
                packet_id = None
                if first & 0x06:
                    packet_id = int.from_bytes(body[at : at + 2], "big")
                    at += 2
                _, at = properties(body, at)
                self._handler.received(topic, body[at:])
                if packet_id is not None:
                    self.write(puback(packet_id))
            case 4:  # PUBACK; a missing code is success (3.4.2.1)
                packet_id = int.from_bytes(body[:2], "big")
                self._handler.acknowledged(packet_id, body[2] if len(body) > 2 else 0)
            case 2:  # CONNACK
                self._handler.connected(body[1], properties(body, 2)[0])
            case 14:  # DISCONNECT
                self.end(f"the broker says {body[0] if body else 0:#x}")
            case 9 | 13:  # SUBACK, PINGRESP
                pass
            case kind:
                raise ProtocolError(f"packet {kind}")

    def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        rest = self._wrote + self._keepalive_s * 0.75 - loop.time()
        if rest <= 0:
            self.write(PINGREQ)
            rest = self._keepalive_s * 0.75
        self._timer = loop.call_later(rest, self._keep_alive)


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


def _read_text(body: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if end > len(body):
        raise ProtocolError("a text that is cut off")
    return body[at + 2 : end].decode(), end


def _variable(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21):
        value |= (body[at] & 0x7F) << shift
        at += 1
        if body[at - 1] < 0x80:
            return value, at
    raise ProtocolError("a number of more than four bytes")
