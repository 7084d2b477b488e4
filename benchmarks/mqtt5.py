"""A client for ten thousand devices in one process: MQTT 5 (autotrain_cloud/mqtt5.py) on asyncio.

    link = Link(handler, connect(client_id="d1", will=(topic, payload), keepalive_s=120), 120)
    await loop.create_connection(lambda: link, host, port)

What arrives calls the handler: `connected`, `acknowledged`, `received`, `lost`. QoS 1 both ways;
what arrives is acknowledged at once. Errors of the other side end the connection; `lost` tells why.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from autotrain_cloud.mqtt5 import (
    CONNACK,
    DISCONNECT,
    GOODBYE,
    MAXIMUM_PACKET_SIZE,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBLISH,
    RECEIVE_MAXIMUM,
    SUBACK,
    ProtocolError,
    connect,
    packets,
    properties,
    puback,
    publish,
    reason,
    received,
    subscribe,
)

__all__ = [
    "GOODBYE",
    "MAXIMUM_PACKET_SIZE",
    "RECEIVE_MAXIMUM",
    "Handler",
    "Link",
    "connect",
    "puback",
    "publish",
    "subscribe",
]


class Handler(Protocol):
    """What a link tells."""

    def connected(self, code: int, properties: dict[int, int]) -> None: ...
    def acknowledged(self, packet_id: int, code: int) -> None: ...
    def received(self, topic: str, payload: bytes) -> None: ...
    def lost(self, reason: str) -> None: ...


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
        kind = first >> 4
        if kind == PUBLISH:
            packet_id, topic, at = received(body, first)
            self._handler.received(topic, body[at:])
            if packet_id:
                self.write(puback(packet_id))
        elif kind == PUBACK:
            self._handler.acknowledged(int.from_bytes(body[:2], "big"), reason(body))
        elif kind == CONNACK:
            self._handler.connected(body[1], properties(body, 2)[0])
        elif kind == DISCONNECT:
            self.end(f"the broker says {body[0] if body else 0:#x}")
        elif kind not in (SUBACK, PINGRESP):
            raise ProtocolError(f"packet {kind}")

    def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        rest = self._wrote + self._keepalive_s * 0.75 - loop.time()
        if rest <= 0:
            self.write(PINGREQ)
            rest = self._keepalive_s * 0.75
        self._timer = loop.call_later(rest, self._keep_alive)
