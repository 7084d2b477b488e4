"""Which labels are worth what, by who agrees with whom.

| triage | teacher and device | teacher and second teacher | worth |
|---|---|---|---|
| `easy` | the same words | any | true, but the student knows it: replay |
| `gold` | differ | agree | true, and new to the student: train |
| `near` | nearly agree | nobody to ask | mostly true: train, with less trust |
| `disputed` | differ | disagree | a person should listen |
| `lone` | differ much | nobody to ask | nobody confirms it: a person, or nothing |

`near` is what one teacher can do: the device itself is the second voice.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.errors import ConfigError

KINDS = ("easy", "gold", "near", "disputed", "lone")


@dataclass(frozen=True, slots=True, kw_only=True)
class TriageSettings:
    """Distances are character edits over the length of the longer text."""

    max_easy: float = 0.0  # teacher to device, to count as the same
    max_teachers: float = 0.1  # teacher to teacher, to agree
    max_near: float = 0.2  # teacher to device, where there is no second teacher

    def __post_init__(self) -> None:
        if not 0 <= self.max_easy <= self.max_near <= 1 or not 0 <= self.max_teachers <= 1:
            raise ConfigError("distances are 0 to 1, and max_easy is not above max_near")


def triage(teacher_device: float, teacher_second: float | None, settings: TriageSettings) -> str:
    """One of KINDS, from distances of plain texts; None: there was no second teacher."""
    if teacher_device <= settings.max_easy:
        return "easy"
    if teacher_second is None:
        return "near" if teacher_device <= settings.max_near else "lone"
    return "gold" if teacher_second <= settings.max_teachers else "disputed"
