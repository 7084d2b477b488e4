"""The uplink's shell at a real broker: windows, parts, hostile messages, goodbyes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_runtime.agent.config import BrokerSettings
from edge_runtime.agent.mqtt import Link, device_of, tls_context
from edge_runtime.agent.outbox import Outbox
from edge_runtime.agent.problems import Problems
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import (
    Birth,
    Command,
    Consent,
    Death,
    Erase,
    IngestState,
    Lost,
    Message,
    Part,
    Receipt,
    Segment,
)
from edge_runtime.contract.parts import Assembly
from edge_runtime.contract.topics import topic_of
from edge_runtime.errors import ConfigError
from tests.broker import MOSQUITTO, Broker
from tests.edge_runtime.agent.device import wait_until
from tests.edge_runtime.agent.test_uplink import segments, telemetry

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="Debian: apt install mosquitto")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    more = "max_inflight_messages 10\nmax_packet_size 20000\n"
    with Broker.start(folder, more) as running:
        yield running


class Cloud:
    """Receipts for everything, and what it heard."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[Message] = []
        self.answers = True
        self._assemblies: dict[str, Assembly] = {}
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="cloud", protocol=mqtt.MQTTv5
        )
        self.client.tls_set_context(broker.tls("_ingest"))
        self.client.on_message = self._received
        subscribed = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe("fl/v1/+/up/#", 1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect(broker.host, broker.service_port)
        self.client.loop_start()
        assert subscribed.wait(300)
        self.say("ingest", None, IngestState(accepting=True, version=1), retain=True)

    def say(
        self, channel: str, device: str | None, message: Message | bytes, *, retain: bool = False
    ) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        self.client.publish(topic_of(channel, device), payload, 1, retain).wait_for_publish(300)

    def _received(self, _: Any, __: Any, packet: mqtt.MQTTMessage) -> None:
        device = packet.topic.split("/")[2]
        message: Message = decode(packet.payload)
        if isinstance(message, Part):
            whole = self._assemblies.setdefault(message.id, Assembly(message)).add(message)
            if whole is None:
                return
            message = decode(whole)
        self.heard.append(message)
        if isinstance(message, Segment | Lost) and self.answers:
            receipt = encode(Receipt(ids=(message.id,)))
            self.client.publish(topic_of("receipt", device), receipt, 1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="module")
def cloud(broker: Broker) -> Iterator[Cloud]:
    made = Cloud(broker)
    yield made
    made.close()


class Kit:
    """A link with an outbox."""

    def __init__(self, folder: Path, settings: BrokerSettings, device: str) -> None:
        self.outbox = Outbox.open(folder, quota_bytes=100_000_000)
        self.problems = Problems()
        self.handed: list[Message] = []
        self.link = Link(
            settings, device=device, session=3, outbox=lambda: self.outbox,
            birth=lambda: Birth(
                session=3, connected_ms=0, clock_is_set=True, agent="1", model=None
            ),
            hand_on=self.handed.append, problems=self.problems,
        )  # fmt: skip

    def __enter__(self) -> Kit:
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop(300)
        self.outbox.close()


def settings_of(broker: Broker, device: str, **more: Any) -> BrokerSettings:
    certificate, key = broker.identity(device)
    options: dict[str, Any] = {"host": broker.host, "port": broker.port, "ca": broker.ca}
    return BrokerSettings(**{**options, "certificate": certificate, "key": key, **more})


def test_a_full_outbox_arrives_through_a_narrow_broker(
    broker: Broker, cloud: Cloud, tmp_path: Path
) -> None:
    items = [*segments(60), *segments(63, size=50_000)[60:]]
    with Kit(tmp_path, settings_of(broker, "narrow-1"), "narrow-1") as kit:
        for item in items:
            assert kit.outbox.put(item, now_ms=1) == "kept"
        kit.link.wake()
        wait_until(lambda: not kit.outbox.stats().queued)
        assert {kit.outbox.fate(item.id) for item in items} == {"delivered"}
        arrived = [each.id for each in cloud.heard if isinstance(each, Segment)]
        assert sorted(arrived) == sorted(item.id for item in items)
        assert kit.problems.current() == {}
    wait_until(lambda: Death(session=3, graceful=True) in cloud.heard)
    assert "exceeded" not in broker.log
    assert "packet too large" not in broker.log.lower()


def test_losses_and_messages_arrive_and_the_losses_are_reported_once(
    broker: Broker, cloud: Cloud, tmp_path: Path
) -> None:
    with Kit(tmp_path, settings_of(broker, "lossy-1"), "lossy-1") as kit:
        for item in segments(5):
            kit.outbox.put(item, now_ms=1)
        kit.outbox.erase(segments=[item.id for item in segments(5)], now_ms=5)
        # Erased ones are reported too: the cloud may already know of them.
        kit.link.say(telemetry(41))
        wait_until(lambda: telemetry(41) in cloud.heard)
        wait_until(lambda: not kit.outbox.stats().unreported)
        [report] = [each for each in cloud.heard if isinstance(each, Lost)]
        assert {each.id for each in report.tombstones} == {item.id for item in segments(5)}


def test_what_the_cloud_says_is_handed_on_and_what_it_must_not_say_is_dropped(
    broker: Broker, cloud: Cloud, tmp_path: Path
) -> None:
    with Kit(tmp_path, settings_of(broker, "ear-1"), "ear-1") as kit:
        wait_until(lambda: kit.link.status()["state"] == "up")
        consent = Consent(id="c", version=1, granted=True, from_ms=0)
        erase = Erase(id="1" * 32, consents=("c",))
        command = Command(id="2" * 32, name="report", issued_ms=0, expires_ms=1)
        cloud.say("command", "ear-1", b"\xbf\xff not a message")
        cloud.say("command", "ear-1", consent)  # not on this topic
        cloud.say("consent", "ear-1", consent, retain=True)
        cloud.say("erase", "ear-1", erase)
        cloud.say("command", "ear-1", command)
        wait_until(lambda: len(kit.handed) == 3)
        assert set(map(type, kit.handed)) == {Consent, Erase, Command}
        assert "dropped what the cloud must not send" in kit.problems.current()["messages"]


def test_a_broker_that_is_killed_is_found_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "broker").mkdir()
    with (
        Broker.start(tmp_path / "broker") as broker,
        Kit(tmp_path / "device", settings_of(broker, "again-1"), "again-1") as kit,
    ):
        wait_until(lambda: kit.link.status()["state"] == "up")
        broker.kill()
        wait_until(lambda: "broker" in kit.problems.current())
        broker.restart(forget=True)
        wait_until(lambda: kit.link.status()["state"] == "up")
        assert kit.problems.current() == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ca": "other"}, "the broker's certificate is not accepted"),
        ({"host": "nowhere.invalid"}, "its name cannot be resolved"),
        ({"ca": None, "certificate": None, "key": None}, ""),
    ],
)
def test_a_connection_that_cannot_be_is_a_line_that_says_why(
    change: dict[str, Any], expected: str, broker: Broker, tmp_path: Path
) -> None:
    if change.get("ca") == "other":
        change = {"ca": broker.authority.trusted("devices")}
    settings = settings_of(broker, "sad-1", **change)
    with Kit(tmp_path, settings, "sad-1") as kit:
        wait_until(lambda: "broker" in kit.problems.current())
        assert expected in kit.problems.current()["broker"]
        assert f"{settings.host}:{settings.port}" in kit.problems.current()["broker"]


def test_a_host_that_takes_connections_and_says_nothing_is_given_up(
    broker: Broker, tmp_path: Path
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = BrokerSettings(
            host="127.0.0.1", port=mute.getsockname()[1], connect_timeout_s=0.3
        )
        begin = time.monotonic()
        with Kit(tmp_path, settings, "sad-2") as kit:
            wait_until(lambda: "broker" in kit.problems.current())
            assert "does not answer" in kit.problems.current()["broker"]
        assert time.monotonic() - begin < 290


def test_certificates_that_are_none_are_mistakes_in_the_settings(
    broker: Broker, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    for change in ({"ca": bad}, {"certificate": bad}, {"ca": tmp_path / "none.pem"}):
        with pytest.raises(ConfigError, match="broker: "):
            tls_context(settings_of(broker, "sad-3", **change))
    with pytest.raises(ConfigError, match="broker: certificate"):
        device_of(settings_of(broker, "sad-3", certificate=bad))
    assert device_of(settings_of(broker, "sad-3")) == "sad-3"
