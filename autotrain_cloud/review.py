"""Which labels people should look at, and what becomes of their answers.  Pure over records.

The queue takes the most informative first, but never twice the same: sorted by uncertainty alone
the top of a queue is one phrase said a hundred times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotrain_cloud.datasets.rows import drawn
from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.stretches import whole
from autotrain_cloud.labels.text import plain
from autotrain_cloud.selection.embedding import fit_space
from autotrain_cloud.selection.greedy import take
from edge_runtime.errors import ConfigError

SAMPLE = "random sample"  # why an item is there that was not chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A place in the queue."""

    segment_id: str
    priority: float  # 0..1
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A label that a person may be asked about."""

    segment_id: str
    text: str
    doubt: float  # 0..1: how much an answer would tell
    reasons: str
    slice: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a person says of a segment."""

    segment_id: str
    reviewer: str
    at_ms: int  # since 1970, UTC
    verdict: str  # text: this is what was said; unusable: nothing can be learned from it
    text: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in ("text", "unusable"):
            raise ConfigError(f"verdict: {self.verdict!r} (expected text or unusable)")
        if not self.reviewer or not self.segment_id:
            raise ConfigError("segment_id and reviewer must not be empty")


def queue(labels: Sequence[Label], count: int, *, random_share: float = 0.1) -> list[Item]:
    """The next `count` segments for people.

    Some are drawn at random from all labels: without those nobody learns how good the labels are
    that look good.
    """
    ordered = sorted(labels, key=lambda label: label.segment.id)
    waiting = [
        label for label in ordered if label.source == "teacher" and label.decision != "failed"
    ]
    if not waiting or count < 1:
        return []
    sample = sorted(waiting, key=lambda label: drawn(label.segment.id, "review"))
    chosen = sample[: round(count * random_share)]
    names = [label.segment.id for label in chosen]
    asked = [
        Asked(
            segment_id=label.segment.id, text=label.text, doubt=doubt(label),
            reasons=", ".join(label.reasons), slice=label.segment.slice,
            device=label.segment.device,
        )
        for label in waiting if label.decision == "review"
    ]  # fmt: skip
    return ordered_queue(names, asked, count)


def ordered_queue(sample: Sequence[str], asked: Sequence[Asked], count: int) -> list[Item]:
    """`sample`: segments that were drawn at random; the rest of `count` is filled from `asked`,
    the doubtful and new first, at most a quarter from one device.
    """
    items = {name: Item(segment_id=name, priority=1.0, why=SAMPLE) for name in sample}
    asked = [one for one in asked if one.segment_id not in items]
    if asked and count > len(items):
        texts = [one.text or "nothing" for one in asked]
        uncertainty = np.array([one.doubt for one in asked])
        taken = take(
            uncertainty, fit_space(texts).embed(texts), [1.0] * len(asked),
            [one.slice for one in asked], [one.device for one in asked],
            budget_s=count - len(items), max_device_s=max(1.0, count / 4), diversity=1.0,
        )  # fmt: skip
        for place in taken:
            one = asked[place.index]
            items[one.segment_id] = Item(
                segment_id=one.segment_id, priority=float(one.doubt * place.distance),
                why=f"{one.reasons}; doubt {one.doubt:.2f}, new by {place.distance:.2f}",
            )  # fmt: skip
    return sorted(items.values(), key=lambda item: (-item.priority, item.segment_id))


def doubt(label: Label) -> float:
    """How much a person's answer would tell: voices that differ, and a teacher that is unsure."""
    apart = [d for d in (label.teacher_device, label.teacher_second) if d is not None]
    unsure = 1.0 - label.teacher.confidence if label.teacher else 1.0
    return float(np.clip(0.7 * max(apart, default=1.0) + 0.3 * unsure, 0.01, 1.0))


def apply(labels: Iterable[Label], reviews: Iterable[Review]) -> list[Label]:
    """Labels with people's words in place of teachers'; all that teachers said is kept beside them.

    Clips of a segment that a person has answered about are dropped: the answer covers them.  Of
    several reviews of one segment the newest counts.  Raises ConfigError for a review of a segment
    that is not there: an answer must not get lost.
    """
    newest: dict[str, Review] = {}
    for review in reviews:
        before = newest.get(review.segment_id)
        if before is None or (before.at_ms, before.reviewer) <= (review.at_ms, review.reviewer):
            newest[review.segment_id] = review
    made, met = [], set()
    for label in labels:
        name = label.segment.id
        met.add(name)
        if name in newest:
            made.append(_reviewed(label, newest[name]))
        elif whole(name) in newest:
            made.append(replace(label, decision="drop", reasons=("the whole was reviewed",)))
        else:
            made.append(label)
    if lost := newest.keys() - met:
        raise ConfigError(f"a review of segment {min(lost)}, which is not among these labels")
    return made


def _reviewed(label: Label, review: Review) -> Label:
    stamp = f"reviewed by {review.reviewer} at {review.at_ms}"
    if review.verdict == "unusable":
        return replace(
            label, source="human", decision="drop", reasons=("unusable", stamp), trust=0.0
        )
    return replace(
        label, text=plain(review.text), source="human", decision="keep", reasons=(stamp,), trust=1.0
    )
