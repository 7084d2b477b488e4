"""What a valid certificate may do at the real broker, and what nobody may do without one."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotrain_cloud.ca import Authority
from edge_runtime.agent.uplink import PACKET_OVERHEAD
from edge_runtime.contract.codec import MAX_PACKET_BYTES
from edge_runtime.contract.topics import CHANNELS, topic_of
from tests.broker import Broker, new_identity
from tests.deploy.client import NOT_AUTHORIZED, SUCCESS, Client, Refused

# Somebody who sees and may do everything, without a certificate: for the tests to look with.
EVERYTHING = "\nlistener {plain_port} 127.0.0.1\nallow_anonymous true\n"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker.start(tmp_path_factory.mktemp("broker"), EVERYTHING) as broker:
        yield broker


@pytest.fixture
def kitchen(broker: Broker) -> Iterator[Client]:
    with Client(broker, "kitchen") as client:
        yield client


@pytest.fixture
def bath(broker: Broker) -> Iterator[Client]:
    """A device with a valid certificate and bad intentions."""
    with Client(broker, "bath") as client:
        yield client


@pytest.fixture
def observer(broker: Broker) -> Iterator[Client]:
    with Client(broker, None) as client:
        client.subscribe("#", "$SYS/attack/#", "$CONTROL/#")
        client.publish("begin", b"begin")
        client.until(b"begin")
        yield client


def test_a_device_says_what_it_has_to_say_and_hears_what_is_for_it(
    broker: Broker, kitchen: Client
) -> None:
    with Client(broker, "_ingest", id="worker-1") as ingest:
        assert ingest.subscribe(CHANNELS["segment"].shared("workers")) == [1]
        assert kitchen.publish(topic_of("segment", "kitchen"), b"segment") == SUCCESS
        assert ingest.received() == ("fl/v1/kitchen/up/segment", b"segment")
        kitchen.subscribe(topic_of("receipt", "kitchen"), topic_of("ingest"))
        assert ingest.publish(topic_of("receipt", "kitchen"), b"receipt") == SUCCESS
        assert ingest.publish(topic_of("ingest"), b"state", retain=True) == SUCCESS
        assert kitchen.received() == ("fl/v1/kitchen/down/receipt", b"receipt")
        assert kitchen.received() == ("fl/v1/_ingest/state", b"state")


@pytest.mark.parametrize("channel", [c.name for c in CHANNELS.values() if c.writer == "device"])
def test_every_channel_of_a_device_is_open_to_it(kitchen: Client, channel: str) -> None:
    assert kitchen.publish(topic_of(channel, "kitchen")) == SUCCESS


@pytest.mark.parametrize(
    "topic",
    [
        *(topic_of(c.name, "kitchen") for c in CHANNELS.values() if "+" in c.path),
        *(topic_of(c.name, "bath") for c in CHANNELS.values() if c.path.startswith("+/down")),
        topic_of("ingest"),
        "fl/v1/_ota/hint",
        "fl/v1/bath",
        "fl/v1/bath/down/up/segment",
        "fl/v1//up/segment",
        "fl/v1/bath/../kitchen/up/segment",
        "/fl/v1/bath/up/segment",
        "fl/v2/bath/up/segment",
        "fl/v1/BATH/up/segment",
        "fl/v1/%u/up/segment",
        "anything",
        "$SYS/attack/uptime",
        "$CONTROL/dynamic-security/v1",
    ],
)
def test_a_forged_topic_is_refused_and_nothing_is_delivered(
    broker: Broker, bath: Client, observer: Client, topic: str
) -> None:
    for retain in (False, True):
        if topic.startswith("$CONTROL"):
            bath.publish(topic, b"forged", retain=retain)  # the broker's own, to nobody
        else:
            assert bath.publish(topic, b"forged", retain=retain) == NOT_AUTHORIZED
    bath.publish(topic_of("telemetry", "bath"), b"end")
    assert observer.until(b"end") == []
    with Client(broker, None) as later:  # nothing was retained
        later.subscribe(topic)
        later.subscribe("mark")
        later.publish("mark", b"end")
        assert b"forged" not in [payload for _, payload in later.until(b"end")]


@pytest.mark.parametrize(
    "foreign",
    [
        "fl/v1/kitchen/down/#",
        "fl/v1/kitchen/up/#",
        "fl/v1/+/down/receipt",
        "fl/v1/+/up/segment",
        "fl/v1/bath/up/#",
        "fl/v1/#",
        "#",
        "+/v1/#",
        "$share/mine/fl/v1/+/up/#",
        "$share/mine/fl/v1/+/down/#",
    ],
)
def test_a_foreign_subscription_gets_nothing(
    broker: Broker, kitchen: Client, bath: Client, observer: Client, foreign: str
) -> None:
    bath.subscribe(foreign, topic_of("command", "bath"))
    observer.publish(topic_of("consent", "kitchen"), b"retained", retain=True)
    kitchen.publish(topic_of("segment", "kitchen"), b"segment")
    bath.publish(topic_of("segment", "bath"), b"its own")
    observer.publish(topic_of("receipt", "kitchen"), b"receipt")
    bath.subscribe(foreign)  # once more, for what is retained
    observer.publish(topic_of("command", "bath"), b"end")
    assert {topic for topic, _ in bath.until(b"end")} <= {topic_of("ingest")}  # which all may read
    observer.publish(topic_of("consent", "kitchen"), b"", retain=True)


def test_system_topics_are_not_for_devices(bath: Client, observer: Client) -> None:
    bath.subscribe("$SYS/#", topic_of("command", "bath"))
    observer.publish(topic_of("command", "bath"), b"end")
    assert bath.until(b"end") == []


def test_what_another_device_had_retained_cannot_be_cleared(
    broker: Broker, kitchen: Client, bath: Client
) -> None:
    presence = topic_of("presence", "kitchen")
    kitchen.publish(presence, b"birth", retain=True)
    assert bath.publish(presence, b"", retain=True) == NOT_AUTHORIZED
    with Client(broker, "_watch", id="w") as watch:
        watch.subscribe(presence)
        assert watch.received() == (presence, b"birth")


def test_a_will_is_published_for_the_device_itself_only(broker: Broker, observer: Client) -> None:
    own, foreign = topic_of("presence", "cellar"), topic_of("presence", "kitchen")
    Client(broker, "cellar", will=(own, b"own will")).drop()
    assert observer.received() == (own, b"own will")
    with contextlib.suppress(Refused):
        Client(broker, "cellar", will=(foreign, b"foreign will")).drop()
    with Client(broker, "cellar") as cellar:  # the broker is done with the one before
        cellar.publish(topic_of("telemetry", "cellar"), b"end")
    assert observer.until(b"end") == []


@pytest.mark.parametrize("known", [False, True])
def test_who_does_not_know_the_group_of_the_workers_takes_nothing_from_it(
    broker: Broker, kitchen: Client, bath: Client, known: bool
) -> None:
    """Mosquitto lets anybody into a group, deals to him, too, and then refuses him the message."""
    group = secrets.token_hex(16)
    with Client(broker, "_ingest", id="worker-1") as ingest:
        ingest.subscribe(CHANNELS["segment"].shared(group), topic_of("ingest"))
        bath.subscribe(CHANNELS["segment"].shared(group if known else "ingest"))
        for number in range(20):
            kitchen.publish(topic_of("segment", "kitchen"), bytes([number]))
        ingest.publish(topic_of("ingest"), b"end")
        segments = [payload for topic, payload in ingest.until(b"end") if "segment" in topic]
    assert (len(segments) == 20) != known  # why the group's name is a secret


def test_a_client_id_is_the_certificates_whatever_the_client_says(
    broker: Broker, kitchen: Client
) -> None:
    with Client(broker, "bath", id="kitchen") as bath:
        assert kitchen.publish(topic_of("telemetry", "kitchen")) == SUCCESS
        assert bath.publish(topic_of("telemetry", "kitchen")) == NOT_AUTHORIZED
        assert bath.publish(topic_of("telemetry", "bath")) == SUCCESS
    assert kitchen.ended is None


def test_the_same_device_twice_is_a_takeover(broker: Broker) -> None:
    first = Client(broker, "attic")
    with Client(broker, "attic") as second:
        first.wait_for_end()
        first.drop()
        assert second.publish(topic_of("telemetry", "attic")) == SUCCESS


def context_of(broker: Broker, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(broker.ca))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def test_who_has_no_certificate_of_a_device_is_refused(
    broker: Broker, kitchen: Client, tmp_path: Path
) -> None:
    foreign = new_identity(Authority.create(tmp_path / "foreign"), "kitchen")
    expired = new_identity(broker.authority, "old", days=-1 / 24)
    server = broker.authority.server(["kitchen"])
    contexts = [context_of(broker, None, None), broker.tls("_ingest")]
    for number, made in enumerate((foreign, expired, server)):
        certificate, key = tmp_path / f"{number}.pem", tmp_path / f"{number}.key"
        certificate.write_bytes(made.certificate)
        key.write_bytes(made.key)
        contexts.append(context_of(broker, certificate, key))
    for context in contexts:
        with pytest.raises(Refused):
            Client(broker, "kitchen", context=context)
    assert kitchen.publish(topic_of("telemetry", "kitchen")) == SUCCESS


def test_a_device_is_refused_where_services_connect(broker: Broker) -> None:
    with pytest.raises(Refused):
        Client(broker, "kitchen", port=broker.service_port)


def test_older_versions_of_tls_are_refused(broker: Broker) -> None:
    for port, name in ((broker.port, "kitchen"), (broker.service_port, "_ingest")):
        context = broker.tls(name)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection((broker.host, port), timeout=20) as line,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(line, server_hostname=broker.host).close()


def test_a_connection_without_tls_gets_no_answer(broker: Broker) -> None:
    with socket.create_connection((broker.host, broker.port), timeout=20) as line:
        answer = b""
        with contextlib.suppress(OSError):
            line.sendall(bytes.fromhex("101000044d515454050200000000036162630a"))
            line.shutdown(socket.SHUT_WR)
            answer = line.recv(100)
        assert not answer.startswith(b"\x20")  # no CONNACK; an alert of TLS at most


def test_a_revoked_device_is_refused_after_a_reload_and_others_are_not(
    broker: Broker, kitchen: Client
) -> None:
    Client(broker, "shed").close()
    broker.authority.revoke("shed")
    broker.reload()
    with pytest.raises(Refused):
        Client(broker, "shed")
    Client(broker, "barn").close()
    assert kitchen.publish(topic_of("telemetry", "kitchen")) == SUCCESS


def test_a_new_root_of_devices_is_taken_in_while_the_broker_runs(tmp_path: Path) -> None:
    with Broker.start(tmp_path) as broker:
        broker.identity("old"), broker.identity("bad")
        broker.authority.rotate("devices")
        broker.reload()
        for name in ("old", "bad", "new"):
            Client(broker, name).close()
        broker.authority.revoke("bad")
        broker.reload()
        with pytest.raises(Refused):
            Client(broker, "bad")
        Client(broker, "old").close()
        broker.authority.retire("devices")
        broker.reload()
        with pytest.raises(Refused):
            Client(broker, "old")
        Client(broker, "new").close()


def test_the_largest_packet_of_the_contract_passes_and_a_larger_one_ends_its_sender(
    broker: Broker, kitchen: Client, observer: Client
) -> None:
    topic = topic_of("segment", "kitchen")
    with Client(broker, "_watch", id="w") as watch:
        watch.subscribe(topic)
        assert kitchen.publish(topic, b"x" * MAX_PACKET_BYTES) == SUCCESS
        assert len(watch.received()[1]) == MAX_PACKET_BYTES
    with Client(broker, "bath") as bath:
        size = MAX_PACKET_BYTES + PACKET_OVERHEAD
        bath.publish(topic_of("segment", "bath"), b"x" * size)
        assert bath.wait_for_end() != SUCCESS
        bath.drop()
    kitchen.publish(topic, b"end")
    assert observer.until(b"end")[1:] == []


def test_services_have_their_own_rights_and_no_more(broker: Broker, observer: Client) -> None:
    rights: dict[str, set[str]] = {
        "_ingest": {channel.name for channel in CHANNELS.values() if channel.writer == "cloud"},
        "_watch": set(),
        "_unknown": set(),
    }
    for name, may in rights.items():
        with Client(broker, name, id=name) as service:
            for channel in CHANNELS.values():
                topic = topic_of(channel.name, "kitchen" if "+" in channel.path else None)
                code = service.publish(topic, b"")
                assert (code == SUCCESS) == (channel.name in may), (name, topic)


def test_a_killed_broker_comes_back_at_its_ports_with_or_without_its_memory(
    tmp_path: Path,
) -> None:
    with Broker.start(tmp_path) as broker:
        topic = topic_of("presence", "kitchen")
        with Client(broker, "kitchen") as kitchen:
            kitchen.publish(topic, b"birth", retain=True)
        broker.restart()  # in peace: everything is saved
        broker.kill()
        broker.restart()
        with Client(broker, "_watch", id="w") as watch:
            watch.subscribe(topic)
            assert watch.received() == (topic, b"birth")
        broker.restart(forget=True)
        with Client(broker, "_watch", id="w") as watch, Client(broker, "kitchen") as kitchen:
            watch.subscribe("fl/v1/+/up/#")
            kitchen.publish(topic_of("telemetry", "kitchen"), b"end")
            assert watch.until(b"end") == []
