"""The life of an update: states, events, and what follows from what.

Pure: `after(record, event)` is the next record, or `Refused`.  Whoever drives it makes a record
durable (`edge_runtime.ota.record`) before he acts on it, so a crash at any moment finds a record
that says what was being done; doing it again is always safe.

Rules that no event can break:

* the floor, the highest release ever committed or delivered with the device, never falls, and
  nothing below it is accepted;
* the slot that is written to is neither the one that runs nor the one to fall back on;
* a release that failed here is not tried again;
* what is on probation has a fallback that worked.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass

GOLDEN = "golden"  # what the device was delivered with; never written to
SLOTS = ("A", "B")  # the two that updates alternate between
MAX_FAILED = 32  # remembered
MAX_STARTS = 3  # of one state by one candidate: what kills the process so often has failed


class State(enum.Enum):
    """What is being done about an update."""

    IDLE = "idle"
    DOWNLOADING = "downloading"  # into `incoming/`, resumable
    STAGING = "staging"  # into the slot that is free
    TESTING = "testing"  # that slot is loaded and tried on golden audio
    PROBATION = "probation"  # it runs, and may yet be rolled back


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release that somebody trusted says this device may run."""

    release: int  # rises with every release
    version: str  # for people
    manifest_sha256: str  # of manifest.json, by which all its files are known


@dataclass(frozen=True, slots=True)
class Failure:
    """A release that is not tried again, and why."""

    release: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that a device remembers about updates."""

    running: str = GOLDEN  # slot
    fallback: str = GOLDEN  # slot that worked before; GOLDEN is the last resort anyway
    holds: Mapping[str, int]  # slot -> release, of the slots that are whole
    floor: int
    state: State = State.IDLE
    candidate: Candidate | None = None  # in every state but IDLE
    attempt: str = ""  # id of this try, in reports
    starts: int = 0  # of this state by this candidate
    failed: tuple[Failure, ...] = ()  # newest last

    @property
    def release(self) -> int:
        """What runs."""
        return self.holds[self.running]

    @property
    def free(self) -> str:
        """The slot that is written to while STAGING and tried while TESTING."""
        return next(slot for slot in SLOTS if slot not in (self.running, self.fallback))

    @classmethod
    def delivered(cls, release: int) -> Record:
        """Of a device that has only what it was delivered with."""
        return cls(holds={GOLDEN: release}, floor=release)


class Refused(Exception):
    """The event does not fit the record; nothing has changed."""


# -- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offered:
    """There is a release for this device."""

    candidate: Candidate
    attempt: str = ""  # id of this try


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Every file has arrived, and is what the manifest promised."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The release is no longer to be had, or another replaced it: no fault of its own."""

    reason: str = "it was withdrawn"


@dataclass(frozen=True, slots=True)
class Staged:
    """The free slot holds the whole bundle, durably."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The staged bundle loads and passes its self-test."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """The time of probation is over, and nothing was wrong."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What was being done showed that this release does not work here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Started:
    """The process has started, after whatever ended it."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The process ends as it should: this start is not held against what it was doing."""


@dataclass(frozen=True, slots=True)
class Undone:
    """Somebody who may decides that what runs, though committed, does not work here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The bundle in a slot cannot be loaded any more: the disk has lost or changed something."""

    slot: str
    reason: str


Event = (
    Offered
    | Downloaded
    | Gone
    | Staged
    | Passed
    | Healthy
    | Failed
    | Undone
    | Started
    | Stopped
    | Broken
)

# The whole of the machine but for Started, Stopped and Broken, which can happen in every state.
TABLE: dict[tuple[State, type[Event]], State] = {
    (State.IDLE, Offered): State.DOWNLOADING,
    (State.IDLE, Undone): State.IDLE,
    (State.DOWNLOADING, Downloaded): State.STAGING,
    (State.DOWNLOADING, Gone): State.IDLE,
    (State.DOWNLOADING, Failed): State.IDLE,
    (State.STAGING, Staged): State.TESTING,
    (State.STAGING, Gone): State.IDLE,
    (State.STAGING, Failed): State.IDLE,
    (State.TESTING, Passed): State.PROBATION,
    (State.TESTING, Gone): State.IDLE,
    (State.TESTING, Failed): State.IDLE,
    (State.PROBATION, Healthy): State.IDLE,
    (State.PROBATION, Failed): State.IDLE,
}


def after(record: Record, event: Event) -> Record:
    """The record after `event`. Raises Refused."""
    if isinstance(event, Started):
        return _started(record)
    if isinstance(event, Stopped):
        return dataclasses.replace(record, starts=max(0, record.starts - 1))
    if isinstance(event, Broken):
        return _broken(record, event)
    state = TABLE.get((record.state, type(event)))
    if state is None:
        raise Refused(f"{type(event).__name__} while {record.state.value}")
    if isinstance(event, Offered):
        _check(record, event.candidate)
        return dataclasses.replace(
            record, state=state, candidate=event.candidate, attempt=event.attempt, starts=0
        )
    if isinstance(event, Undone):
        return _undone(record, event)
    candidate = record.candidate
    assert candidate is not None  # in every state that is not IDLE
    was, record = record.state, dataclasses.replace(record, state=state, starts=0)
    if state is State.STAGING:
        return _make_room(record)
    if state is State.PROBATION:
        return dataclasses.replace(
            record,
            running=record.free,
            fallback=record.running,
            holds={**record.holds, record.free: candidate.release},
        )
    if state is State.TESTING:
        return record
    if isinstance(event, Healthy):
        record = dataclasses.replace(record, floor=max(record.floor, candidate.release))
    elif isinstance(event, Failed):
        if was is State.PROBATION and len(record.holds) > 1:
            record = _without(record, record.running)
        record = _remember(record, Failure(candidate.release, event.reason))
    return dataclasses.replace(record, candidate=None, attempt="")


def diagram() -> str:
    """The table as a Mermaid state diagram, for the docs."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.IDLE.value}"]
    for (state, event), following in TABLE.items():
        lines.append(f"    {state.value} --> {following.value}: {event.__name__}")
    return "\n".join(lines) + "\n"


def _check(record: Record, candidate: Candidate) -> None:
    if candidate.release <= record.release:
        raise Refused(f"release {candidate.release} is not newer than {record.release}, which runs")
    if candidate.release < record.floor:
        raise Refused(f"release {candidate.release} is below the floor, {record.floor}")
    for failure in record.failed:
        if failure.release == candidate.release:
            raise Refused(f"release {candidate.release} has failed here: {failure.reason}")


def _started(record: Record) -> Record:
    """Counts; what was being done is done again, unless it has ended the process too often."""
    if record.state is State.IDLE:
        return record
    record = dataclasses.replace(record, starts=record.starts + 1)
    if record.state in (State.TESTING, State.PROBATION) and record.starts > MAX_STARTS:
        doing = record.state.value
        return after(record, Failed(f"the process ended {MAX_STARTS} times while {doing} it"))
    return record


def _undone(record: Record, event: Undone) -> Record:
    if record.running == GOLDEN or len(record.holds) == 1:
        raise Refused("there is no bundle to go back to")
    failure = Failure(record.release, event.reason)
    return _remember(_without(record, record.running), failure)


def _broken(record: Record, event: Broken) -> Record:
    if event.slot not in record.holds:
        return record
    if len(record.holds) == 1:
        raise Refused(f"the only bundle of this device cannot be loaded: {event.reason}")
    if record.state is State.PROBATION and event.slot == record.running:
        return after(record, Failed(event.reason))
    record = _without(record, event.slot)
    if record.state in (State.STAGING, State.TESTING):
        # Another slot may be the free one now.
        return _make_room(dataclasses.replace(record, state=State.STAGING))
    return record


def _make_room(record: Record) -> Record:
    """Two slots hold what runs and what to fall back on: the latter is given up."""
    if {record.running, record.fallback} == set(SLOTS):
        record = dataclasses.replace(record, fallback=GOLDEN)
    holds = {slot: release for slot, release in record.holds.items() if slot != record.free}
    return dataclasses.replace(record, holds=holds)


def _without(record: Record, slot: str) -> Record:
    """`slot` is not whole, or must not run: what does not need it takes its place."""
    holds = {name: release for name, release in record.holds.items() if name != slot}
    last = GOLDEN if GOLDEN in holds else next(iter(holds))
    fallback = last if record.fallback == slot else record.fallback
    running = fallback if record.running == slot else record.running
    return dataclasses.replace(
        record, holds=holds, running=running, fallback=last if running == fallback else fallback
    )


def _remember(record: Record, failure: Failure) -> Record:
    return dataclasses.replace(record, failed=(*record.failed, failure)[-MAX_FAILED:])
