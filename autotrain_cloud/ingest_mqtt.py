"""The shell of the ingest: MQTT on one side, the process with the store on the other.

One thread and no locks: packets are collected while the store works on the batches before, so they
grow with the load; a packet is acknowledged after its batch is committed, and what the store wants
published is published then. What the broker may send unacknowledged (Receive Maximum) bounds what
is collected.

While the store is not available nothing is acknowledged, all devices are told to wait by a retained
message, and the same batch is tried again with growing pauses. Every connection begins with a new
client: what the last one had under way is in the store or comes again.
"""

from __future__ import annotations

import logging
import os
import random
import select
import ssl
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from autotrain_cloud.ingest_worker import Begin, Commit, Done, Failed, Unavailable, Worker
from autotrain_cloud.settings import BrokerSettings, CloudSettings
from autotrain_cloud.store.outbox import Outgoing
from edge_runtime.contract.codec import encode
from edge_runtime.contract.messages import IngestState
from edge_runtime.contract.topics import CHANNELS, topic_of
from edge_runtime.errors import ConfigError, StorageError

log = logging.getLogger(__name__)

SESSION_S = 3600  # that the broker keeps packets for a worker that is gone
KEEPALIVE_S = 30
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 30.0  # between tries, of store and broker
TICK_S = 0.5  # between looks at what others want published
WINDOW = 64  # messages of ours without the broker's acknowledgement


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request to the worker."""

    request: Begin | Commit
    ids: list[int]  # of the messages in it
    connection: int  # that they came by


class Shell:
    """Runs until `stop` is called, by a signal handler or another thread."""

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        self._group = settings.ingest.group
        self._worker = Worker(settings)
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False
        self._client: mqtt.Client | None = None
        self._connection = 0  # counts; packets belong to the one they came by
        self._is_up = False
        self._arrived: deque[tuple[int, str, bytes]] = deque()  # message id, topic, payload
        self._begin: Begin | None = None  # to be asked before anything else
        self._asked: deque[_Asked] = deque()  # with the worker, in the order of its replies
        self._failed: list[_Asked] = []  # to be asked again
        self._again_s = 0.0  # then
        self._failures = 0
        self._finished: list[int] = []
        self._outgoing: deque[Outgoing] = deque()
        self._handed: dict[int, int] = {}  # message id -> row
        self._window = WINDOW
        self._state_version = 0
        self._published_state: tuple[bool, str] | None = None
        self._next_tick_s = 0.0
        self._next_connect_s = 0.0
        self._connect_failures = 0
        self._rng = random.Random()

    def stop(self) -> None:
        """What has begun is finished first."""
        self._stopping = True
        os.write(self._wake_write, b".")

    def run(self) -> None:
        """Raises ConfigError for what a person has to change, StorageError if the process with the
        store ends by itself.
        """
        try:
            while not (self._stopping and not self._asked):
                self._step()
            self._send()
        finally:
            self._hang_up()
            self._worker.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    # One turn.

    def _step(self) -> None:
        now_s = time.monotonic()
        if self._client is None and now_s >= self._next_connect_s and not self._stopping:
            self._connect()
        self._ask(now_s)
        self._send()
        client = self._client
        connection = client.socket() if client is not None else None
        reads: list[Any] = [self._wake_read]
        if self._asked:
            reads.append(self._worker)
        writes: list[Any] = []
        has_room = len(self._arrived) < self._settings.ingest.receive_maximum
        if connection is not None and client is not None:
            if has_room:
                reads.append(connection)
            if client.want_write():
                writes.append(connection)
        waits = 0.0 if has_room and _has_more(connection) else self._patience(now_s)
        readable, writable, _ = select.select(reads, writes, [], waits)
        if self._wake_read in readable:
            os.read(self._wake_read, 100)
        if self._worker in readable:
            self._replied()
        if client is not None:
            if connection in readable or (has_room and _has_more(connection)):
                self._read(client)
            if connection in writable:
                client.loop_write()
            client.loop_misc()

    def _patience(self, now_s: float) -> float:
        """Seconds until time alone changes something."""
        times = [now_s + TICK_S]
        if self._is_up and not self._asked and not self._failed:
            times.append(self._next_tick_s)
        if self._failed:
            times.append(self._again_s)
        if self._client is None:
            times.append(self._next_connect_s)
        return max(0.0, min(times) - now_s)

    def _read(self, client: mqtt.Client) -> None:
        """All packets that are there, as far as there is room."""
        limit = self._settings.ingest.receive_maximum
        while len(self._arrived) < limit:
            before = len(self._arrived)
            client.loop_read()
            if len(self._arrived) == before:
                break

    # The store.

    def _ask(self, now_s: float) -> None:
        if self._failed:
            if now_s >= self._again_s and not self._asked:
                again, self._failed = self._failed, []
                for asked in again:
                    self._tell(asked)
            return
        if not self._is_up or self._stopping:
            return
        if self._begin is not None:
            if not self._asked:
                begin, self._begin = self._begin, None
                self._tell(_Asked(begin, [], self._connection))
            return
        claim = now_s >= self._next_tick_s
        size = min(len(self._arrived), self._settings.ingest.batch)
        # One that is judged while another is committed should be worth a commit.
        if len(self._asked) > 1 or (self._asked and 2 * size < self._settings.ingest.batch):
            return
        if not size and not claim:
            return
        if claim:
            self._next_tick_s = now_s + TICK_S
        taken = [self._arrived.popleft() for _ in range(size)]
        finished, self._finished = self._finished, []
        packets = [(topic, payload) for _, topic, payload in taken]
        request = Commit(packets, finished, _now_ms(), claim)
        self._tell(_Asked(request, [id for id, _, _ in taken], self._connection))

    def _tell(self, asked: _Asked) -> None:
        try:
            self._worker.ask(asked.request)
        except EOFError:
            raise StorageError(_WORKER_GONE) from None
        self._asked.append(asked)

    def _replied(self) -> None:
        try:
            reply = self._worker.reply()
        except EOFError:
            raise StorageError(_WORKER_GONE) from None
        asked = self._asked.popleft()
        match reply:
            case Done(outgoing, group):
                self._failures = 0
                if group and not self._group:
                    self._group = group
                    if self._client is not None and self._is_up:
                        self._subscribe(self._client)
                if asked.connection == self._connection and self._client is not None:
                    for id in asked.ids:
                        self._client.ack(id, 1)
                    self._outgoing.extend(outgoing)
                if not self._failed:
                    self._say(True, "")
            case Unavailable(reason):
                bound = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 20))
                self._failures += 1
                pause = self._rng.uniform(bound / 2, bound)
                self._again_s = time.monotonic() + pause
                log.warning("%s; again in %.1f s", reason, pause)
                self._failed.append(asked)  # when this ends, it comes again: it has no receipt
                self._say(False, reason)
            case Failed(reason):
                raise ConfigError(reason)

    # The broker.

    def _connect(self) -> None:
        broker = self._settings.broker
        self._connection += 1
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=self._settings.ingest.worker,
            protocol=mqtt.MQTTv5,
        )  # fmt: skip
        client.manual_ack_set(True)
        client.max_inflight_messages_set(WINDOW)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_publish = self._acknowledged
        client.on_subscribe = self._subscribed
        # With a callback, what is queued is written when we say so, not packet by packet.
        client.on_socket_register_write = lambda *_: None
        if broker.ca is not None:
            client.tls_set_context(_tls(broker))
        terms = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        terms.SessionExpiryInterval = SESSION_S
        terms.ReceiveMaximum = self._settings.ingest.receive_maximum
        self._client = client
        try:
            client.connect(
                broker.host, broker.port, KEEPALIVE_S, clean_start=False, properties=terms
            )
        except OSError as error:
            log.warning("%s:%d: %s", broker.host, broker.port, error)
            self._lost()

    def _connected(
        self, client: mqtt.Client, _: Any, flags: mqtt.ConnectFlags, code: Any, terms: Any
    ) -> None:
        if code.is_failure:
            log.warning("the broker refuses the connection: %s", code)
            return  # it hangs up
        self._connect_failures = 0
        self._window = min(WINDOW, getattr(terms, "ReceiveMaximum", 65_535))
        self._published_state = None
        if self._group:  # else the store says it
            self._subscribe(client)
        log.info("connected; the broker %s us", "knew" if flags.session_present else "forgot")
        self._begin = Begin(_now_ms(), not flags.session_present)
        self._is_up = True

    def _subscribe(self, client: mqtt.Client) -> None:
        client.subscribe([(each, SubscribeOptions(qos=1)) for each in filters(self._group)])

    def _subscribed(self, _: mqtt.Client, __: Any, ___: int, codes: list[Any], *____: Any) -> None:
        for code in codes:
            if code.is_failure:
                log.error("the broker refuses a subscription: %s: check its rules", code)

    def _disconnected(self, client: mqtt.Client, *_: Any) -> None:
        if client is self._client:
            log.warning("the connection to the broker is gone")
            self._lost()

    def _lost(self) -> None:
        self._hang_up()
        bound = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._connect_failures, 20))
        self._connect_failures += 1
        self._next_connect_s = time.monotonic() + self._rng.uniform(0, bound)

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        self._is_up = False
        self._arrived.clear()
        self._outgoing.clear()
        self._handed.clear()
        if client is not None:
            client.disconnect()
            client.loop_write()

    def _received(self, _client: mqtt.Client, _: Any, message: mqtt.MQTTMessage) -> None:
        self._arrived.append((message.mid, message.topic, bytes(message.payload)))

    def _acknowledged(self, _: mqtt.Client, __: Any, id: int, code: Any, *___: Any) -> None:
        number = self._handed.pop(id, None)
        if number is None:
            return
        if code.is_failure:
            log.error("the broker refuses what is to be published: %s: check its rules", code)
        else:
            self._finished.append(number)

    def _send(self) -> None:
        client = self._client
        if client is None or not self._is_up:
            return
        while self._outgoing and len(self._handed) < self._window:
            out = self._outgoing.popleft()
            info = client.publish(out.topic, out.payload, 1, out.retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break  # the connection is gone; the row stays
            self._handed[info.mid] = out.number
        if client.want_write():
            client.loop_write()

    def _say(self, accepting: bool, reason: str) -> None:
        """Tells all devices, if it is something new."""
        if self._client is None or not self._is_up:
            return
        if self._published_state == (accepting, reason):
            return
        self._state_version = max(self._state_version + 1, _now_ms())
        state = IngestState(
            accepting=accepting,
            version=self._state_version,
            segments_per_minute=self._settings.ingest.segments_per_minute,
            reason=reason.encode("ascii", "replace").decode()[:400],
        )
        self._client.publish(topic_of("ingest"), encode(state), 1, True)
        self._published_state = (accepting, reason)


def filters(group: str) -> list[str]:
    """What a worker subscribes to. Retained messages do not come by shared subscriptions, so every
    worker hears of every device's presence."""
    said = [each for each in CHANNELS.values() if each.writer == "device"]
    return [each.filter if each.retained else each.shared(group) for each in said]


def _has_more(connection: Any) -> bool:
    """Whether TLS has bytes for us that the socket below it no longer has."""
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0


def _tls(broker: BrokerSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(broker.ca))
        if broker.certificate is not None and broker.key is not None:
            context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker: ca, certificate or key cannot be read: {error}") from error
    return context


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_WORKER_GONE = "the process with the store has ended; its last words are above"
