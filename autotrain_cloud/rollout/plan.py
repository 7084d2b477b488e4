"""What a rollout is to do: the release, the stages, the limits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_runtime.errors import ConfigError

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A published bundle."""

    version: str
    counter: int  # rises with every release; devices refuse to go back


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of local time in which devices may begin to update; over midnight if `end` is first."""

    start: str  # 01:00
    end: str  # first moment after it

    def __post_init__(self) -> None:
        for text in (self.start, self.end):
            try:
                time.fromisoformat(text)
            except ValueError as error:
                raise ConfigError(f"rollout: window: {text!r} (expected 01:00)") from error

    def covers(self, now_ms: int, zone: str) -> bool:
        """By the clock on the device's wall."""
        local = datetime.fromtimestamp(now_ms / 1000, _zone(zone)).time()
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        if start <= end:
            return start <= local < end
        return local >= start or local < end


@lru_cache(maxsize=1000)
def _zone(name: str) -> ZoneInfo | timezone:
    """A device may name any zone; one that nobody knows is UTC."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return timezone.utc


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is decided before a rollout begins. Raises ConfigError naming the field."""

    id: str  # other devices come first in another rollout
    release: Release
    previous: Release  # what devices run, and would be given back
    author: str  # may not approve
    approvals: int = 1  # of that many different people
    shares: tuple[float, ...] = (0.01, 0.05, 0.25, 1.0)  # of the fleet, stage by stage
    soak_ms: int = DAY_MS  # at least, in each stage, from when its devices have the release
    holdback: float = 0.05  # of the fleet, kept for comparison until the last stage has soaked
    devices_per_minute: float = 500.0
    window: Window | None = None
    timeout_ms: int = 2 * HOUR_MS  # from a device's first sign of life; then it has failed
    patience_ms: int = 7 * DAY_MS  # with devices that are offline
    coverage: float = 0.9  # of a stage's devices must have shown up, of those be done
    failure_bound: float = 0.02  # of updates that may fail in a good release
    failure_alpha: float = 0.01  # chance at most of halting a release that keeps the bound
    least_executed: int = 3  # updates before failures can halt anything
    quality_alpha: float = 0.01  # chance at most of halting a release for its quality by chance
    least_looks: int = 1  # comparisons with the control group, in each stage
    expected: Mapping[str, float] = field(default_factory=dict)  # changes the gate found, by metric
    revert: bool = True  # by itself, when halted by itself

    def __post_init__(self) -> None:
        if not self.shares or list(self.shares) != sorted(set(self.shares)):
            raise ConfigError("rollout: shares: ascending numbers, at least one")
        if self.shares[0] <= 0 or self.shares[-1] != 1:
            raise ConfigError("rollout: shares: from above 0 to 1")
        if self.release.counter <= self.previous.counter:
            raise ConfigError(
                f"rollout: release: its counter {self.release.counter} is not above that of the"
                f" previous release, {self.previous.counter}; devices would refuse it"
            )
        for name in ("failure_bound", "failure_alpha", "quality_alpha", "coverage"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"rollout: {name}: between 0 and 1, not {getattr(self, name)}")
        if not 0 <= self.holdback < 0.5:
            raise ConfigError(f"rollout: holdback: 0 to 0.5, not {self.holdback}")
        if self.devices_per_minute <= 0:
            raise ConfigError("rollout: devices_per_minute: above 0")
        if self.timeout_ms <= 0 or self.patience_ms <= 0 or self.soak_ms < 0:
            raise ConfigError("rollout: timeout_ms, patience_ms: above 0; soak_ms: 0 or more")
        if self.approvals < 0 or self.least_looks < 0 or self.least_executed < 1:
            raise ConfigError("rollout: approvals, least_looks: 0 or more; least_executed: 1")

    @property
    def limits(self) -> tuple[float, ...]:
        """Of devices' buckets, stage by stage; the last stage is for those that were held back."""
        limits = tuple(dict.fromkeys(min(share, 1 - self.holdback) for share in self.shares))
        return limits if limits[-1] == 1 else (*limits, 1.0)

    def bucket(self, device: str) -> float:
        """0 to 1: devices come in this order. Depends on nothing but the names."""
        digest = hashlib.sha256(f"{self.id}/{device}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / (1 << 48)
