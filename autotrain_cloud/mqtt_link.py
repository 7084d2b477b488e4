"""One connection to a broker: MQTT 5 over TCP or TLS, for a loop that waits with select.

    link = Link.open(broker, hello, slabs, keepalive_s=30)   # OSError
    ...                                                # `link` is readable, or `has_more`:
    for first, start, end in link.read(): ...          # in the slabs; OSError: it is gone
    link.write(mqtt5.puback(id)); link.flush()

Reads are as large as they come, also below TLS, which would else ask the system four times for each
packet; and nothing is sent before `flush`, so a batch of acknowledgements is one system call.
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
_CHUNK_BYTES = 1 << 17  # below TLS


class Link:
    """Made by `open`. Whatever is wrong with the other side is an OSError."""

    def __init__(
        self,
        connection: socket.socket,
        tls: Tls | None,
        slabs: Slabs,
        keepalive_s: float,
        now_s: float,
    ) -> None:
        self._socket = connection
        self._tls = tls
        self._slabs = slabs
        self._keepalive_s = keepalive_s
        self._is_drained = False
        self._out = bytearray()  # not yet sent
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
            secure = None if context is None else Tls(context, connection, broker.host)
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        link = cls(connection, secure, slabs, keepalive_s, now_s)
        link.write(hello)
        return link

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_more(self) -> bool:
        """Whether `read` has left something, of which the socket may know nothing."""
        return not self._is_drained

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out) or (self._tls is not None and self._tls.has_output)

    def read(self, now_s: float) -> Iterator[tuple[int, int, int]]:
        """Packets that are there: first byte, and where what follows the length lies."""
        taken = 0
        self._is_drained = False
        source = self._tls or self._socket
        while taken < READ_BYTES and (room := self._slabs.room()) is not None:
            try:
                size = source.recv_into(room)
            except BlockingIOError:
                self._is_drained = True
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
        self._out += data if self._tls is None else self._tls.sealed(data)

    def flush(self, now_s: float) -> None:
        """As much as the other side takes now."""
        if self._tls is not None:
            self._out += self._tls.output()
        while self._out:
            try:
                with memoryview(self._out) as data:
                    size = self._socket.send(data)
            except BlockingIOError:
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
            self.write(mqtt5.GOODBYE)
            self.flush(0.0)
        except OSError:
            pass  # it is gone already
        finally:
            self._socket.close()
            self._slabs.forget()


class Tls:
    """TLS between two buffers, for a connection that is read in large pieces."""

    def __init__(self, context: ssl.SSLContext, connection: socket.socket, host: str) -> None:
        """Agrees with the other side, and waits for it. Raises OSError."""
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._chunk = memoryview(bytearray(_CHUNK_BYTES))
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(self.output())
                self._receive()
            except ssl.SSLError:
                connection.sendall(self.output())  # why it is refused
                raise
        connection.sendall(self.output())

    def recv_into(self, room: memoryview) -> int:
        """Raises BlockingIOError while there is nothing, ConnectionError at the end."""
        while True:
            try:
                return self._object.read(len(room), room)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                self._receive()

    def sealed(self, data: bytes) -> bytes:
        """What is to be sent in place of these bytes."""
        self._object.write(data)
        return self._outgoing.read()

    @property
    def has_output(self) -> bool:
        return self._outgoing.pending > 0

    def output(self) -> bytes:
        """What TLS itself wants sent."""
        return self._outgoing.read()

    def _receive(self) -> None:
        size = self._socket.recv_into(self._chunk)
        if not size:
            raise ConnectionError("closed by the broker")
        self._incoming.write(self._chunk[:size])


def tls(broker: BrokerSettings) -> ssl.SSLContext:
    """Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=str(broker.ca))
        if broker.certificate is not None and broker.key is not None:
            context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker: ca, certificate or key cannot be read: {error}") from error
    return context
