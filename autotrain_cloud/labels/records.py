"""A label: a segment, what every voice said of it, every rule's outcome, and the decision."""

from __future__ import annotations

from dataclasses import dataclass

from autotrain_cloud.labels.filters import Outcome
from autotrain_cloud.segments import Segment
from autotrain_cloud.teacher import Score, Transcript

DECISIONS = ("keep", "review", "drop", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One row of a label shard."""

    segment: Segment  # its audio path absolute, or a URL
    text: str  # plain; what the student would learn
    source: str  # human, source or teacher
    decision: str  # keep, review, drop; failed: it could not be labelled at all
    triage: str  # see labels.triage; empty: not asked
    reasons: tuple[str, ...]  # rules that decided against it, or what failed
    trust: float  # 0..1, estimated probability that a word of the text is right
    outcomes: tuple[Outcome, ...]  # of every rule
    speech_s: float
    voiced_s: float
    snr_db: float
    teacher: Transcript | None = None
    second: Transcript | None = None
    device_score: Score | None = None  # the device's text, weighed by the teacher
    teacher_device: float | None = None  # distances of plain texts, 0..1
    teacher_second: float | None = None
    second_device: float | None = None
