"""paho for tests: what it does returns what the broker answered."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker import Broker

PATIENCE_S = 20.0
SUCCESS, NO_SUBSCRIBERS, NOT_AUTHORIZED = 0x00, 0x10, 0x87


class Refused(Exception):
    """The broker did not take the connection."""


class Client:
    """A connected client; `identity` None is a client of the plain listener, who may do all."""

    def __init__(
        self, broker: Broker, identity: str | None, *, id: str = "", port: int | None = None,
        context: Any = None, will: tuple[str, bytes] | None = None, username: str = "",
    ) -> None:  # fmt: skip
        self._mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, id, protocol=mqtt.MQTTv5)
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: dict[int, int] = {}
        self._changed = threading.Condition()
        self._connected: int | None = None
        self.ended: int | None = None  # reason code
        self._mqtt.on_connect = self._on_connect
        self._mqtt.on_disconnect = self._on_disconnect
        self._mqtt.on_message = lambda c, u, m: self._messages.put((m.topic, m.payload))
        self._mqtt.on_publish = lambda c, u, mid, code, p: self._answer(mid, code.value)
        self._mqtt.on_subscribe = lambda c, u, mid, codes, p: self._answer(mid, codes[0].value)
        if will:
            self._mqtt.will_set(*will, qos=1)
        if context or identity:
            self._mqtt.tls_set_context(context or broker.tls(identity or ""))
        if port is None:
            port = broker.plain_port
            if identity is not None:
                port = broker.service_port if identity.startswith("_") else broker.port
        if username:
            self._mqtt.username_pw_set(username)
        try:
            self._mqtt.connect(broker.host, port)
            self._mqtt.loop_start()
            # TLS 1.3: the broker looks at the certificate after the handshake, from here.
            self._wait(lambda: self._connected is not None or self.ended is not None)
        except OSError as error:
            self.drop()
            raise Refused(str(error)) from error
        if self._connected != SUCCESS:
            self.drop()
            raise Refused(f"reason code {self._connected or self.ended}")

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> int:
        """-> the broker's reason code, QoS 1; SUCCESS, too, where nobody has subscribed."""
        code = self._answered(self._mqtt.publish(topic, payload, qos=1, retain=retain).mid)
        return SUCCESS if code == NO_SUBSCRIBERS else code

    def subscribe(self, *filters: str) -> list[int]:
        """-> the reason code for each."""
        return [self._answered(self._mqtt.subscribe(each, qos=1)[1] or -1) for each in filters]

    def received(self) -> tuple[str, bytes]:
        return self._messages.get(timeout=PATIENCE_S)

    def until(self, payload: bytes) -> list[tuple[str, bytes]]:
        """Everything before a message with this payload: what came earlier is earlier in here."""
        found = []
        while (message := self.received())[1] != payload:
            found.append(message)
        return found

    def wait_for_end(self) -> int:
        """-> the reason code with which the connection ended."""
        self._wait(lambda: self.ended is not None)
        assert self.ended is not None
        return self.ended

    def drop(self) -> None:
        """The connection breaks; the broker publishes the will."""
        socket = self._mqtt.socket()
        if socket is not None:
            socket.close()
        self._stop()

    def close(self) -> None:
        self._mqtt.disconnect()
        self._stop()

    def _stop(self) -> None:
        self._mqtt.loop_stop()
        self._mqtt._reset_sockets()  # else its pair of sockets waits for the garbage collector

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answered(self, mid: int) -> int:
        self._wait(lambda: mid in self._answers or self.ended is not None)
        return self._answers.get(mid, self.ended or SUCCESS)

    def _answer(self, mid: int, code: int) -> None:
        with self._changed:
            self._answers[mid] = code
            self._changed.notify_all()

    def _on_connect(self, client: Any, user: Any, flags: Any, code: Any, more: Any) -> None:
        with self._changed:
            self._connected = code.value
            self._changed.notify_all()

    def _on_disconnect(self, client: Any, user: Any, flags: Any, code: Any, more: Any) -> None:
        with self._changed:
            self.ended = code.value
            self._changed.notify_all()

    def _wait(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise AssertionError("the broker did not answer")
