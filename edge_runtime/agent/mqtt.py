"""The uplink's shell: MQTT 5 through paho, the outbox, the clock, and the jitter of the dice.

One thread owns the uplink and carries out what it wants. Whatever happens, on paho's threads or
others, is put into one queue for it and nothing else is done there. What paho would do badly it is
not let to do:

* every connection is a client of its own, so nothing that an earlier one held is sent again;
* it never holds more packets than the broker takes at once, because the uplink counts them;
* it does not connect again by itself. When that is tried is the uplink's to say.

Whatever is wrong with the connection is one line in the log and in the status: the outbox waits.
"""

from __future__ import annotations

import logging
import queue
import random
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.agent import exchange
from edge_runtime.agent.clock import monotonic_ms, now_ms
from edge_runtime.agent.config import BrokerSettings
from edge_runtime.agent.identity import read_certificate
from edge_runtime.agent.outbox import Outbox
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.uplink import MAX_WINDOW, Uplink
from edge_runtime.contract.codec import decode
from edge_runtime.contract.messages import (
    Assignment,
    Birth,
    Command,
    Consent,
    Erase,
    Lost,
    Message,
)
from edge_runtime.contract.records import new_id
from edge_runtime.contract.topics import parse_topic
from edge_runtime.errors import ConfigError, ContractError, StorageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

log = logging.getLogger("edge_runtime.agent")

WILL_DELAY_S = 30  # a device that is back by then was never away
SESSION_S = 60  # that the broker keeps what it has of us; longer than the will waits
TAKES_PACKETS = 100  # unacknowledged, from the broker
TAKES_BYTES = 256_000  # in one packet from the broker
INCIDENTS = 4  # in one report


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a paho client, by its number, told."""

    client: int
    what: str  # connected, failed, gone, acknowledged, message
    values: tuple[Any, ...] = ()


class Link:
    """The connection to the cloud, on a thread of its own."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        device: str,
        session: int,
        outbox: Callable[[], Outbox | None],
        birth: Callable[[], Birth],
        hand_on: Callable[[Consent | Erase | Assignment | Command], None],
        problems: Problems,
    ) -> None:
        """`birth` and `hand_on` are called on the link's thread."""
        self._settings = settings
        self._device = device
        self._session = session
        self._outbox = outbox
        self._birth = birth
        self._hand_on = hand_on
        self._problems = problems
        self._uplink = Uplink(device, session, random.Random(secrets.randbits(64)))
        self._events: queue.Queue[exchange.Event | _Answer] = queue.Queue()
        self._client: Client | None = None
        self._number = 0  # of the client
        self._tokens: dict[int, int] = {}  # mid -> token
        self._early: dict[int, int] = {}  # mid -> reason code, acknowledged before we knew it
        self._connector: threading.Thread | None = None
        self._wake_ms = 0
        self._gone = False
        self._since: float | None = None  # Unix time of the connection
        self._silent_ms: int | None = None  # when a broker that has not answered yet is given up
        self._status = self._described()  # replaced as a whole: other threads read it
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def say(self, message: Message) -> None:
        """Sends what no receipt answers, as soon as it can be."""
        self._events.put(exchange.Say(message))

    def wake(self) -> None:
        """Something new lies in the outbox."""
        self._events.put(exchange.Tick())

    def reconnect(self) -> None:
        """With the certificate that is there now; as after any connection that broke."""
        self._events.put(exchange.Disconnected())

    def stop(self, timeout_s: float = 5.0) -> None:
        """Says goodbye."""
        self._events.put(exchange.Stop())
        self._thread.join(timeout_s)

    @property
    def waiting(self) -> int:
        """Messages, apart from segments, that the broker does not have, or nobody looked at yet."""
        return int(self._status["messages_waiting"]) + self._events.qsize()

    def status(self) -> dict[str, Any]:
        """For people, and JSON."""
        return self._status

    def _described(self) -> dict[str, Any]:
        return {
            "broker": f"{self._settings.host}:{self._settings.port}",
            "state": self._uplink.state,
            "since_ms": None if self._since is None else round(self._since * 1000),
            "cloud_accepts": self._uplink.accepting,
            "messages_waiting": self._uplink.waiting,
        }

    # The thread.

    def _run(self) -> None:
        try:
            while not self._gone:
                try:
                    until_ms = min(self._wake_ms, self._silent_ms or self._wake_ms)
                    event = self._events.get(timeout=max(0, until_ms - monotonic_ms()) / 1000)
                except queue.Empty:
                    event = exchange.Tick()
                try:
                    self._take(event)
                    if self._silent_ms is not None and monotonic_ms() >= self._silent_ms:
                        self._failed("does not answer")
                except Exception as error:  # no mistake of ours may end the uplink
                    log.debug("the uplink failed", exc_info=True)
                    self._problems.report("uplink", f"failed and connects anew: {error!r}")
                    self._hang_up()
                    self._handle(exchange.Disconnected())
                self._status = self._described()
        finally:
            self._hang_up()

    def _take(self, event: exchange.Event | _Answer) -> None:
        if not isinstance(event, _Answer):
            if isinstance(event, exchange.Disconnected):
                self._hang_up()
            self._handle(event)
            return
        if event.client != self._number:
            return  # an earlier connection's
        match event.what, event.values:
            case "connected", (code, properties):
                self._connected(code, properties)
            case "failed", (why,):
                self._failed(why)
            case "gone", (code,):
                self._lost_connection(code)
            case "acknowledged", (mid, code):
                if mid in self._tokens:
                    self._handle(exchange.Acknowledged(self._tokens.pop(mid), code))
                else:
                    self._early[mid] = code
            case "message", (topic, payload):
                self._heard(topic, payload)

    def _connected(self, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._failed(f"refused the connection: {code}")
            return
        self._problems.clear("broker")
        self._since, self._silent_ms = time.time(), None
        terms: dict[str, Any] = {}
        if (most := getattr(properties, "ReceiveMaximum", None)) is not None:
            terms["receive_maximum"] = most
        if (largest := getattr(properties, "MaximumPacketSize", None)) is not None:
            terms["maximum_packet_size"] = largest
        self._handle(exchange.Connected(birth=self._birth(), **terms))

    def _failed(self, why: str) -> None:
        self._problems.report("broker", f"{self._settings.host}:{self._settings.port}: {why}")
        self._hang_up()
        self._handle(exchange.Disconnected())

    def _lost_connection(self, code: Any) -> None:
        if self._since is None:  # TLS 1.3: the broker says only now what it thinks of us
            self._failed(self._certificate_problem() or f"ended the connection at once: {code}")
            return
        self._failed(f"the connection is lost: {code}")

    def _heard(self, topic: str, payload: bytes) -> None:
        try:
            channel, device = parse_topic(topic)
            if channel.writer != "cloud" or device not in (None, self._device):
                raise ContractError(f"is {topic}", field="topic", expected="one from the cloud")
            message = decode(payload, allowed=channel.carries)
        except ContractError as error:
            self._problems.report("messages", f"dropped what the cloud must not send: {error}")
            return
        self._handle(exchange.Received(message))

    def _handle(self, event: exchange.Event) -> None:
        todo = self._uplink.handle(event, now_ms=monotonic_ms())
        while todo:
            answers: list[exchange.Event] = []
            for action in todo:
                answer = self._do(action)
                if answer is not None:
                    answers.append(answer)
            todo = []
            for each in answers:
                todo += self._uplink.handle(each, now_ms=monotonic_ms())

    def _do(self, action: exchange.Action) -> exchange.Event | None:
        match action:
            case exchange.Connect(topic, will):
                self._connect(topic, will)
            case exchange.Subscribe(topics):
                if self._client is not None:
                    self._client.subscribe([(topic, 1) for topic in topics])
            case exchange.Publish():
                return self._publish(action)
            case exchange.Ask(limit, exclude):
                return exchange.Offered(tuple(self._peek(limit, exclude)))
            case exchange.AskLosses(limit):
                return exchange.Losses(self._losses(limit))
            case exchange.Delivered(ids):
                self._stored(lambda outbox: outbox.delivered(ids, now_ms=now_ms()))
            case exchange.Reported(report):
                names = [tombstone.id for tombstone in report.tombstones]
                self._stored(lambda outbox: outbox.reported(names, report.incidents))
            case exchange.SetAside(id, reason):
                self._problems.report("cloud", f"will not take segment {id}: {reason}")
                self._stored(lambda outbox: outbox.refused(id, reason, now_ms=now_ms()))
            case exchange.HandOn(message):
                self._hand_on(message)
            case exchange.Warn(line):
                self._problems.report("broker", line)
            case exchange.Wait(until_ms):
                self._wake_ms = until_ms
            case exchange.Hangup():
                self._gone = True
        return None

    # The outbox.

    def _stored(self, work: Callable[[Outbox], Any]) -> None:
        """What cannot be noted now is offered again, and the cloud answers again."""
        outbox = self._outbox()
        if outbox is None:
            return
        try:
            work(outbox)
        except StorageError as error:
            self._problems.report("outbox", error)

    def _peek(self, limit: int, exclude: frozenset[str]) -> list[Any]:
        found: list[Any] = []
        self._stored(lambda box: found.extend(box.peek(limit, now_ms=now_ms(), exclude=exclude)))
        return found

    def _losses(self, limit: int) -> Lost | None:
        reports: list[Lost] = []

        def look(outbox: Outbox) -> None:
            tombstones = tuple(outbox.tombstones(limit))
            incidents = tuple(line[:500] for line in outbox.incidents()[:INCIDENTS])
            if tombstones or incidents:
                id = new_id(now_ms(), secrets.token_bytes(10))
                reports.append(
                    Lost(id=id, session=self._session, tombstones=tombstones, incidents=incidents)
                )

        self._stored(look)
        return reports[0] if reports else None

    # paho.

    def _publish(self, action: exchange.Publish) -> exchange.Event | None:
        if self._client is None:
            return None
        sent = self._client.publish(action.topic, action.payload, qos=1, retain=action.retain)
        if sent.mid in self._early:
            return exchange.Acknowledged(action.token, self._early.pop(sent.mid))
        self._tokens[sent.mid] = action.token
        return None

    def _connect(self, will_topic: str, will: bytes) -> None:
        self._hang_up()
        self._number += 1
        sockets: list[ssl.SSLSocket] = []
        try:
            client = self._new_client(self._number, will_topic, will, sockets)
        except ConfigError as error:
            self._events.put(_Answer(self._number, "failed", (str(error),)))
            return
        self._client = client
        self._silent_ms = monotonic_ms() + round(2000 * self._settings.connect_timeout_s)
        self._connector = threading.Thread(
            target=self._reach, args=(client, self._number, sockets), name="connector", daemon=True
        )
        self._connector.start()

    def _reach(self, client: Client, number: int, sockets: list[ssl.SSLSocket]) -> None:
        """On a thread of its own, because names, TCP and TLS may each take their time."""
        settings = self._settings
        try:
            client.connect(
                settings.host,
                settings.port,
                keepalive=settings.keepalive_s,
                clean_start=True,
                properties=_terms(),
            )
        except (OSError, ValueError) as error:
            for each in sockets:  # paho leaves one open whose handshake failed
                each.close()
            why = self._certificate_problem() or _words(error)
            self._events.put(_Answer(number, "failed", (why,)))
            return
        client.loop_start()

    def _new_client(
        self, number: int, will_topic: str, will: bytes, sockets: list[ssl.SSLSocket]
    ) -> Client:
        """`sockets` will hold those that TLS was begun on."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        settings = self._settings
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._device,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(MAX_WINDOW)
        if settings.ca is not None:
            context = tls_context(settings)
            wrap = context.wrap_socket

            def wrap_and_note(*args: Any, **options: Any) -> ssl.SSLSocket:
                sockets.append(wrap(*args, **options))
                return sockets[-1]

            context.wrap_socket = wrap_and_note  # type: ignore[method-assign]
            client.tls_set_context(context)
        delay = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
        delay.WillDelayInterval = WILL_DELAY_S
        client.will_set(will_topic, will, qos=1, retain=True, properties=delay)
        put = self._events.put
        client.on_connect = lambda _, __, ___, code, properties: put(
            _Answer(number, "connected", (code, properties))
        )
        client.on_disconnect = lambda _, __, ___, code, ____: put(_Answer(number, "gone", (code,)))
        client.on_publish = lambda _, __, mid, code, ____: put(
            _Answer(number, "acknowledged", (mid, code.value))
        )
        client.on_message = lambda _, __, message: put(
            _Answer(number, "message", (message.topic, message.payload))
        )
        return client

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        connector, self._connector = self._connector, None
        self._number += 1  # what it still says is nobody's
        self._since = self._silent_ms = None
        self._tokens.clear()
        self._early.clear()
        if connector is not None:
            connector.join()
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _certificate_problem(self) -> str | None:
        file = self._settings.certificate
        if file is None:
            return None
        try:
            certificate = read_certificate(file.read_bytes())
        except (OSError, ContractError) as error:
            return f"certificate {file}: {error}"
        if certificate.expired(time.time()):
            day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(certificate.expires))
            return (
                f"the device's certificate {file} expired on {day} UTC, by the device's clock:"
                " renew it with vitconformer enrol, or set the clock"
            )
        if time.time() < certificate.begins:
            return f"the device's certificate {file} is not valid yet: set the clock"
        return None


def tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, the broker's name checked. Raises ConfigError naming the file."""
    if settings.ca is None:
        raise ConfigError("broker: ca: is missing")
    try:
        context = ssl.create_default_context(cafile=str(settings.ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker: ca: {settings.ca}: {_words(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate is not None:
        try:
            context.load_cert_chain(settings.certificate, settings.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"broker: certificate: {settings.certificate} with key {settings.key}:"
                f" {_words(error)}"
            ) from error
    return context


def device_of(settings: BrokerSettings) -> str | None:
    """The name in the certificate, None where there is no certificate. Raises ConfigError."""
    if settings.certificate is None:
        return None
    try:
        return read_certificate(settings.certificate.read_bytes()).device
    except (OSError, ContractError) as error:
        raise ConfigError(f"broker: certificate: {settings.certificate}: {error}") from error


def _terms() -> Any:
    """Of a connection, as the device wants them."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_S
    properties.ReceiveMaximum = TAKES_PACKETS
    properties.MaximumPacketSize = TAKES_BYTES
    return properties


def _words(error: BaseException) -> str:
    """What is wrong, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
