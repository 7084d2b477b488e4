"""From labels to the rows of a training set.

    usable labels -> no duplicates -> P(domain) · P(student is wrong) · trust
                  -> greedy and diverse, under quotas -> replay of old data -> rows with reasons

The same labels, settings and seed give the same rows, whatever the order of the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotrain_cloud.datasets.guard import GuardSettings, guards
from autotrain_cloud.datasets.manifest import Row
from autotrain_cloud.datasets.rows import drawn, row_of, voice
from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.stretches import whole
from autotrain_cloud.selection.domains import discover, probabilities
from autotrain_cloud.selection.duplicates import duplicates
from autotrain_cloud.selection.embedding import Vectors, fit_space
from autotrain_cloud.selection.greedy import Taken, take
from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSettings:
    """What a training set is to be."""

    target: str = ""  # a domain that has examples; empty: every domain counts alike
    min_domain: float = 0.5  # of a typical example's odds; less is no filler for a quota
    hours: float = 10.0  # at most, replay included
    max_device_hours: float = 1.0
    replay_share: float = 0.2  # of the hours: speech that the student knew before
    dev_share: float = 0.05  # of the voices; of the utterances, where that is less than one
    diversity: float = 0.5  # 0: utility alone; 1: as far apart as possible
    discovered: int = 8  # domains to find where no examples say what there is
    min_trust: float = 0.0
    languages: tuple[str, ...] = ()  # empty: any
    slices: tuple[str, ...] = ()  # empty: any; those of an alarm, say
    max_per_phrase: int = 20
    min_cosine: float = 0.95  # from which two texts of one voice are one
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("replay_share", "dev_share", "diversity", "min_trust", "min_domain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)} (expected 0 to 1)")
        if self.hours <= 0 or self.max_device_hours <= 0:
            raise ConfigError("hours and max_device_hours must be positive")


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows, and what became of every other label."""

    rows: tuple[Row, ...]
    left_out: Mapping[str, str]  # segment -> why


def select(
    labels: Sequence[Label],
    settings: SelectionSettings,
    *,
    examples: Mapping[str, Sequence[str]] | None = None,
    old: Sequence[Row] = (),
    guard: GuardSettings | None = None,
    acoustic: Mapping[str, Vectors] | None = None,
) -> Selection:
    """`examples`: sentences per domain.  `old`: rows of earlier sets, for replay.

    `acoustic`: a vector per segment, if any; it takes part in diversity beside the text.

    Raises ConfigError: nothing is left to select, which says what took the rest away.
    """
    examples = dict(examples or {})
    if settings.target and settings.target not in examples:
        raise ConfigError(
            f"target: {settings.target!r} has no example sentences "
            f"(there are: {', '.join(sorted(examples)) or 'none'})"
        )
    left_out: dict[str, str] = {}
    usable = []
    for label in sorted(labels, key=lambda label: label.segment.id):
        if why := _unusable(label, settings, guard):
            left_out[label.segment.id] = why
        else:
            usable.append(label)
    labelled = {label.segment.id for label in usable}
    usable = _one_each(usable)
    in_part = labelled - {label.segment.id for label in usable}
    left_out.update(dict.fromkeys(in_part, "only the student said it, and a part is confirmed"))
    # The best first: of duplicates the first is kept.
    usable.sort(
        key=lambda label: (
            label.source == "teacher", label.triage == "alone", -label.trust, label.segment.id
        )
    )  # fmt: skip
    if not usable:
        raise ConfigError(f"nothing to select from {len(labels)} labels{_tally(left_out)}")
    space = fit_space([label.text for label in usable], seed=settings.seed)
    points = space.embed([label.text for label in usable])
    voices = [voice(label.segment.device, label.segment.speaker) for label in usable]
    twice = duplicates(
        points, [label.text for label in usable],
        [label.segment.audio_sha256 for label in usable], voices,
        min_cosine=settings.min_cosine, max_per_phrase=settings.max_per_phrase,
        seed=settings.seed,
    )  # fmt: skip
    left_out.update({usable[index].segment.id: why for index, why in twice.items()})
    kept = [index for index in range(len(usable)) if index not in twice]
    usable, points = [usable[index] for index in kept], points[kept]

    texts = [label.text for label in usable]
    chances = probabilities(texts, examples, seed=settings.seed)
    if examples:
        names = sorted(chances)
        best = np.stack([chances[name].of for name in names]).argmax(axis=0)
        domains = [names[index] for index in best]
    else:
        found = discover(space, points, texts, settings.discovered, seed=settings.seed)
        domains = [found.names[index] for index in found.of]
    p_domain = chances[settings.target].of if settings.target else np.ones(len(usable))
    p_wrong = np.array([probably_wrong(label) for label in usable])
    trust = np.array([label.trust for label in usable])
    utility = p_domain * p_wrong * trust
    if settings.target:
        utility[chances[settings.target].parts < settings.min_domain] = 0.0  # never taken

    replay = _replay(old, usable, settings)
    spent = sum(row.duration_s for row in replay)
    taken = take(
        utility,
        _joined(points, usable, acoustic),
        [label.segment.duration_s for label in usable],
        [label.segment.slice for label in usable],
        [label.segment.device for label in usable],
        budget_s=settings.hours * 3600 - spent,
        max_device_s=settings.max_device_hours * 3600,
        diversity=settings.diversity,
    )
    rows = []
    for place, one in enumerate(taken):
        label = usable[one.index]
        row = row_of(label, "train", "")
        rows.append(
            replace(
                row,
                domain=row.domain or domains[one.index],
                utility=float(utility[one.index]),
                p_domain=float(p_domain[one.index]),
                p_wrong=float(p_wrong[one.index]),
                diversity=one.distance,
                reason=_reason(place, one, label, float(p_domain[one.index]), settings),
            )
        )
    if not rows:
        raise ConfigError(
            f"none of {len(usable)} usable labels was selected: each is of another "
            "domain, known to the student, longer than what is left of the hours, or over its "
            "device's limit"
        )
    rows, kept_apart = _split(rows, settings.dev_share)
    chosen = {row.segment_id for row in rows}
    for label, use in zip(usable, utility, strict=True):
        if label.segment.id not in chosen:
            left_out[label.segment.id] = (
                "less useful than what fits the hours" if use else "of another domain, or known"
            )
    left_out.update(dict.fromkeys(kept_apart, "of a voice that develops, and nobody confirms it"))
    left_out = {segment: why for segment, why in left_out.items() if segment not in chosen}
    return Selection((*rows, *(r for r in replay if r.segment_id not in chosen)), left_out)


def _one_each(labels: Sequence[Label]) -> list[Label]:
    """Of several labels of a segment the best; none that nobody confirmed where a part was."""

    def rank(label: Label) -> tuple[bool, bool, bool, float, str]:
        return (
            label.source == "teacher", label.triage == "alone", label.triage == "easy",
            -label.trust, label.text,
        )  # fmt: skip

    best: dict[str, Label] = {}
    for label in sorted(labels, key=rank):
        best.setdefault(label.segment.id, label)
    confirmed = {whole(label.segment.id) for label in labels if label.triage != "alone"}
    return [
        label
        for label in best.values()
        if label.triage != "alone" or label.segment.id not in confirmed
    ]


def _split(rows: Sequence[Row], dev_share: float) -> tuple[list[Row], list[str]]:
    """A share of the voices to one side; or of few voices, none like the others, of utterances.

    An utterance stays on its side from set to set, but neither side stays empty. What a student
    is measured on is confirmed by somebody: where nothing else is there, by itself.

    -> the rows, and the segments that belong to neither side
    """
    alone = {row.segment_id for row in rows if row.triage == "alone"}
    measuring = [row for row in rows if row.segment_id not in alone] or rows
    voices = {voice(row.device, row.speaker) for row in measuring}
    apart = {name for name in voices if drawn(name, "dev") < dev_share}
    dev = {row.segment_id for row in measuring if voice(row.device, row.speaker) in apart}
    neither: set[str] = set()
    if dev_share * len(voices) < 1 or apart in (set(), voices):
        draws = {row.segment_id: drawn(row.segment_id, "dev") for row in measuring}
        below = sum(draw < dev_share for draw in draws.values())
        count = min(max(1, below), len(rows) - 1) if dev_share else 0
        dev = set(sorted(draws, key=draws.__getitem__)[:count])
    else:
        of_apart = {row.segment_id for row in rows if voice(row.device, row.speaker) in apart}
        neither = of_apart - dev
    sides = [
        replace(row, split="dev" if row.segment_id in dev else "train")
        for row in rows
        if row.segment_id not in neither
    ]
    return sides, sorted(neither)


def probably_wrong(label: Label) -> float:
    """P(the student is wrong): by its confidence, or by how far the label is from what it heard."""
    distance = label.teacher_device or 0.0
    if label.triage == "easy":
        return 0.0
    return max(1.0 - label.segment.confidence, distance)


def _unusable(label: Label, settings: SelectionSettings, guard: GuardSettings | None) -> str:
    if label.decision != "keep":
        return f"{label.decision}: {', '.join(label.reasons)}"
    if not label.text:
        return "no words"
    if label.trust < settings.min_trust:
        return f"trust below {settings.min_trust:g}"
    if settings.slices and label.segment.slice not in settings.slices:
        return "another slice"
    language = label.segment.language.partition("-")[0]
    if settings.languages and language and language not in settings.languages:
        return "another language"
    if guard is not None and guards(label.segment.device, label.segment.speaker, guard):
        return "a guarding voice"
    return ""


def _replay(old: Sequence[Row], usable: Sequence[Label], settings: SelectionSettings) -> list[Row]:
    """Old rows, and new speech that the student already understands, in an order by hash."""
    known = {
        label.segment.id: row_of(label, "replay", "replay: the student is right about it")
        for label in usable
        if label.triage == "easy"
    }
    for row in old:
        if row.split != "guard":
            known[row.segment_id] = replace(row, split="replay", reason="replay: of an older set")
    budget = settings.hours * 3600 * settings.replay_share
    rows: list[Row] = []
    for row in sorted(
        known.values(), key=lambda row: drawn(row.segment_id, f"replay/{settings.seed}")
    ):
        if row.duration_s <= budget:
            rows.append(row)
            budget -= row.duration_s
    return rows


def _joined(
    points: Vectors, labels: Sequence[Label], acoustic: Mapping[str, Vectors] | None
) -> Vectors:
    """Text and sound side by side, half the similarity each."""
    if not acoustic:
        return points
    size = len(next(iter(acoustic.values())))
    sound = np.zeros((len(labels), size), np.float32)
    for index, label in enumerate(labels):
        if (vector := acoustic.get(label.segment.id)) is not None:
            sound[index] = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return np.concatenate([points, sound], axis=1) * np.float32(np.sqrt(0.5))


def _reason(
    place: int, one: Taken, label: Label, p_domain: float, settings: SelectionSettings
) -> str:
    parts = [f"{place + 1}. taken"]
    if settings.target:
        parts.append(f"{settings.target} {p_domain:.2f}")
    parts.append(f"student wrong {probably_wrong(label):.2f}")
    parts.append(f"{label.source} {label.triage} trust {label.trust:.2f}".replace("  ", " "))
    parts.append(f"new by {one.distance:.2f}")
    parts.append(
        f"within the quota of its slice {label.segment.slice!r}"
        if one.quota == "quota"
        else "in place of slices with too little"
    )
    return "; ".join(parts)


def _tally(left_out: Mapping[str, str]) -> str:
    from collections import Counter

    counts = Counter(left_out.values()).most_common(3)
    return ": " + "; ".join(f"{count} {why}" for why, count in counts) if counts else ""
