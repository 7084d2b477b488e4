"""What messages are made of: the kinds of their fields, and the records inside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from edge_runtime.contract.fields import Length, Pattern, Range, check_record
from edge_runtime.errors import ContractError

SEGMENT_ID = Pattern("[0-9a-f]{32}", "32 lower-case hex digits")

Id = Annotated[str, SEGMENT_ID]
Token = Annotated[str, Pattern("[a-z0-9][a-z0-9._-]{0,63}", "a lower-case name")]
Name = Annotated[str, Pattern("[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}", "a name or version")]
Line = Annotated[str, Length(0, 500)]
Text = Annotated[str, Length(0, 20_000)]
Milliseconds = Annotated[int, Range(0, 1 << 53)]
Count = Annotated[int, Range(0, 1 << 53)]
Seconds = Annotated[float, Range(0, 86_400)]
Probability = Annotated[float, Range(0, 1)]
Digest = Annotated[bytes, Length(32, 32)]

Extra = Mapping[str, Any]


def new_id(at_ms: int, entropy: bytes) -> str:
    """An id made at this time (UUIDv7, RFC 9562, section 5.7) from ten random bytes.

    Ids sort by their time. Raises ValueError for too little entropy.
    """
    if len(entropy) < 10:
        raise ValueError(f"needs 10 random bytes, not {len(entropy)}")
    number = (at_ms & (1 << 48) - 1) << 80 | int.from_bytes(entropy[:10], "big")
    number = number & ~(0xF << 76) | 0x7 << 76  # version
    number = number & ~(0x3 << 62) | 0x2 << 62  # variant
    return f"{number:032x}"


def nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What messages and their parts share: they are checked, and keep fields of later versions."""

    extra: Extra = field(default_factory=nothing)

    def __post_init__(self) -> None:
        check_record(self, message=getattr(self, "type", None))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWord(Record):
    """One word of a hypothesis; times from the start of the segment's audio."""

    word: Annotated[str, Length(1, 500)]  # as it is shown
    start_s: Seconds  # first moment
    end_s: Seconds  # first moment after it
    confidence: Probability  # calibrated probability that the word is right


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative(Record):
    """Another reading of the same audio."""

    text: Text  # its words
    score: Annotated[float, Range(-1e9, 1e9)]  # natural log; compares within one segment only


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(Record):
    """Counts of values between bounds: (..b0], (b0..b1], ... (bn..)."""

    bounds: Annotated[tuple[float, ...], Length(1, 200)]  # ascending
    counts: Annotated[tuple[Count, ...], Length(2, 201)]  # one more than bounds
    total: Annotated[float, Range(-1e15, 1e15)]  # sum of the values, for the mean

    def __post_init__(self) -> None:
        check_record(self)
        if len(self.counts) != len(self.bounds) + 1:
            raise ContractError(
                f"has {len(self.counts)} numbers", field="counts", expected="one more than bounds"
            )
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ContractError("is out of order", field="bounds", expected="ascending numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Record):
    """A bundle, as it runs."""

    name: Token  # of its manifest
    version: Name  # of its manifest
    release_counter: Count  # of its manifest
    manifest_sha256: Digest  # of manifest.json as it lies on the device
    precision: Token  # which of its models runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone(Record):
    """A segment that will never arrive, and why."""

    id: Id  # of the segment
    fate: Literal["evicted", "expired", "erased", "dead", "corrupt"]  # what became of it
    reason: Line  # in words
    at_ms: Milliseconds  # when
    inclusion_probability: Probability  # as in the segment; 0 where it can no longer be read
