"""The benchmark's MQTT 5 against the bytes of the standard."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import mqtt5


class Recorder:
    """A handler that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def connected(self, code: int, properties: dict[int, int]) -> None:
        self.told.append(("connected", code, properties))

    def acknowledged(self, packet_id: int, code: int) -> None:
        self.told.append(("acknowledged", packet_id, code))

    def received(self, topic: str, payload: bytes) -> None:
        self.told.append(("received", topic, payload))

    def lost(self, reason: str) -> None:
        self.told.append(("lost", reason))


def fed(*pieces: bytes) -> list[tuple[object, ...]]:
    """What a link tells that is fed with these."""
    handler = Recorder()
    link = mqtt5.Link(handler, b"", 60)
    for piece in pieces:
        link.data_received(piece)
    return handler.told


def test_packets_are_those_of_the_standard() -> None:
    will = ("w", b"gone")
    assert mqtt5.connect(client_id="d", will=will, keepalive_s=120).hex(" ") == (
        "10 18 00 04 4d 51 54 54 05 2e 00 78 00 00 01 64 00 00 01 77 00 04 67 6f 6e 65"
    )
    assert mqtt5.publish(10, "a/b", b"xy").hex(" ") == "32 0a 00 03 61 2f 62 00 0a 00 78 79"
    assert mqtt5.publish(1, "a", b"", retain=True)[0] == 0x33
    assert mqtt5.subscribe(2, ["a", "b"]).hex(" ") == "82 0b 00 02 00 00 01 61 01 00 01 62 01"
    assert len(mqtt5.publish(1, "a", bytes(200))) == 1 + 2 + 206


def test_what_a_broker_says_is_told() -> None:
    # CONNACK with Receive Maximum 20, Topic Alias Maximum 10, Maximum Packet Size 120512 and a text
    connack = bytes.fromhex("20 16 00 00 13 21 0014 22 000a 27 0001d6c0 1f 0002 6f6b 13 003c")
    assert fed(connack) == [("connected", 0, {0x21: 20, 0x22: 10, 0x27: 120_512, 0x13: 60})]
    assert fed(bytes.fromhex("40 02 0007"), bytes.fromhex("40 04 0008 87 00")) == [
        ("acknowledged", 7, 0),
        ("acknowledged", 8, 0x87),
    ]
    assert fed(bytes.fromhex("90 04 0001 00 01"), bytes.fromhex("d0 00")) == []
    assert fed(mqtt5.publish(3, "t", b"p")) == [("received", "t", b"p")]
    assert fed(bytes.fromhex("e0 02 8e 00")) == [("lost", "the broker says 0x8e")]


@given(st.lists(st.integers(1, 400), max_size=30), st.binary(max_size=500), st.text(max_size=20))
def test_it_does_not_matter_how_the_bytes_are_cut(
    cuts: list[int], payload: bytes, topic: str
) -> None:
    data = mqtt5.publish(1, topic, payload) + mqtt5.puback(9) + mqtt5.publish(2, topic, b"")
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start : start + cut])
        start += cut
    told = fed(*pieces, data[start:])
    assert told == [("received", topic, payload), ("acknowledged", 9, 0), ("received", topic, b"")]


@given(st.binary(max_size=60))
def test_nonsense_ends_the_connection_and_raises_nothing(data: bytes) -> None:
    told = fed(data)
    assert [kind for kind, *_ in told].count("lost") <= 1


@pytest.mark.parametrize("data", ["f000", "20ffffffff7f", "2002", "30050003ff0000", "2003000001"])
def test_what_is_no_mqtt_is_a_protocol_error_or_waited_for(data: str) -> None:
    told = fed(bytes.fromhex(data))
    assert told == [] or "protocol error" in str(told[-1])


def test_a_connection_that_never_was_is_lost_once() -> None:
    handler = Recorder()
    link = mqtt5.Link(handler, b"", 60)
    link.end("no connection")
    link.connection_lost(None)
    assert handler.told == [("lost", "no connection")]


def test_silence_is_filled_with_pings_and_a_broken_line_is_told() -> None:
    async def scene() -> tuple[bytes, list[tuple[object, ...]]]:
        heard = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while b"\xc0\x00" not in heard:
                heard.extend(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        handler = Recorder()
        link = mqtt5.Link(handler, b"hello", keepalive_s=0.05)
        await asyncio.get_running_loop().create_connection(lambda: link, "127.0.0.1", port)
        while not handler.told:
            await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()
        return bytes(heard), handler.told

    heard, told = asyncio.run(scene())
    assert heard.startswith(b"hello") and heard.endswith(mqtt5.PINGREQ)
    assert told == [("lost", "closed by the broker")]
