"""Pseudo-labels: how wrong they are, and what each filter leaves.

Labels are what pocketsphinx hears; the device is the bundle, greedy at 320 ms; the second voice is
the same bundle in float32, with beam search, its language model and the longest chunk. A label's
WER is against people's words, pooled; `kept` is the share of the reference words. `ratio` is the
WER of what is kept over that of all labels.

* agreement: distance to the device's text, at most so much (character edits over the longer text);
* second voice: the same with the second voice; both: the larger of the two;
* confidence: pocketsphinx's own, at the same share kept as agreement: the rival;
* fitted: `labels.trust`, fitted on the other speakers' labels, at the same share; `-` where there
  are too few others.

By default: what the default settings keep whole (`labels.label.decide`); of the rest of the
segments only stretches are learnt from.

Stretches: runs of at least so many words on which pocketsphinx and the second voice agree, cut out
of the utterances (`labels.stretches`); errors are those of the words inside. Words that both missed
beside a cut are not counted, though some of their sound may be in the clip.

The demo bundle was trained on some LibriSpeech readers, so what it says of them is too good; a set
of reader 5652 alone is new to it.

The speech gate: share of utterances that pass, of synthetic noise that does.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotrain_cloud.labels.filters import FilterSettings, check_speech, failed
from autotrain_cloud.labels.label import LabelSettings, judge
from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.stretches import StretchSettings, agreed
from autotrain_cloud.labels.text import plain
from autotrain_cloud.labels.trust import MIN_CHECKED, fit_trust
from autotrain_cloud.segments import Samples, Segment, segment_audio
from autotrain_cloud.speech import find_speech
from autotrain_cloud.tables import read_rows, write_rows
from autotrain_cloud.teacher import TeacherSettings, Transcript, open_teacher
from benchmarks import measure
from benchmarks.measure import Table
from edge_runtime.manifest import Utterance
from edge_runtime.metrics import Alignment, ErrorCounts, align, word_errors

DISTANCES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
STRETCH_WORDS = (1, 2, 4, 6, 8)
RATE = 16_000  # Hz


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth utterance")


def run(args: argparse.Namespace) -> dict[str, Any]:
    results = {}
    for name, utterances in measure.manifests(args.manifest, None).items():
        results[name] = judged(args.bundle, utterances[:: args.every])
    return {"sets": results, "noise": noise_passing()}


def judged(bundle: Path, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """All filters over one test set."""
    segments = heard_by_device(bundle, utterances)
    teachers = heard(TeacherSettings(name="pocketsphinx"), segments)
    seconds = heard(TeacherSettings(name="bundle", model=str(bundle)), segments)
    labels = []
    for segment, teacher, second in zip(segments, teachers, seconds, strict=True):
        evidence = find_speech(segment_audio(segment, Path()))
        labels.append(judge(segment, evidence, teacher, second, None, LabelSettings()))
    references = [utterance.text for utterance in utterances]
    counts = [word_errors(r, lb.text) for r, lb in zip(references, labels, strict=True)]
    gate = [not set(failed(lb.outcomes)) & {"speech", "voiced"} for lb in labels]
    total = _pooled(counts, [True] * len(counts))
    scores: dict[str, list[float]] = {
        "agreement": [-(lb.teacher_device or 0.0) for lb in labels],
        "second voice": [-(lb.teacher_second or 0.0) for lb in labels],
        "both": [-max(lb.teacher_device or 0.0, lb.teacher_second or 0.0) for lb in labels],
    }
    rivals = {"confidence": [lb.teacher.confidence if lb.teacher else 0.0 for lb in labels]}
    if (trust := fitted(labels, references)) is not None:
        rivals["fitted"] = trust
    table = []
    for distance in DISTANCES:
        row: dict[str, Any] = {"distance": distance}
        for name, score in scores.items():
            kept = [value >= -distance for value in score]
            row[name] = _kept(counts, kept, total)
            if name == "agreement":
                for rival, values in rivals.items():
                    row[rival] = _kept(counts, _top(counts, values, kept), total)
        table.append(row)
    return {
        "utterances": len(labels),
        "audio_s": sum(u.duration for u in utterances),
        "label_wer": total.rate,
        "device_wer": _pooled(
            [word_errors(r, plain(s.text)) for r, s in zip(references, segments, strict=True)],
            [True] * len(labels),
        ).rate,
        "passing_gate": sum(gate) / len(gate),
        "decisions": {
            kind: sum(lb.decision == kind for lb in labels) for kind in ("keep", "review", "drop")
        },
        "kept_by_default_settings": _kept(counts, [lb.decision == "keep" for lb in labels], total),
        "stretches": {
            str(words): stretches(references, teachers, seconds, segments, words, total)
            for words in STRETCH_WORDS
        },
        "filters": table,
    }


def stretches(
    references: Sequence[str],
    teachers: Sequence[Transcript],
    seconds: Sequence[Transcript],
    segments: Sequence[Segment],
    min_words: int,
    total: ErrorCounts,
) -> dict[str, Any]:
    """What agreed stretches of at least `min_words` words hold."""
    settings = StretchSettings(min_words=min_words)
    counts, clips, seconds_kept = ErrorCounts(), 0, 0.0
    for reference, teacher, second, segment in zip(
        references, teachers, seconds, segments, strict=True
    ):
        # Of each word of the teacher's: itself aligned, and the words missing before it.
        heard: list[Alignment] = []
        pending: list[tuple[str | None, str | None]] = []
        for pair in align(reference.split(), [word.word for word in teacher.words]).pairs:
            pending.append(pair)
            if pair[1] is not None:
                heard.append(Alignment(tuple(pending)))
                pending = []
        for found in agreed(teacher.words, second.words, segment.duration_s, settings):
            clips += 1
            seconds_kept += found.end_s - found.start_s
            counts += Alignment(heard[found.first].pairs[-1:]).counts
            for word in heard[found.first + 1 : found.stop]:
                counts += word.counts
    return {
        "clips": clips,
        "audio_s": seconds_kept,
        "kept": counts.reference_length / total.reference_length,
        "wer": counts.rate,
        "ratio": counts.rate / total.rate,
    }


def fitted(labels: Sequence[Label], references: Sequence[str]) -> list[float] | None:
    """Trust in each label, by a model fitted on all other speakers."""
    trust = [0.0] * len(labels)
    for speaker in {label.segment.speaker for label in labels}:
        others = [i for i, label in enumerate(labels) if label.segment.speaker != speaker]
        if len(others) < MIN_CHECKED:
            return None
        model = fit_trust([labels[i] for i in others], [references[i] for i in others])
        for index, label in enumerate(labels):
            if label.segment.speaker == speaker:
                trust[index] = model.of(label)
    return trust


def heard_by_device(bundle: Path, utterances: Sequence[Utterance]) -> list[Segment]:
    from edge_runtime.events import Final
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=320)
    segments = []
    for utterance in utterances:
        path = utterance.audio_filepath
        stream = recognizer.stream()
        samples = measure.load(path)
        finals = [e for e in (*stream.push(samples), *stream.finish()) if isinstance(e, Final)]
        letters = sum(len(final.text) for final in finals)
        segments.append(
            Segment(
                id=path.stem, audio=str(path.absolute()), duration_s=utterance.duration,
                audio_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                text=" ".join(final.text for final in finals if final.text), device="d",
                speaker=utterance.speaker,
                confidence=sum(f.confidence * len(f.text) for f in finals) / max(1, letters),
            )
        )  # fmt: skip
    return segments


def heard(settings: TeacherSettings, segments: Sequence[Segment]) -> list[Transcript]:
    """What a teacher says of each; remembered, because pocketsphinx is slow."""
    teacher = open_teacher(settings)
    transcripts: list[Transcript] = []
    for number, segment in enumerate(segments):
        key = hashlib.sha256(f"{teacher.provenance}{segment.audio_sha256}".encode()).hexdigest()
        path = measure.CACHE / "labels" / f"{key}.jsonl"
        if not path.exists():
            if number % 50 == 0:
                measure.say(f"{settings.name}: {number} of {len(segments)}")
            found = teacher.transcribe([segment_audio(segment, Path())])
            write_rows(path, Transcript, found)
        transcripts += read_rows(path, Transcript)
    return transcripts


def _pooled(counts: Sequence[ErrorCounts], kept: Sequence[bool]) -> ErrorCounts:
    chosen = (count for count, keep in zip(counts, kept, strict=True) if keep)
    return sum(chosen, ErrorCounts())


def _kept(counts: Sequence[ErrorCounts], kept: Sequence[bool], total: ErrorCounts) -> Any:
    found = _pooled(counts, kept)
    if not found.reference_length:
        return None
    return {
        "kept": found.reference_length / total.reference_length,
        "wer": found.rate,
        "ratio": found.rate / total.rate,
    }


def _top(
    counts: Sequence[ErrorCounts], values: Sequence[float], like: Sequence[bool]
) -> list[bool]:
    """The highest values, until they hold as many reference words as `like` keeps."""
    budget = _pooled(counts, like).reference_length
    kept = [False] * len(values)
    for index in sorted(range(len(values)), key=lambda i: -values[i]):
        if budget <= 0:
            break
        kept[index] = True
        budget -= counts[index].reference_length
    return kept


def noise_passing() -> dict[str, float]:
    """Share that passes the gate, of 60 recordings of each kind."""
    rng = np.random.default_rng(0)

    def coloured(slope: float) -> Callable[[int], Samples]:
        def make(count: int) -> Samples:
            spectrum = np.fft.rfft(rng.standard_normal(count))
            spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-slope / 2)
            wave = np.fft.irfft(spectrum, count)
            level = 10 ** rng.uniform(-3, -0.7)
            return (level * wave / np.sqrt(np.mean(np.square(wave)))).astype(np.float32)

        return make

    def hum(count: int) -> Samples:
        t = np.arange(count) / RATE
        wave = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3))
        return (0.05 * wave + 0.002 * rng.standard_normal(count)).astype(np.float32)

    def beeps(count: int) -> Samples:
        t = np.arange(count) / RATE
        tone = np.sin(2 * np.pi * rng.uniform(300, 3000) * t) * (np.floor(t * 3) % 2)
        return (0.1 * tone + 0.001 * rng.standard_normal(count)).astype(np.float32)

    kinds = {"white": coloured(0), "pink": coloured(1), "brown": coloured(2)}
    passing = {}
    for name, make in {**kinds, "hum": hum, "beeps": beeps}.items():
        clips = [make(round(RATE * rng.uniform(0.5, 6))) for _ in range(60)]
        found = [check_speech(find_speech(clip), FilterSettings()) for clip in clips]
        passing[name] = sum(not failed(outcomes) for outcomes in found) / len(found)
    return passing


def table(results: dict[str, Any]) -> Table:
    rows = [["set", "distance", *(f"{n}: kept, WER, ratio" for n in
             ("agreement", "second voice", "both", "confidence", "fitted"))]]  # fmt: skip
    for name, found in results["sets"].items():
        rows.append([name, "all", f"100%, {found['label_wer']:.1%}, 1.00", "", "", "", ""])
        for row in found["filters"]:
            cells = (row.get(n) for n in
                     ("agreement", "second voice", "both", "confidence", "fitted"))  # fmt: skip
            shown = [
                f"{c['kept']:.0%}, {c['wer']:.1%}, {c['ratio']:.2f}" if c else "-" for c in cells
            ]
            rows.append([name, f"{row['distance']:g}", *shown])
        default = found["kept_by_default_settings"]
        shown = f"{default['kept']:.0%}, {default['wer']:.1%}, {default['ratio']:.2f}"
        rows.append([name, "by default", "", "", shown, "", ""])
        for words, cell in found["stretches"].items():
            shown = f"{cell['kept']:.0%}, {cell['wer']:.1%}, {cell['ratio']:.2f}"
            rows.append([name, f"stretches of {words} words", "", "", shown, "", ""])
    return rows


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
