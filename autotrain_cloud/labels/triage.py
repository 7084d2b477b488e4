"""Which labels are worth what, by who agrees with whom.

| triage | teacher and device | teacher and second teacher | worth |
|---|---|---|---|
| `easy` | the same words | any | true, but the student knows it: replay |
| `gold` | differ | agree | true, and new to the student: train |
| `sure` | differ | nearly agree, and the teacher is sure | mostly true, and new: train |
| `ahead` | differ, the device is lost | disagree, but the teacher fairly sure | often true: train |
| `near` | nearly agree | nobody to ask | mostly true: train, with less trust |
| `disputed` | differ | disagree | a person should listen |
| `alone` | differ | nobody to ask, but the teacher is sure | often true: train, after all others |
| `lone` | differ much | nobody to ask | nobody confirms it: a person, or nothing |

`near` is what one teacher can do: the device itself is the second voice.

What agrees is what both understand already, so labels by agreement alone are easy ones. `sure` adds
harder ones; how sure a teacher must be depends on its confidences, so it is off until it is set.
So is `alone`, for a teacher of the device's family, which the device confirms nothing to: a student
that teaches its successor (noisy student training, arXiv:2005.09629).

A device that understands hardly anything agrees with nobody, and nor does a second teacher of its
family. There `ahead` trusts the first one: words of which a third are wrong teach such a device
more than the few that are sure to be right.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.errors import ConfigError

KINDS = ("easy", "gold", "sure", "ahead", "near", "alone", "disputed", "lone")


@dataclass(frozen=True, slots=True, kw_only=True)
class TriageSettings:
    """Distances are character edits over the length of the longer text."""

    max_easy: float = 0.0  # teacher to device, to count as the same
    max_teachers: float = 0.1  # teacher to teacher, to agree
    max_sure: float = 0.3  # teacher to teacher, where the first is sure
    sure_confidence: float = 1.0  # of the teacher, to be sure: above this; 1: never
    max_near: float = 0.2  # teacher to device, where there is no second teacher
    alone_confidence: float = 1.0  # instead: of the teacher, to be believed alone; 1: never
    ahead_confidence: float = 1.0  # of the teacher, to be believed against the second; 1: never …
    lost_confidence: float = 0.4  # … and of the device, not to be: below this
    ahead_words: int = 8  # at least: how sure a teacher is of a few words says little

    def __post_init__(self) -> None:
        if not 0 <= self.max_easy <= self.max_near <= 1 or not 0 <= self.max_teachers <= 1:
            raise ConfigError("distances are 0 to 1, and max_easy is not above max_near")
        for name in (
            "max_sure", "sure_confidence", "alone_confidence", "ahead_confidence",
            "lost_confidence",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is 0 to 1")
        if self.ahead_words < 1:
            raise ConfigError("ahead_words is 1 or more")


def triage(
    teacher_device: float,
    teacher_second: float | None,
    settings: TriageSettings,
    *,
    confidence: float = 0.0,
    device_confidence: float = 1.0,
    words: int = 0,
) -> str:
    """One of KINDS, from distances of plain texts (None: there was no second teacher), the mean
    confidences of teacher and device, and how many words the teacher heard.
    """
    if teacher_device <= settings.max_easy:
        return "easy"
    if teacher_second is None:
        if settings.alone_confidence < 1:
            return "alone" if confidence > settings.alone_confidence else "lone"
        return "near" if teacher_device <= settings.max_near else "lone"
    if teacher_second <= settings.max_teachers:
        return "gold"
    if teacher_second <= settings.max_sure and confidence > settings.sure_confidence:
        return "sure"
    is_lost = device_confidence < settings.lost_confidence
    is_ahead = confidence > settings.ahead_confidence and words >= settings.ahead_words
    return "ahead" if is_lost and is_ahead else "disputed"
