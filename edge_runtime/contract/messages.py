"""Every message between a device and the cloud, one frozen dataclass each.

Which device a message belongs to stands in its topic, which the broker checks against the device's
certificate, and nowhere else: a field could lie. Times are milliseconds since 1970, UTC, by the
device's clock. The comment beside a field is its line in docs/protocol.md.

Delivery is at least once: every message may come twice, late, or after a newer one. What changes
something therefore carries an id, or the session number and a sequence number.

Constructing a message checks it: ContractError names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

from edge_runtime.contract.fields import Length, Pattern, Range, check_record
from edge_runtime.contract.records import (
    Alternative,
    Count,
    Digest,
    Histogram,
    Id,
    Line,
    Milliseconds,
    Model,
    Name,
    Probability,
    Record,
    Seconds,
    SpokenWord,
    Text,
    Token,
    Tombstone,
    nothing,
)
from edge_runtime.errors import ContractError

# From the device.


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment(Record):
    """An utterance offered for training and monitoring. Kept until its receipt."""

    type: ClassVar[str] = "segment"

    id: Id  # made once, at capture (UUIDv7): a second arrival is the same segment
    session: Count  # of the device, see birth
    sequence: Count  # rises with every segment of the session; gaps are tombstones
    captured_ms: Milliseconds  # start of the audio
    clock_is_set: bool  # whether the clock had been synchronised by then
    duration_s: Seconds  # of the audio
    sample_rate: Annotated[int, Range(8000, 192_000)]  # Hz
    codec: Literal["opus", "flac", "pcm16"]  # opus in Ogg; pcm16 is little-endian mono
    audio: Annotated[bytes, Length(1, 1_400_000)]  # one channel
    audio_sha256: Digest  # of audio; the same id with another digest is refused
    model: Model  # that recognised it
    text: Text  # best hypothesis
    words: Annotated[tuple[SpokenWord, ...], Length(0, 2000)]  # of text
    alternatives: Annotated[tuple[Alternative, ...], Length(0, 50)] = ()  # best first
    confidence: Probability  # calibrated, of the whole utterance
    deletion_score: Probability  # suspicion that spoken words are missing from text
    language: Annotated[str, Pattern("([a-z]{2,3}(-[A-Za-z0-9]{2,8})*)?", "BCP 47")] = ""  # of text
    reasons: Annotated[
        tuple[Token, ...], Length(1, 8)
    ]  # why it was chosen: unsure, deletion, random
    inclusion_probability: Annotated[float, Range(1e-9, 1)]  # that an utterance like it is sent
    random_probability: Probability  # that the random sample alone would have sent it
    consent: Name  # id of the consent it was recorded under
    redacted: bool = False  # whether something was silenced before it left


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Record):
    """A piece of a message too large for one packet; the pieces joined are the message."""

    type: ClassVar[str] = "part"

    id: Id  # of the segment
    index: Annotated[int, Range(0, 31)]  # counts from 0
    count: Annotated[int, Range(2, 32)]  # how many there are
    size: Annotated[int, Range(1, 1_500_000)]  # bytes of the whole message
    sha256: Digest  # of the whole message
    data: Annotated[bytes, Length(1, 256_000)]  # this piece

    def __post_init__(self) -> None:
        check_record(self, message=self.type)
        if self.index >= self.count:
            raise ContractError(
                f"is {self.index} of {self.count}",
                message=self.type,
                field="index",
                expected="less than count",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Record):
    """Segments that will not arrive. Kept until its receipt, as segments are."""

    type: ClassVar[str] = "lost"

    id: Id  # of this report
    session: Count  # of the device
    tombstones: Annotated[tuple[Tombstone, ...], Length(0, 500)]  # one for each segment
    incidents: Annotated[
        tuple[Line, ...], Length(0, 50)
    ] = ()  # files that were set aside, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth(Record):
    """The device is connected. Retained."""

    type: ClassVar[str] = "birth"

    session: Count  # rises with every start of the agent
    connected_ms: Milliseconds  # by the device's clock
    clock_is_set: bool  # whether it had been synchronised
    agent: Name  # version of vitconformer
    model: Model | None  # that runs; none while no bundle is usable
    hardware: Line = ""  # in words
    time_zone: Line = "UTC"  # IANA name; quiet hours and budgets follow it
    consent: Name | None = None  # that uploads happen under; none: nothing is uploaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Death(Record):
    """The broker's word that the connection is gone (a last will), or a goodbye. Retained."""

    type: ClassVar[str] = "death"

    session: Count  # older than the newest birth's: ignore it
    graceful: bool = False  # said by the device itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry(Record):
    """Counts over all utterances of a stretch of time, uploaded or not. No audio, no text."""

    type: ClassVar[str] = "telemetry"

    session: Count  # of the device
    sequence: Count  # rises by one; a gap is a lost report
    start_ms: Milliseconds  # of the stretch
    end_ms: Milliseconds  # of the stretch
    model: Model  # one report never covers two
    utterances: Count  # ended in the stretch
    speech_s: Annotated[float, Range(0, 1e9)]  # in them
    confidence: Histogram  # of every utterance, calibrated
    word_confidence: Histogram  # of every word
    deletion_score: Histogram  # of every utterance
    first_word_s: Histogram  # from the start of a word to its first partial
    final_s: Histogram  # from the end of an utterance to its final
    real_time_factor: Annotated[float, Range(0, 1e6)]  # processing time over audio time
    selected: Mapping[str, Count]  # uploads by reason: {reason: count}
    vetoed: Mapping[str, Count]  # selected but kept back, by rule: {rule: count}
    unsampled: Count  # utterances that the random sample could not have reached
    queued: Count  # segments waiting
    queued_bytes: Count  # of them
    dead: Count  # segments refused for good, still kept
    crashes: Count  # of the recogniser, in the stretch
    gauges: Mapping[str, float] = field(default_factory=nothing)  # temperature_c, memory_bytes, ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased(Record):
    """The answer to an erase request."""

    type: ClassVar[str] = "erased"

    request: Id  # of the erase message
    segments: Count  # that were on the device and are gone
    at_ms: Milliseconds  # when the files no longer held them


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport(Record):
    """Where an update stands. Success is only ever `committed`."""

    type: ClassVar[str] = "update"

    session: Count  # of the device
    sequence: Count  # rises with every report
    attempt: Id  # one for each try, so that reports of an old one cannot be mistaken
    target: Name  # version aimed at
    target_counter: Count  # its release counter
    state: Literal[
        "downloading",
        "staging",
        "testing",
        "probation",
        "committed",
        "rolled-back",
        "failed",
    ]  # what is being done, as the device's record of updates names it, or what came of it
    running: Model | None  # what is running now, not what was asked for
    progress: Probability | None = None  # of the state, where known
    error: Line = ""  # why it failed or was rolled back
    at_ms: Milliseconds  # when


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Record):
    """The outcome of a command."""

    type: ClassVar[str] = "reply"

    command: Id  # that was carried out or refused
    ok: bool  # whether it was carried out
    detail: Line = ""  # why not
    result: Mapping[str, Any] = field(default_factory=nothing)  # what it found


# From the cloud.


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(Record):
    """These are committed in the cloud's store; only now may the device delete them."""

    type: ClassVar[str] = "receipt"

    ids: Annotated[tuple[Id, ...], Length(1, 1000)]  # of segments or loss reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack(Record):
    """This was not accepted."""

    type: ClassVar[str] = "nack"

    id: Id  # of a segment or loss report
    permanent: bool  # yes: sending it again is no use, set it aside; no: later
    reason: Token  # malformed, digest-mismatch, too-large, unknown-consent, erased, busy, ...
    detail: Line = ""  # for people


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestState(Record):
    """Whether the cloud takes segments at all. Retained, for all devices."""

    type: ClassVar[str] = "ingest"

    accepting: bool  # no: keep everything and wait for the next state
    version: Count  # rises; an older state is ignored
    segments_per_minute: Annotated[float, Range(0, 1e6)] | None = None  # of one device; none: any
    reason: Line = ""  # for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent(Record):
    """Under what the device may record for upload. Retained; without one nothing is kept."""

    type: ClassVar[str] = "consent"

    id: Name  # goes into every segment recorded under it
    version: Count  # rises; an older one is ignored
    granted: bool  # no: withdrawn, recording for upload stops
    from_ms: Milliseconds  # recordings before are not covered
    until_ms: Milliseconds | None = None  # none: until withdrawn
    purposes: Annotated[tuple[Token, ...], Length(0, 16)] = (
        "training",
        "monitoring",
    )  # allowed uses
    retention_days: Annotated[int, Range(1, 3650)] = 14  # on the device at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase(Record):
    """Delete these wherever they are; a later arrival of one of them is refused."""

    type: ClassVar[str] = "erase"

    id: Id  # of this request
    segments: Annotated[tuple[Id, ...], Length(0, 1000)] = ()  # by segment
    consents: Annotated[tuple[Name, ...], Length(0, 100)] = ()  # by consent: all recorded under it


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment(Record):
    """How far the device may update. Retained. What it takes up must be signed all the same."""

    type: ClassVar[str] = "assignment"

    version: Count  # rises; an older one is ignored
    release_counter: Count  # of the newest release that the device may take up


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Record):
    """A request. It has no authority over what runs: signed metadata alone decides that."""

    type: ClassVar[str] = "command"

    id: Id  # a second arrival is the same command
    name: Token  # one that the device knows; others are refused
    arguments: Mapping[str, Any] = field(default_factory=nothing)  # of the command
    issued_ms: Milliseconds  # by the cloud's clock
    expires_ms: Milliseconds  # after this it is refused


Message = (
    Segment
    | Part
    | Lost
    | Birth
    | Death
    | Telemetry
    | Erased
    | UpdateReport
    | Reply
    | Receipt
    | Nack
    | IngestState
    | Consent
    | Erase
    | Assignment
    | Command
)

MESSAGES: Mapping[str, type[Message]] = {kind.type: kind for kind in get_args(Message)}
