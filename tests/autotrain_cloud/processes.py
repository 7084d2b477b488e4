"""The ingest as its own process, and devices that send until they have their receipts."""

from __future__ import annotations

import itertools
import queue
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from autotrain_cloud.settings import StoreSettings
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import IngestState, Message, Nack, Receipt, Segment
from edge_runtime.contract.topics import channel_of, topic_of
from tests.broker import Broker

PATIENCE_S = 60
_NUMBERS = itertools.count()


def wait_until(what: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class IngestProcess:
    """`vitconformer cloud ingest`, really."""

    def __init__(self, broker: Broker, store: StoreSettings, folder: Path, **ingest: Any) -> None:
        certificate, key = broker.identity("_ingest")
        # A worker that is gone keeps its share of the group's messages for an hour.
        own = f'"t{next(_NUMBERS)}"'
        settings = {"check_consent": False, "worker": own, "group": own} | ingest
        lines = [
            "[store]", f'url = "{store.url}"', f'blobs = "{store.blobs}"',
            "[broker]", f'host = "{broker.host}"', f"port = {broker.service_port}",
            f'ca = "{broker.ca}"', f'certificate = "{certificate}"', f'key = "{key}"',
            "[ingest]",
            *(f"{name} = {str(value).lower()}" for name, value in settings.items()),
        ]  # fmt: skip
        self._config = folder / "cloud.toml"
        self._config.write_text("\n".join(lines) + "\n", "utf-8")
        self._log = folder / "ingest.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime", "cloud", "ingest", "--verbose",
                 "--config", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it takes messages."""
        wait_until(lambda: "subscribed" in self.log)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def worker_pid(self) -> int:
        """Of the process that has the store."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait_until(lambda: children.read_text().split())
        return int(children.read_text().split()[0])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> IngestProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.close()


class Device:
    """Sends segments again and again until each has a receipt or a nack for good."""

    def __init__(
        self, broker: Broker, name: str, resend_s: float = 1.0, patience_s: float = PATIENCE_S
    ) -> None:
        self.name = name
        self._resend_s = resend_s
        self._patience_s = patience_s  # without any answer
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5
        )
        self._client.tls_set_context(_context(broker, name))
        self._client.on_connect = self._connected
        self._client.on_message = self._received
        self._client.reconnect_delay_set(1, 2)
        self.heard: queue.Queue[Message] = queue.Queue()
        self.states: list[IngestState] = []
        self.others: list[Message] = []
        self._is_connected = threading.Event()
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        assert self._is_connected.wait(PATIENCE_S)

    def _connected(self, client: mqtt.Client, *_: Any) -> None:
        down = [topic_of(channel, self.name) for channel in ("receipt", "consent", "erase")]
        client.subscribe([(topic, 1) for topic in (*down, topic_of("ingest"))])
        self._is_connected.set()

    def _received(self, _: mqtt.Client, __: Any, message: mqtt.MQTTMessage) -> None:
        found = decode(bytes(message.payload))
        if isinstance(found, IngestState):
            self.states.append(found)
        elif isinstance(found, Receipt | Nack):
            self.heard.put(found)
        else:
            self.others.append(found)

    def say(self, message: Message) -> None:
        self._client.publish(
            topic_of(channel_of(message).name, self.name), encode(message), 1,
            channel_of(message).retained,
        )  # fmt: skip

    def say_bytes(self, channel: str, payload: bytes) -> None:
        self._client.publish(topic_of(channel, self.name), payload, 1)

    def share(self, group: str) -> None:
        """Joins the workers of a group, to swallow what is for them."""
        self._client.subscribe(f"$share/{group}/fl/v1/+/up/segment", 1)

    def deliver(
        self,
        segments: Iterable[Segment],
        on_receipt: Callable[[str], None] = lambda id: None,
        window: int = 20,
    ) -> list[Nack]:
        """Returns when all are answered; what was refused for good."""
        waiting = {each.id: each for each in segments}
        sent: dict[str, float] = {}
        refused = []
        deadline = time.monotonic() + self._patience_s
        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} segments have no receipt"
            now = time.monotonic()
            sent = {id: at for id, at in sent.items() if at > now - self._resend_s}
            for id in [id for id in waiting if id not in sent][: window - len(sent)]:
                self.say(waiting[id])
                sent[id] = now
            try:
                answer = self.heard.get(timeout=0.1)
            except queue.Empty:
                continue
            deadline = time.monotonic() + self._patience_s
            for id in answer.ids if isinstance(answer, Receipt) else ():
                if id in waiting:
                    on_receipt(id)
                    del waiting[id]
                sent.pop(id, None)
            if isinstance(answer, Nack) and answer.permanent:
                refused.append(answer)
                waiting.pop(answer.id, None)
                sent.pop(answer.id, None)
        return refused

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _context(broker: Broker, name: str) -> ssl.SSLContext:
    return broker.tls(name)


def limit_files(pid: int, size: int) -> None:
    """No file of this process may grow beyond so many bytes: to it, the disk is full."""
    import resource

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def has_ended(pid: int) -> bool:
    """A process that is not our child, so nobody waits for it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"
