"""What can happen in a rollout. The log of it is append-only, and is all that is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from autotrain_cloud.plain import from_json, to_json
from autotrain_cloud.rollout.plan import Release
from edge_runtime.errors import StorageError

CONTROLLER = "controller"  # who, where it was nobody

# --- facts: they can arrive in any state ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """These devices are part of the fleet: {device: time zone}."""

    devices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Contacted:
    """These devices have shown a sign of life since they were given their target."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """How the update of a device ended."""

    device: str
    outcome: str  # committed, failed, timed-out
    counter: int  # of the target
    session: int = -1  # of the report
    sequence: int = -1


@dataclass(frozen=True, slots=True)
class Looked:
    """Updated devices were compared with those that are not."""

    since_ms: int  # beginning of what was looked at
    updated: int  # devices
    control: int
    factors: Mapping[str, tuple[float, ...]]  # by what was tested: of each bet, as logarithms
    shifts: Mapping[str, float]  # by metric: updated minus control


# --- decisions: of people or of the controller ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitted:
    """The draft is to be approved."""


@dataclass(frozen=True, slots=True)
class Approved:
    """One person, who is not the author, agrees."""


@dataclass(frozen=True, slots=True)
class Started:
    """Enough people have agreed."""


@dataclass(frozen=True, slots=True)
class Targeted:
    """These devices are to run the release with this counter."""

    devices: tuple[str, ...]
    counter: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The devices of this stage have the release; it soaks."""

    stage: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """To this stage."""

    stage: int


@dataclass(frozen=True, slots=True)
class Paused:
    """No further devices for now."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A person says: go on. After a halt, what was held against the release is forgotten."""


@dataclass(frozen=True, slots=True)
class Halted:
    """Something is wrong with the release; devices that have not begun with it do not."""


@dataclass(frozen=True, slots=True)
class Reverting:
    """The previous model is to be published again, under a new counter."""


@dataclass(frozen=True, slots=True)
class Republished:
    """It is."""

    release: Release


@dataclass(frozen=True, slots=True)
class Reverted:
    """Devices run the previous model again."""


@dataclass(frozen=True, slots=True)
class Completed:
    """All of the fleet has the release."""


Fact = Joined | Contacted | Finished | Looked
Decision = (
    Submitted
    | Approved
    | Started
    | Targeted
    | Settled
    | Advanced
    | Paused
    | Resumed
    | Halted
    | Reverting
    | Republished
    | Reverted
    | Completed
)
Event = Fact | Decision
_KINDS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the log."""

    number: int  # counts from 0
    at_ms: int  # by the cloud's clock
    who: str
    reason: str
    event: Event

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "event"
        }
        return {**plain, "type": type(self.event).__name__, "event": to_json(self.event)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Entry:
        """Raises StorageError naming what is wrong."""
        try:
            kind = _KINDS[plain["type"]]
            return cls(
                number=plain["number"], at_ms=plain["at_ms"], who=plain["who"],
                reason=plain["reason"], event=from_json(kind, plain["event"]),
            )  # fmt: skip
        except KeyError as error:
            raise StorageError(f"an entry of a rollout lacks or does not know {error}") from error
