"""The labelling step: a shard of segments in, a shard of labels out.

    labeler = Labeler.open(settings)
    path = label_shard(Path("segments-0001.jsonl"), Path("labels"), labeler)

The output's name holds a digest of the segments, the settings and the teachers, and it appears with
one rename.  So a step that was killed is run again: what is there is right, and is left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autotrain_cloud.labels.filters import (
    FilterSettings,
    Outcome,
    check_settings,
    check_speech,
    check_transcript,
    combine,
    failed,
)
from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.stretches import StretchSettings, cut
from autotrain_cloud.labels.text import distance, plain
from autotrain_cloud.labels.triage import TriageSettings, triage
from autotrain_cloud.labels.trust import TrustModel, agreement
from autotrain_cloud.segments import Samples, Segment, read_segments, resolved, segment_audio
from autotrain_cloud.speech import SpeechEvidence, find_speech
from autotrain_cloud.tables import read_rows, to_plain, write_rows
from autotrain_cloud.teacher import (
    Score,
    Scorer,
    Teacher,
    TeacherSettings,
    Transcript,
    open_teacher,
)
from autotrain_cloud.teacher.digests import file_digest
from edge_runtime.errors import AudioError, ConfigError

log = logging.getLogger(__name__)

FORMAT = 1  # of label shards; part of their names
# A teacher's doubts, which agreement of two families overrules.
DOUBTS = ("avg_logprob", "no_speech_prob", "confidence")
NOISY_DB = 10.0  # signal to noise, below which speech is not all seen
# What a person can put right.
REPAIRABLE = ("alphabet",)
_NOTHING = SpeechEvidence(speech_s=0.0, voiced_s=0.0, snr_db=0.0, level_db=-120.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """Everything that decides what a label is."""

    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    second: TeacherSettings | None = None  # of another family
    score_device: bool = True  # weigh the device's text, where the teacher can
    filters: FilterSettings = field(default_factory=FilterSettings)
    triage: TriageSettings = field(default_factory=TriageSettings)
    stretches: StretchSettings | None = field(default_factory=StretchSettings)
    trust: Path | None = None  # a fitted model; none: agreement itself


@dataclass(frozen=True, slots=True)
class Labeler:
    """Teachers, opened; use it from one thread."""

    settings: LabelSettings
    teacher: Teacher
    second: Teacher | None
    trust: TrustModel | None

    @classmethod
    def open(cls, settings: LabelSettings) -> Labeler:
        """Raises ConfigError: a teacher is missing, or the two are of one family."""
        check_settings(settings.filters)
        teacher = open_teacher(settings.teacher)
        second = open_teacher(settings.second) if settings.second else None
        if second is not None and second.provenance.family == teacher.provenance.family:
            raise ConfigError(
                f"second: both teachers are of the family {second.provenance.family!r}, which "
                "makes the same mistakes; choose another, or none"
            )
        trust = TrustModel.load(settings.trust) if settings.trust else None
        return cls(settings, teacher, second, trust)

    @property
    def key(self) -> str:
        """Digest of all that decides what this makes of a segment."""
        settings = self.settings
        parts = (
            FORMAT,
            to_plain(self.teacher.provenance),
            to_plain(self.second.provenance) if self.second else None,
            settings.score_device,
            to_plain(settings.filters),
            to_plain(settings.triage),
            to_plain(settings.stretches),
            to_plain(self.trust) if self.trust else None,
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def label(self, segments: Sequence[Segment], base: Path) -> Iterator[Label]:
        """A label for every segment, in order, each before the agreed stretches that it has.

        Relative paths are relative to `base`.
        Raises StorageError where audio cannot be reached now: no label is made up for it.
        """
        size = self.teacher.batch_size
        for start in range(0, len(segments), size):
            for label in self._batch(segments[start : start + size], base):
                yield label
                if self.settings.stretches:
                    yield from cut(label, self.settings.stretches)

    def _batch(self, segments: Sequence[Segment], base: Path) -> list[Label]:
        labels: list[Label | None] = []
        asked: list[tuple[int, Samples, SpeechEvidence]] = []
        for index, segment in enumerate(segments):
            labels.append(None)
            try:
                samples = segment_audio(segment, base)
                evidence = find_speech(samples)
            except AudioError as error:
                labels[index] = unlabelled(resolved(segment, base), "failed", str(error))
                continue
            outcomes = check_speech(evidence, self.settings.filters)
            if failed(outcomes) and segment.reference is None:
                labels[index] = unlabelled(
                    resolved(segment, base), "drop", *failed(outcomes),
                    outcomes=tuple(outcomes), evidence=evidence,
                )  # fmt: skip
            else:
                asked.append((index, samples, evidence))
        audio = [samples for _, samples, _ in asked]
        first = self.teacher.transcribe(audio)
        second = self.second.transcribe(audio) if self.second else [None] * len(audio)
        scores: Sequence[Score | None] = [None] * len(audio)
        if self.settings.score_device and isinstance(self.teacher, Scorer) and audio:
            scores = self.teacher.score(audio, [segments[index].text for index, _, _ in asked])
        for (index, _, evidence), heard, other, score in zip(
            asked, first, second, scores, strict=True
        ):
            segment = resolved(segments[index], base)
            labels[index] = judge(segment, evidence, heard, other, score, self.settings, self.trust)
        return [label for label in labels if label is not None]


def judge(
    segment: Segment,
    evidence: SpeechEvidence,
    teacher: Transcript,
    second: Transcript | None,
    score: Score | None,
    settings: LabelSettings,
    trust: TrustModel | None = None,
) -> Label:
    """The decision, from what every voice said.  Pure: it can be repeated with other settings."""
    text, device = plain(teacher.text), plain(segment.text)
    other = plain(second.text) if second else None
    to_device = distance(text, device)
    to_second = None if other is None else distance(text, other)
    outcomes = combine(
        check_speech(evidence, settings.filters),
        check_transcript(teacher, text, _spoken_s(evidence, teacher), settings.filters),
    )
    kind = triage(
        to_device, to_second, settings.triage,
        confidence=teacher.confidence, device_confidence=segment.confidence,
        words=len(text.split()),
    )  # fmt: skip
    decision, reasons = decide(kind, failed(outcomes))
    label = Label(
        segment=segment,
        text=text,
        source="teacher",
        decision=decision,
        triage=kind,
        reasons=reasons,
        trust=teacher.confidence if kind in ("alone", "ahead") else agreement(to_device, to_second),
        outcomes=outcomes,
        speech_s=evidence.speech_s,
        voiced_s=evidence.voiced_s,
        snr_db=evidence.snr_db,
        teacher=teacher,
        second=second,
        device_score=score,
        teacher_device=to_device,
        teacher_second=to_second,
        second_device=None if other is None else distance(other, device),
    )
    if trust is not None:
        label = replace(label, trust=trust.of(label))
    if segment.reference is not None:  # what a person says stands, whatever a teacher heard
        label = replace(
            label, text=plain(segment.reference), source=segment.reference_source,
            decision="keep", reasons=(), trust=1.0,
        )  # fmt: skip
    return label


def _spoken_s(evidence: SpeechEvidence, teacher: Transcript) -> float:
    """How long it was spoken. In noise soft sounds drown: there the words' own times count too."""
    if evidence.snr_db >= NOISY_DB or not teacher.words:
        return evidence.speech_s
    return max(evidence.speech_s, teacher.words[-1].end_s - teacher.words[0].start_s)


def decide(kind: str, broken: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """-> keep, review or drop, and what speaks against keeping."""
    confirmed = kind in ("easy", "gold")
    counted = [rule for rule in broken if not (confirmed and rule in DOUBTS)]
    if any(rule not in REPAIRABLE for rule in counted):
        return "drop", tuple(counted)
    if counted or kind in ("disputed", "lone"):
        return "review", (*counted, *((kind,) if kind in ("disputed", "lone") else ()))
    return "keep", ()


def unlabelled(
    segment: Segment,
    decision: str,
    *reasons: str,
    outcomes: tuple[Outcome, ...] = (),
    evidence: SpeechEvidence = _NOTHING,
) -> Label:
    """For a segment that no teacher was asked about."""
    return Label(
        segment=segment, text="", source="teacher", decision=decision, triage="",
        reasons=reasons, trust=0.0, outcomes=outcomes, speech_s=evidence.speech_s,
        voiced_s=evidence.voiced_s, snr_db=evidence.snr_db,
    )  # fmt: skip


# --- shards ---------------------------------------------------------------------------------------


def label_shard(shard: Path, out: Path, labeler: Labeler) -> Path:
    """Label one shard, unless that has been done; -> where the labels are.

    Raises ConfigError: the shard is malformed.  StorageError: audio cannot be reached now.
    """
    segments = list(read_segments(shard))
    digest = hashlib.sha256(f"{labeler.key}{file_digest(shard)}".encode()).hexdigest()
    path = out / f"{shard.stem}-{digest[:16]}.parquet"
    if not path.exists():
        write_rows(path, Label, labeler.label(segments, shard.parent))
    return path


def read_labels(path: Path) -> Iterator[Label]:
    """The labels of a shard.  Raises ConfigError."""
    return read_rows(path, Label)
