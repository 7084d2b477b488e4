"""A topic says who speaks; nothing but a device's own name can be put there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.contract.messages import MESSAGES, Death
from edge_runtime.contract.topics import CHANNELS, channel_of, parse_topic, topic_of
from edge_runtime.errors import ContractError

devices = st.from_regex("(?a:[A-Za-z0-9][A-Za-z0-9._-]{0,63})", fullmatch=True)


@given(st.sampled_from(sorted(CHANNELS)), devices)
def test_a_topic_is_read_as_it_was_built(name: str, device: str) -> None:
    channel = CHANNELS[name]
    expected = device if "+" in channel.path else None
    assert parse_topic(topic_of(name, expected)) == (channel, expected)


HOSTILE = ["", "+", "#", "a/b", "a/up", "../x", "$SYS", "_ingest", "-a", ".a", "a b", "a\0", "a\n"]
HOSTILE += ["é", "а", "a" * 65, "a+", "a#", "１", "\ud800"]  # noqa: RUF001  Cyrillic, full width


@pytest.mark.parametrize("device", [*HOSTILE, 3, b"a"], ids=ascii)
def test_a_hostile_device_gets_no_topic(device: str) -> None:
    with pytest.raises(ContractError, match="device"):
        topic_of("segment", device)
    if isinstance(device, str):
        with pytest.raises(ContractError):
            parse_topic(f"fl/v1/{device}/up/segment")


@given(st.text(st.sampled_from("flv1/_+#$ingestateupdownsegment.\0é"), max_size=40) | st.text())
@settings(max_examples=500)
def test_any_other_topic_is_refused(topic: str) -> None:
    try:
        channel, device = parse_topic(topic)
    except ContractError:
        return
    assert topic_of(channel.name, device) == topic


@pytest.mark.parametrize(
    "topic",
    [
        "fl/v1/+/up/segment",
        "fl/v1/_ingest/down/receipt",
        "fl/v2/a/up/segment",
        "fl/v1/a/up/segment/",
        "/fl/v1/a/up/segment",
        "fl/v1/a//up/segment",
        "$share/g/fl/v1/+/up/segment",
        None,
        b"fl/v1",
    ],
)
def test_filters_and_neighbours_are_no_topics(topic: object) -> None:
    with pytest.raises(ContractError, match=r"topic|device"):
        parse_topic(topic)


def test_a_device_can_only_write_below_up_and_the_cloud_only_elsewhere() -> None:
    for channel in CHANNELS.values():
        assert channel.path.startswith("+/up/") == (channel.writer == "device"), channel.name


def test_every_message_has_one_channel_and_every_channel_messages() -> None:
    carried = [kind for channel in CHANNELS.values() for kind in channel.carries]
    assert sorted(kind.type for kind in carried) == sorted(MESSAGES)
    assert channel_of(Death(session=1)) is CHANNELS["presence"]


def test_a_device_too_many_or_too_few_is_the_caller_s_mistake() -> None:
    with pytest.raises(ValueError, match="needed"):
        topic_of("segment")
    with pytest.raises(ValueError, match="too much"):
        topic_of("ingest", "a")


def test_a_group_shares_a_filter_and_cannot_break_out_of_it() -> None:
    assert CHANNELS["segment"].shared("ingest") == "$share/ingest/fl/v1/+/up/segment"
    for group in ("", "a/b", "+", "#"):
        with pytest.raises(ContractError, match="group"):
            CHANNELS["segment"].shared(group)
