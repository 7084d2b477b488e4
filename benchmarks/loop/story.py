"""What happened, in seconds after the first drifted utterance: from the store's journal."""

from __future__ import annotations

from dataclasses import dataclass, field

from autotrain_cloud.service import journal
from autotrain_cloud.store import Store

FAILED = ("rejected", "parked", "cancelled")


@dataclass(frozen=True, slots=True)
class Event:
    at_s: float
    kind: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.at_s:7.0f} s  {self.kind:<10} {self.subject:<16} {self.text}"


@dataclass
class Story:
    """Follows the journal. `over` says how it ended: `completed` is the end that one hopes for."""

    begun: float  # Unix time of the first drifted utterance
    events: list[Event] = field(default_factory=list)
    over: str = ""
    _number: int = 0

    def follow(self, store: Store) -> list[Event]:
        """-> what is new."""
        with store.read() as db:
            rows = journal.since(db, self._number)
        new = []
        for row in rows:
            self._number = row.number
            at_s = round(row.at_ms / 1000 - self.begun, 1)
            new.append(Event(at_s, row.kind, row.subject, row.text))
            first = row.text.split(":")[0]
            if row.kind == "rollout" and first in ("completed", "reverted"):
                self.over = first
            if row.kind == "run" and first in FAILED:
                self.over = row.text
        self.events += new
        return new

    def first(self, kind: str, begins: str = "") -> float | None:
        """Seconds."""
        return next(
            (e.at_s for e in self.events if e.kind == kind and e.text.startswith(begins)), None
        )

    def stages(self) -> dict[str, float | None]:
        """From the drift to the fleet; None for what did not happen."""
        return {
            "alarm": self.first("alarm"),
            "retraining began": self.first("run"),
            "published": self.first("run", "done"),
            "fleet updated": self.first("rollout", "completed"),
        }
