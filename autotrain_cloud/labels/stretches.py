"""The parts of a disputed segment on which two teachers agree, word for word.

Where two families of teachers hear the same words in a row, the words are nearly always right,
however wrong both are a moment later.  So a long segment that they dispute is not lost: it is cut
into stretches of agreed words, each a label of its own whose audio is a clip of the segment's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autotrain_cloud.labels.filters import Outcome
from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.text import distance, plain
from autotrain_cloud.segments import HeardWord
from edge_runtime.errors import ConfigError
from edge_runtime.metrics import align


@dataclass(frozen=True, slots=True, kw_only=True)
class StretchSettings:
    """Which stretches are worth cutting out."""

    min_words: int = 4
    margin_s: float = 0.15  # of audio around it, at most; half of the gap to the next word
    max_drift_s: float = 0.5  # between the two teachers' times of one word

    def __post_init__(self) -> None:
        if self.min_words < 1 or self.margin_s < 0 or self.max_drift_s <= 0:
            raise ConfigError("min_words and max_drift_s must be positive, margin_s 0 or more")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Words `first` to `stop` (exclusive) of the teacher's, and where they are in the audio."""

    first: int
    stop: int
    start_s: float
    end_s: float
    text: str


def agreed(
    teacher: Sequence[HeardWord],
    second: Sequence[HeardWord],
    duration_s: float,
    settings: StretchSettings,
) -> list[Stretch]:
    """The longest runs of words that both heard, at the same time and with nothing in between."""
    ours, theirs = _plain(teacher), _plain(second)
    runs: list[list[int]] = [[]]
    i = j = 0
    for a, b in align([word.word for word in ours], [word.word for word in theirs]).pairs:
        same = a is not None and a == b
        if same and abs(ours[i].start_s - theirs[j].start_s) <= settings.max_drift_s:
            runs[-1].append(i)
        else:
            runs.append([])
        i += a is not None
        j += b is not None
    found = []
    for run in runs:
        if len(run) >= settings.min_words:
            first, last = run[0], run[-1]
            before = ours[first - 1].end_s if first else 0.0
            after = ours[last + 1].start_s if last + 1 < len(ours) else duration_s
            start = ours[first].start_s - min(
                settings.margin_s, max(0.0, ours[first].start_s - before) / 2
            )
            end = ours[last].end_s + min(settings.margin_s, max(0.0, after - ours[last].end_s) / 2)
            text = " ".join(ours[k].word for k in run)
            found.append(Stretch(first, last + 1, max(0.0, start), min(duration_s, end), text))
    return found


def cut(label: Label, settings: StretchSettings) -> Iterator[Label]:
    """The agreed stretches of a label that is disputed and has nothing else against it."""
    if label.decision != "review" or label.reasons != ("disputed",):
        return
    if label.teacher is None or label.second is None:
        return
    segment = label.segment
    for stretch in agreed(label.teacher.words, label.second.words, segment.duration_s, settings):
        inside = [
            word
            for word in segment.words
            if stretch.start_s <= (word.start_s + word.end_s) / 2 < stretch.end_s
        ]
        heard = " ".join(word.word for word in inside)
        letters = sum(len(word.word) for word in inside)
        clip = replace(
            segment,
            id=f"{segment.id}@{round(stretch.start_s * 1000)}-{round(stretch.end_s * 1000)}",
            start_s=segment.start_s + stretch.start_s,
            end_s=segment.start_s + stretch.end_s,
            duration_s=stretch.end_s - stretch.start_s,
            text=heard,
            words=tuple(
                replace(
                    word, start_s=word.start_s - stretch.start_s, end_s=word.end_s - stretch.start_s
                )
                for word in inside
            ),
            confidence=sum(w.confidence * len(w.word) for w in inside) / max(1, letters),
        )
        # Without the device's words nobody knows whether it was right about these.
        apart = distance(stretch.text, plain(heard)) if segment.words else label.teacher_device
        detail = f"words {stretch.first + 1} to {stretch.stop} of the segment's, teachers agree"
        yield replace(
            label,
            segment=clip,
            text=stretch.text,
            decision="keep",
            triage="easy" if apart == 0 else "gold",
            reasons=(),
            trust=1.0,
            outcomes=(*label.outcomes, Outcome(rule="stretch", passed=True, detail=detail)),
            speech_s=min(label.speech_s, clip.duration_s),
            teacher_device=apart,
            teacher_second=0.0,
            second_device=apart,
            device_score=None,
        )


def whole(segment_id: str) -> str:
    """The segment that a stretch was cut out of; of a whole segment, itself."""
    return segment_id.partition("@")[0]


def _plain(words: Sequence[HeardWord]) -> list[HeardWord]:
    """Words as they are compared; one that splits into several keeps its times for each."""
    return [replace(word, word=part) for word in words for part in plain(word.word).split()]
