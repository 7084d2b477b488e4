"""The table [update] of agent.toml: where models come from, when, and what a new one must show.

    [update]
    url = "https://models.example.org/repo/"
    root = "/etc/vitconformer/root.json"
    state = "/var/lib/vitconformer/update"
    golden = "/usr/share/vitconformer/en-demo"
    hours = { start = 22:00:00, end = 05:00:00 }
    line = { most_bytes_per_s = 500_000 }

The comment beside a field is what its key means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import time
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.ota.http import LineLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Hours of the device's local time; over midnight if `end` is before `start`."""

    start: time
    end: time  # the first moment after them

    def cover(self, clock: time) -> bool:
        """By the clock on the wall."""
        if self.start <= self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M} to {self.end:%H:%M}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What a bundle must show before it runs at all. Raises ConfigError naming the field."""

    least_agreement: float = 0.97  # of the best tokens with the float model's, on golden streams
    most_real_time_factor: float = 0.7  # processing time over audio time, median of its steps
    most_memory_bytes: int = 0  # of the process, with the model before still loaded; 0: any

    def __post_init__(self) -> None:
        _within(self, "least_agreement", 0, 1)
        _within(self, "most_real_time_factor", 1e-3, 1e3)
        _within(self, "most_memory_bytes", 0, 1 << 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probation:
    """What a new model must show on live audio. Raises ConfigError naming the field."""

    utterances: int = 20  # that it must have recognised, and
    minutes: float = 30.0  # that must have passed, in one run of the process, before it is kept
    longest_hours: float = 24.0  # then it is kept with fewer utterances, if nothing was wrong
    confidence_drop: float = 0.1  # that its mean confidence may be below the old model's
    most_real_time_factor: float = 0.9  # above it the device falls behind
    most_crashes: int = 0  # of the recogniser
    most_memory_bytes: int = 0  # of the process; 0: any

    def __post_init__(self) -> None:
        _within(self, "utterances", 1, 1_000_000)
        _within(self, "minutes", 0, 100_000)
        _within(self, "longest_hours", self.minutes / 60, 100_000)
        _within(self, "confidence_drop", 0, 1)
        _within(self, "most_real_time_factor", 1e-3, 1e3)
        _within(self, "most_crashes", 0, 1000)
        _within(self, "most_memory_bytes", 0, 1 << 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """Everything about updates that an operator decides. Raises ConfigError naming the field."""

    url: str  # of the repository; any web server that serves its folder
    root: Path  # 1.root.json of the repository, delivered with the device
    state: Path  # folder that belongs to the updater alone; room for three bundles
    golden: Path  # bundle that was delivered with the device; never written to
    family: str = ""  # of models; the golden bundle's name if empty
    enabled: bool = True  # no: what is installed runs, nothing is asked for
    assigned: bool = False  # only what the cloud has assigned to this device is taken up
    poll_minutes: float = 60.0  # between two looks at the repository
    poll_jitter: float = 0.5  # share of it by which the time between two looks varies
    hint_spread_s: float = 60.0  # a hint is followed after a random part of this
    retries: int = 8  # of one look or download, each after a random wait; then until the next poll
    retry_s: float = 5.0  # longest first wait; doubles up to poll_minutes
    hours: Hours | None = None  # in which releases are fetched and tried; none: always
    deltas: bool = True  # fetch what differs from a model that is here, where there is such a file
    least_free_bytes: int = 50_000_000  # of disk that must be left when a release is staged
    line: LineLimits = field(default_factory=LineLimits)  # what a download may take and must give
    test: SelfTest = field(default_factory=SelfTest)  # before a release runs
    probation: Probation = field(default_factory=Probation)  # before it is kept

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ConfigError(f"url: https://..., not {self.url!r}")
        _within(self, "poll_minutes", 0.01, 100_000)
        _within(self, "poll_jitter", 0, 1)
        _within(self, "hint_spread_s", 0, 1e6)
        _within(self, "retries", 0, 1000)
        _within(self, "retry_s", 0, 1e6)
        _within(self, "least_free_bytes", 0, 1 << 50)
        for name in ("timeout_s", "least_bytes_per_s", "patience_s", "most_bytes_per_s"):
            if getattr(self.line, name) < 0 or (name == "timeout_s" and not self.line.timeout_s):
                raise ConfigError(f"line: {name}: 0 or more, not {getattr(self.line, name)}")


def _within(settings: Any, name: str, low: float, high: float) -> None:
    value = getattr(settings, name)
    if not low <= value <= high:
        raise ConfigError(f"{name}: {low:g} to {high:g}, not {value:g}")
