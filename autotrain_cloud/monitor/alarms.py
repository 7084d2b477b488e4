"""Alarms, which explain themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something became worse. Open until it is over or the model is replaced."""

    id: str
    level: str  # fleet, slice, device
    name: str  # of the slice or device; the fleet has none
    model: str
    statistic: str  # title of what changed, or "silence"
    usual: float = 0.0  # its mean in the baselines
    now: float = 0.0  # its mean since the change
    change_ms: int  # when it most likely began
    opened_ms: int
    looks: int = 0  # since the change
    devices: int = 1  # that reported in the last look
    utterances: int = 0  # since the change
    log_evidence: float = 0.0  # natural logarithm
    log_threshold: float = 0.0
    streams: int = 1  # that were looked at together
    calm: int = 0  # looks in a row without the shift
    text: str = ""  # all this in words

    @property
    def may_retrain(self) -> bool:
        """One device is a matter for who looks after devices, not for training."""
        return self.level != "device"


@dataclass(frozen=True, slots=True)
class Closed:
    """An alarm that is over."""

    alarm: Alarm
    reason: str
    at_ms: int


def explained(alarm: Alarm) -> str:
    """An alarm in words."""
    where = {"fleet": "The fleet", "slice": f"Slice {alarm.name}", "device": alarm.name}
    subject = f"{where[alarm.level]} ({alarm.model})"
    since = datetime.fromtimestamp(alarm.change_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M")
    if alarm.statistic == "silence":
        return f"{subject}: no telemetry since {since} UTC. A ticket; no retraining."
    went = "fell" if alarm.now < alarm.usual else "rose"
    to_do = "May start a retraining." if alarm.may_retrain else "A ticket; no retraining."
    return (
        f"{subject}: {alarm.statistic} {went} from {alarm.usual:.3f} to {alarm.now:.3f}, most"
        f" likely since {since} UTC ({alarm.looks} looks, {alarm.devices} devices,"
        f" {alarm.utterances} utterances). Evidence {_power(alarm.log_evidence)}, needed"
        f" {_power(alarm.log_threshold)} with {alarm.streams} streams. {to_do}"
    )


def _power(log: float) -> str:
    return f"10^{log / math.log(10):.1f}"
