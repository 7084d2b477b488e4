"""What the monitor goes by."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.errors import ConfigError

DAY_MS = 86_400_000
LOOKS_OF_RATE = 30  # that the rates below are about


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """When to look, what is small enough not to matter, how often to be wrong.

    Raises ConfigError naming the field.
    """

    look_ms: int = DAY_MS  # a day averages over the hours, which differ
    false_alarms: float = 0.1  # expected at most in 30 looks: fleet and slices together
    false_tickets: float = 1.0  # the same, of all devices together
    confidence_tolerance: float = 0.015  # a fall of the mean that is not worth a retraining
    upload_tolerance: float = 0.03  # a rise of the share that devices want to upload
    warmup_looks: int = 5  # of a device with a model, before they are compared with themselves
    warmup_utterances: int = 100  # in those
    block_utterances: int = 8  # that a device's own detector takes as one observation
    full_utterances: int = 20  # more in one observation weigh no more
    silent_looks: int = 3  # without a report: a ticket
    calm_looks: int = 5  # in a row without the shift: the alarm is over
    forget_looks: int = 30  # without a report: the slice is dropped

    def __post_init__(self) -> None:
        for name in ("false_alarms", "false_tickets"):
            if not 0 < getattr(self, name) <= 30:
                raise ConfigError(f"monitor: {name}: above 0, at most 30")
        for name in ("confidence_tolerance", "upload_tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"monitor: {name}: 0 to 1, not {getattr(self, name)}")
        if self.warmup_looks < 2:
            raise ConfigError("monitor: warmup_looks: 2 or more: one look has no spread")
        for name in ("look_ms", "warmup_utterances", "block_utterances", "full_utterances",
                     "silent_looks", "calm_looks", "forget_looks"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"monitor: {name}: 1 or more, not {getattr(self, name)}")
