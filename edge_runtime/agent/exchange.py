"""What the uplink is told, and what it wants done (`edge_runtime.agent.uplink`)."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.agent.outbox import Item
from edge_runtime.contract.messages import (
    Assignment,
    Birth,
    Command,
    Consent,
    Erase,
    Lost,
    Message,
)

# What happens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The broker took the connection, on these terms."""

    birth: Birth
    receive_maximum: int = 65_535  # packets it takes without acknowledging
    maximum_packet_size: int | None = None  # bytes; None: it names no limit


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or did not come about."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has a packet, or refuses it: a reason code of 0x80 and more."""

    token: int  # of the Publish
    code: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the cloud."""

    message: Message


@dataclass(frozen=True, slots=True)
class Offered:
    """The answer to Ask: the next segments of the outbox, possibly none."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Say:
    """A message to the cloud that no receipt answers: telemetry, reports, replies."""

    message: Message


@dataclass(frozen=True, slots=True)
class Losses:
    """The answer to AskLosses: what to report, if there is anything."""

    report: Lost | None


@dataclass(frozen=True, slots=True)
class Stop:
    """Say goodbye and end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, or something new lies in the outbox."""


Event = Connected | Disconnected | Acknowledged | Received | Offered | Losses | Say | Stop | Tick


# What to do.


@dataclass(frozen=True, slots=True)
class Connect:
    """Begin to connect, with this last will. Answer: Connected or Disconnected."""

    will_topic: str
    will: bytes


@dataclass(frozen=True, slots=True)
class Subscribe:
    """To these topics, QoS 1."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """A packet, QoS 1. Answer: Acknowledged, or Disconnected."""

    token: int
    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """For the next segments of the outbox. Answer: Offered."""

    limit: int
    exclude: frozenset[str]


@dataclass(frozen=True, slots=True)
class AskLosses:
    """For tombstones and incidents, at most so many of the former. Answer: Losses."""

    limit: int


@dataclass(frozen=True, slots=True)
class Reported:
    """The cloud knows of these losses."""

    report: Lost


@dataclass(frozen=True, slots=True)
class HandOn:
    """From the cloud, for others here."""

    message: Consent | Erase | Assignment | Command


@dataclass(frozen=True, slots=True)
class Hangup:
    """The end; nothing follows."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """Delete these: the cloud has them."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetAside:
    """A dead letter: the cloud will never take it."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Something a person should know."""

    line: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Send a Tick at this time at the latest; replaces the Wait before."""

    until_ms: int


Action = (
    Connect
    | Subscribe
    | Publish
    | Ask
    | AskLosses
    | Delivered
    | Reported
    | SetAside
    | HandOn
    | Warn
    | Hangup
    | Wait
)
