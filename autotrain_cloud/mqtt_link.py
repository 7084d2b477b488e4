"""One connection to a broker: MQTT 5 over TCP or TLS, for a loop that waits with select.

    link = Link.open(broker, hello, slabs, keepalive_s=30)   # OSError
    ...                                                # `link` is readable, or `has_more`:
    for first, start, end in link.read(): ...          # in the slabs; OSError: it is gone
    link.write(mqtt5.puback(id)); link.flush()

Reads are as large as they come and nothing is sent before `flush`, so a batch of acknowledgements
is one system call: the ingest reads and writes thousands of packets a second.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from autotrain_cloud import mqtt5
from autotrain_cloud.settings import BrokerSettings
from autotrain_cloud.slabs import Slabs
from edge_runtime.errors import ConfigError

CONNECT_S = 10.0  # until the broker has taken the connection
READ_BYTES = 1 << 18  # at a time


class Link:
    """Made by `open`. Whatever is wrong with the other side is an OSError."""

    def __init__(
        self, connection: socket.socket, slabs: Slabs, keepalive_s: float, now_s: float
    ) -> None:
        self._socket = connection
        self._slabs = slabs
        self._keepalive_s = keepalive_s
        self._out = bytearray()
        self._read_s = self._wrote_s = now_s

    @classmethod
    def open(
        cls, broker: BrokerSettings, hello: bytes, slabs: Slabs, keepalive_s: float, now_s: float
    ) -> Link:
        """Waits for the connection, not for the broker's answer to `hello`.

        Raises OSError, and ConfigError for certificates that cannot be read.
        """
        context = None if broker.ca is None else tls(broker)
        connection = socket.create_connection((broker.host, broker.port), CONNECT_S)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                connection = context.wrap_socket(connection, server_hostname=broker.host)
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        link = cls(connection, slabs, keepalive_s, now_s)
        link.write(hello)
        return link

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_more(self) -> bool:
        """Whether TLS has bytes for us that the socket below it no longer has."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    def read(self, now_s: float) -> Iterator[tuple[int, int, int]]:
        """Packets that are there: first byte, and where what follows the length lies."""
        taken = 0
        while taken < READ_BYTES and (room := self._slabs.room()) is not None:
            try:
                size = self._socket.recv_into(room)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not size:
                raise ConnectionError("closed by the broker")
            self._slabs.filled(size)
            taken += size
        if taken:
            self._read_s = now_s
        try:
            yield from self._slabs.packets()
        except mqtt5.ProtocolError as error:
            raise ConnectionError(f"the broker does not speak MQTT 5: {error}") from None

    def write(self, data: bytes) -> None:
        """Sent by `flush`."""
        self._out += data

    def flush(self, now_s: float) -> None:
        """As much as the other side takes now."""
        while self._out:
            try:
                with memoryview(self._out) as data:
                    size = self._socket.send(data)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self._out[:size]
            self._wrote_s = now_s

    def keep_alive(self, now_s: float, *, reading: bool) -> None:
        """Says that we are there. Raises OSError if the other side has long been silent."""
        if not reading:  # then its silence is ours
            self._read_s = now_s
        elif now_s > self._read_s + 1.5 * self._keepalive_s:
            raise ConnectionError("the broker is silent")
        if not self._out and now_s > min(self._wrote_s, self._read_s) + self._keepalive_s / 2:
            self.write(mqtt5.PINGREQ)
            self._wrote_s = now_s
            self.flush(now_s)

    def close(self) -> None:
        """Says goodbye, if that is possible at once."""
        try:
            self._out += mqtt5.GOODBYE
            self.flush(0.0)
        except OSError:
            pass  # it is gone already
        finally:
            self._socket.close()
            self._slabs.forget()


def tls(broker: BrokerSettings) -> ssl.SSLContext:
    """Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=str(broker.ca))
        if broker.certificate is not None and broker.key is not None:
            context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker: ca, certificate or key cannot be read: {error}") from error
    return context
