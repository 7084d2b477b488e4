"""Topics: who may say what where. Built and parsed here and nowhere else.

    fl/v1/<device>/up/segment     a device writes below its own up/ only
    fl/v1/<device>/down/receipt   and reads below its own down/ only
    fl/v1/_ingest/state           everybody reads

`<device>` is the name in the device's certificate, which the broker puts there: two lines of access
rules (`pattern write fl/v1/%u/up/#`, `pattern read fl/v1/%u/down/#`) are the whole authorisation. A
device's name has no wildcard, no separator and no leading underscore, so no certificate can name
another device's topic, or all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_runtime.contract.fields import shown
from edge_runtime.contract.messages import (
    Assignment,
    Birth,
    Command,
    Consent,
    Death,
    Erase,
    Erased,
    IngestState,
    Lost,
    Message,
    Nack,
    Part,
    Receipt,
    Reply,
    Segment,
    Telemetry,
    UpdateReport,
)
from edge_runtime.errors import ContractError

ROOT = "fl/v1"
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_GROUP = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Channel:
    """A kind of topic: what is said on it, and how."""

    name: str  # key in CHANNELS
    path: str  # below the root; `+` stands for the device
    carries: tuple[type[Message], ...]
    writer: Literal["device", "cloud"]
    retained: bool = False
    qos: Literal[0, 1] = 1

    @property
    def filter(self) -> str:
        """The topic filter of this channel for all devices."""
        return f"{ROOT}/{self.path}"

    def shared(self, group: str) -> str:
        """The same, its messages divided among the members of a group (MQTT 5, section 4.8.2)."""
        if not _GROUP.fullmatch(group):
            raise ContractError(f"is {shown(group)}", field="group", expected="lower-case letters")
        return f"$share/{group}/{self.filter}"


CHANNELS: Mapping[str, Channel] = {
    channel.name: channel
    for channel in (
        Channel("segment", "+/up/segment", (Segment, Part), "device"),
        Channel("lost", "+/up/lost", (Lost,), "device"),
        Channel("telemetry", "+/up/telemetry", (Telemetry,), "device"),
        Channel("presence", "+/up/presence", (Birth, Death), "device", retained=True),
        Channel("update", "+/up/update", (UpdateReport,), "device"),
        Channel("erased", "+/up/erased", (Erased,), "device"),
        Channel("reply", "+/up/reply", (Reply,), "device"),
        Channel("receipt", "+/down/receipt", (Receipt, Nack), "cloud"),
        Channel("consent", "+/down/consent", (Consent,), "cloud", retained=True),
        Channel("erase", "+/down/erase", (Erase,), "cloud"),
        Channel("assignment", "+/down/assignment", (Assignment,), "cloud", retained=True),
        Channel("command", "+/down/command", (Command,), "cloud"),
        Channel("ingest", "_ingest/state", (IngestState,), "cloud", retained=True),
    )
}


def check_device(device: object) -> str:
    """`device` if it may stand in a topic; raises ContractError otherwise."""
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise ContractError(
            f"is {shown(device)}",
            field="device",
            expected="1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    return device


def topic_of(channel: str, device: str | None = None) -> str:
    """The topic of a channel, of this device where the channel has one for each.

    Raises ContractError for a device that must not be in a topic; ValueError if there is a device
    too many or too few.
    """
    pattern = CHANNELS[channel].filter
    if ("+" in pattern) != (device is not None):
        raise ValueError(f"{channel}: a device is {'needed' if device is None else 'too much'}")
    return pattern if device is None else pattern.replace("+", check_device(device))


def parse_topic(topic: object) -> tuple[Channel, str | None]:
    """-> channel, device. The inverse of `topic_of`; raises ContractError for anything else."""
    if isinstance(topic, str) and len(topic) <= 200 and topic.startswith(f"{ROOT}/"):
        first, _, rest = topic[len(ROOT) + 1 :].partition("/")
        for channel in CHANNELS.values():
            if channel.path == f"{first}/{rest}" and "+" not in first:
                return channel, None
            if channel.path == f"+/{rest}":
                return channel, check_device(first)
    raise ContractError(f"is {shown(topic)}", field="topic", expected="a topic of the contract")


def channel_of(message: Message) -> Channel:
    """The one channel that carries messages of this kind."""
    (channel,) = (each for each in CHANNELS.values() if type(message) in each.carries)
    return channel
