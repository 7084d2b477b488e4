"""What a gate asks for, as a file says it: a table for each part."""

from __future__ import annotations

from dataclasses import dataclass, field

from autotrain_cloud.gate.compare import DRAWS
from autotrain_cloud.gate.evaluate import Hearing
from autotrain_cloud.gate.hygiene import Trust
from autotrain_cloud.gate.power import Assumptions
from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """The statistics."""

    level: float = 0.05  # one-sided
    margin: float = 0.02  # relative: how much worse a guard slice may be
    holm: bool = True  # all statements about guard slices hold together at `level`
    draws: int = DRAWS
    power: float = 0.8  # for what sets are said to detect
    min_speakers: int = 5  # per slice: with fewer nothing is decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is compared without a test, or must not be exceeded by more than chance explains."""

    cpu_ratio: float = 1.1  # challenger's CPU time per audio second, of the champion's
    memory_ratio: float = 1.1
    size_ratio: float = 1.1
    int8_loss: float = 0.01  # relative WER, INT8 against float
    noise_words_per_minute: float = 0.2  # more words made up than the champion's
    ece: float = 0.02  # how much worse each may be
    nce: float = 0.05  # below 0.15
    overconfidence: float = 0.02
    runs: int = 5  # of the speed of each
    seconds: float = 60.0  # of audio in a run


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """`gate.toml`."""

    hearing: Hearing = field(default_factory=Hearing)
    test: Certainty = field(default_factory=Certainty)
    bounds: Bounds = field(default_factory=Bounds)
    trust: Trust = field(default_factory=Trust)
    assumptions: Assumptions = field(default_factory=Assumptions)

    def __post_init__(self) -> None:
        """Raises ConfigError naming the field."""
        test, bounds = self.test, self.bounds
        for name, value, least, most in (
            ("test: level", test.level, 1e-6, 0.5),
            ("test: margin", test.margin, 0.0, 10.0),
            ("test: power", test.power, 0.01, 0.9999),
            ("test: draws", test.draws, 100, 10**6),
            ("test: min_speakers", test.min_speakers, 2, 10**6),
            ("bounds: runs", bounds.runs, 1, 1000),
            ("bounds: seconds", bounds.seconds, 0.1, 1e6),
            ("hearing: beam", self.hearing.beam, 0, 10_000),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name}: {value!r} (expected {least:g} to {most:g})")
