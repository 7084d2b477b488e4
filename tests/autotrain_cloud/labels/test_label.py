"""The step as a whole, with pocketsphinx and a bundle over the sample recordings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from autotrain_cloud.labels.label import (
    Labeler,
    LabelSettings,
    decide,
    judge,
    label_shard,
    read_labels,
)
from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.shards import label_shards
from autotrain_cloud.labels.triage import TriageSettings
from autotrain_cloud.labels.trust import TrustModel, fit_trust
from autotrain_cloud.segments import HeardWord, Samples, Segment
from autotrain_cloud.speech import SpeechEvidence
from autotrain_cloud.tables import write_rows
from autotrain_cloud.teacher import Provenance, TeacherSettings, Transcript
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.manifest import read_manifest

ROOT = Path(__file__).parents[3]
LINES = read_manifest(ROOT / "samples" / "manifest.jsonl")
OFFLINE = LabelSettings(teacher=TeacherSettings(name="pocketsphinx"))


def segment(index: int, **fields: object) -> Segment:
    line = LINES[index]
    made = Segment(
        id=f"s{index}", audio=str(line.audio_filepath), duration_s=line.duration, text=line.text,
        device=f"d{index % 3}", confidence=0.5,
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


@dataclass
class Parrot:
    """Says what it was told to, and counts."""

    texts: list[str]
    family: str = "parrot"
    batch_size: int = 3
    heard: int = 0
    fields: dict[str, object] = field(default_factory=dict)

    @property
    def provenance(self) -> Provenance:
        return Provenance(
            family=self.family, model="p", version="1", checkpoint_sha256="0", settings="{}"
        )

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        found = []
        for _ in batch:
            text = self.texts[self.heard]
            self.heard += 1
            made = Transcript(
                text=text, confidence=0.9, compression_ratio=1.0, language="en",
                provenance=self.provenance,
            )  # fmt: skip
            found.append(replace(made, **self.fields))  # type: ignore[arg-type]
        return found


def labelled(first: Parrot, second: Parrot | None, *segments: Segment) -> list[Label]:
    return list(Labeler(OFFLINE, first, second, None).label(segments, Path()))


def test_real_teachers_label_real_speech_and_every_rule_is_kept(tmp_path: Path) -> None:
    settings = replace(
        OFFLINE, second=TeacherSettings(name="bundle", model=str(ROOT / "bundles" / "en-demo"))
    )
    path = tmp_path / "shard.jsonl"
    write_rows(path, Segment, [segment(i, text="something else") for i in (7, 11)])
    out = label_shard(path, tmp_path / "labels", Labeler.open(settings))
    labels = list(read_labels(out))
    assert [label.segment.id for label in labels] == ["s7", "s11"]
    for label, line in zip(labels, (LINES[7], LINES[11]), strict=True):
        assert label.teacher is not None and label.teacher.provenance.family == "sphinx"
        assert label.second is not None and label.second.provenance.family == "vitconformer"
        assert label.triage in ("gold", "disputed")
        assert label.trust == pytest.approx(1 - (label.teacher_second or 0))
        assert {o.rule for o in label.outcomes} >= {"speech", "voiced", "rate", "phrase", "repeats"}
        assert len(set(line.text.split()) & set(label.text.split())) > len(line.text.split()) / 3


def test_a_step_that_was_done_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    write_rows(path, Segment, [segment(i) for i in range(2)])
    parrot = Parrot(["turn the light on in the kitchen please now and then some more"] * 9)
    labeler = Labeler(OFFLINE, parrot, None, None)
    first = label_shard(path, tmp_path / "out", labeler)
    stamp = first.stat().st_mtime_ns
    assert label_shard(path, tmp_path / "out", labeler) == first
    assert (parrot.heard, first.stat().st_mtime_ns) == (2, stamp)
    # Other segments, or other settings, are other labels.
    write_rows(path, Segment, [segment(i) for i in range(1)])
    assert label_shard(path, tmp_path / "out", labeler) != first
    stricter = replace(OFFLINE, filters=replace(OFFLINE.filters, max_chars_per_s=20.0))
    assert Labeler(stricter, parrot, None, None).key != labeler.key


def test_nothing_half_written_is_left_where_a_teacher_fails(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    write_rows(path, Segment, [segment(i) for i in range(4)])
    with pytest.raises(IndexError):
        label_shard(path, tmp_path / "out", Labeler(OFFLINE, Parrot(["one"] * 3), None, None))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.slow  # processes of their own, each with a teacher
def test_several_processes_make_the_same_labels(tmp_path: Path) -> None:
    shards = [tmp_path / f"{i}.jsonl" for i in range(2)]
    for number, shard in enumerate(shards):
        write_rows(shard, Segment, [segment(7 + number)])
    alone = sorted(label_shards(shards, tmp_path / "a", OFFLINE))
    many = sorted(label_shards(shards, tmp_path / "b", OFFLINE, jobs=2))
    assert [path.name for path in alone] == [path.name for path in many]
    for one, other in zip(alone, many, strict=True):
        assert one.read_bytes() == other.read_bytes()


SAID = "the quick brown fox jumps over the lazy dog and runs away from here"


@pytest.mark.parametrize(
    ("device", "first", "second", "kind", "decision"),
    [
        (SAID, SAID.title() + ".", SAID, "easy", "keep"),
        (SAID, SAID, "nothing of the kind was ever said by anybody", "easy", "keep"),
        ("the thick crown", SAID, SAID, "gold", "keep"),
        (
            "the thick crown",
            SAID,
            "a much different thing was heard here today",
            "disputed",
            "review",
        ),
        (SAID.replace("lazy", "crazy"), SAID, None, "near", "keep"),
        ("the thick crown", SAID, None, "lone", "review"),
        ("the thick crown", "no " * 20, "no " * 20, "gold", "drop"),
        ("the thick crown", SAID + " 5", SAID + " 5", "gold", "review"),
    ],
)
def test_who_agrees_decides(
    device: str, first: str, second: str | None, kind: str, decision: str
) -> None:
    other = None if second is None else Parrot([second], family="owl")
    [label] = labelled(Parrot([first]), other, segment(0, text=device))
    assert (label.triage, label.decision) == (kind, decision)


def test_a_teacher_that_is_believed_alone_is_trusted_as_much_as_it_is_sure() -> None:
    settings = replace(OFFLINE, triage=TriageSettings(alone_confidence=0.7))
    for confidence, kind, decision in ((0.8, "alone", "keep"), (0.6, "lone", "review")):
        parrot = Parrot([SAID], fields={"confidence": confidence})
        [label] = Labeler(settings, parrot, None, None).label(
            [segment(0, text="the thick crown")], Path()
        )
        assert (label.triage, label.decision) == (kind, decision)
        assert (label.trust == confidence) == (kind == "alone")


def test_a_teacher_is_kept_against_another_where_the_device_itself_says_that_it_is_lost() -> None:
    settings = replace(OFFLINE, triage=TriageSettings(ahead_confidence=0.5))
    for confidence, kind, decision in ((0.2, "ahead", "keep"), (0.8, "disputed", "review")):
        heard = replace(segment(0, text="the thick crown"), confidence=confidence)
        parrot = Parrot([SAID], fields={"confidence": 0.6})
        owl = Parrot(["no word of it is right"], family="owl")
        [label, *_] = Labeler(settings, parrot, owl, None).label([heard], Path())
        assert (label.triage, label.decision) == (kind, decision)
        assert (label.trust == 0.6) == (kind == "ahead")


@pytest.mark.parametrize(("snr_db", "decision"), [(5.0, "keep"), (20.0, "drop")])
def test_in_noise_a_text_may_take_as_long_as_its_words_were_heard_to(
    snr_db: float, decision: str
) -> None:
    """Of two and a half seconds of speech 0.8 s stood out: too little for 67 letters."""
    words = tuple(
        HeardWord(word=word, start_s=1 + 0.2 * place, end_s=1.1 + 0.2 * place, confidence=0.9)
        for place, word in enumerate(SAID.split())
    )
    heard = Transcript(
        text=SAID, words=words, confidence=0.9, compression_ratio=1.0,
        provenance=Parrot([]).provenance,
    )  # fmt: skip
    evidence = SpeechEvidence(speech_s=0.8, voiced_s=0.5, snr_db=snr_db, level_db=-30.0)
    label = judge(segment(0, text="the thick crown"), evidence, heard, heard, None, OFFLINE)
    assert (label.triage, label.decision) == ("gold", decision)
    assert label.reasons == (() if decision == "keep" else ("rate",))


def test_agreement_of_families_overrules_doubts_but_no_hard_rule() -> None:
    assert decide("gold", ["avg_logprob", "no_speech_prob"]) == ("keep", ())
    assert decide("near", ["avg_logprob"]) == ("drop", ("avg_logprob",))
    assert decide("gold", ["repeats"]) == ("drop", ("repeats",))
    assert decide("lone", ["alphabet"]) == ("review", ("alphabet", "lone"))


def test_what_a_person_said_stands_whatever_a_teacher_hears() -> None:
    spoken = segment(0, reference="The Truth!", reference_source="human")
    [label] = labelled(Parrot(["no " * 20]), None, spoken)
    assert (label.text, label.source, label.decision, label.trust) == (
        "the truth", "human", "keep", 1.0,
    )  # fmt: skip
    assert label.teacher.text.startswith("no no")


def test_a_teacher_is_not_asked_about_noise(tmp_path: Path) -> None:
    import soundfile

    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    parrot = Parrot([SAID])
    found = labelled(parrot, None, segment(0, audio=str(tmp_path / "noise.wav")), segment(1))
    assert found[0].decision == "drop"
    assert "voiced" in found[0].reasons
    assert parrot.heard == 1


def test_audio_that_is_missing_or_broken_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "broken.flac").write_bytes(b"fLaC and no more")
    found = labelled(
        Parrot([SAID]), None, segment(0, audio=str(tmp_path / "gone.opus")),
        segment(1, audio=str(tmp_path / "broken.flac")), segment(2, text=SAID),
    )  # fmt: skip
    assert [label.decision for label in found] == ["failed", "failed", "keep"]
    assert "gone.opus: no such file" in found[0].reasons[0]
    assert "broken.flac: cannot be read as audio" in found[1].reasons[0]


def test_an_object_store_that_is_down_stops_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(fsspec, "open", down)
    with pytest.raises(StorageError, match="s3://bucket/a: the object store cannot be reached"):
        labelled(Parrot([SAID]), None, segment(0, audio="s3://bucket/a"))


def test_two_teachers_of_one_family_are_refused() -> None:
    with pytest.raises(ConfigError, match="both teachers are of the family 'sphinx'"):
        Labeler.open(replace(OFFLINE, second=OFFLINE.teacher))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "expected named fields"),
        ('{"id": "a"}', "audio: is missing"),
        ('{"id": "a", "audio": "x", "duration_s": "long", "text": "", "device": "d"}',
         "duration_s: 'long' \\(expected a number\\)"),
        ('{"id": "a", "audio": "x", "duration_s": 1, "text": "", "device": "d", "txt": 1}',
         "unknown field 'txt'"),
        ('{"id": "a", "audio": "x", "duration_s": -1, "text": "", "device": "d"}', "0 or more"),
        ('{"id": "a", "audio": "x", "duration_s": 1, "text": "", "device": "d", "reference": "b"}',
         "a reference needs a reference_source"),
    ],
)  # fmt: skip
def test_a_malformed_segment_is_named_by_file_and_line(
    tmp_path: Path, line: str, problem: str
) -> None:
    shard = tmp_path / "shard.jsonl"
    good = {"id": "g", "audio": "x", "duration_s": 1, "text": "", "device": "d"}
    shard.write_text(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(ConfigError, match=rf"shard\.jsonl:2: .*{problem}"):
        label_shard(shard, tmp_path, Labeler(OFFLINE, Parrot([]), None, None))


def test_a_shard_that_is_no_parquet_or_has_an_id_twice_is_an_error(tmp_path: Path) -> None:
    labeler = Labeler(OFFLINE, Parrot([]), None, None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ConfigError, match=r"a\.parquet: not a Parquet file"):
        label_shard(tmp_path / "a.parquet", tmp_path, labeler)
    write_rows(tmp_path / "b.jsonl", Segment, [segment(0), segment(0)])
    with pytest.raises(ConfigError, match="segment s0 is in it twice"):
        label_shard(tmp_path / "b.jsonl", tmp_path, labeler)
    with pytest.raises(ConfigError, match=r"c\.jsonl: cannot be read"):
        label_shard(tmp_path / "c.jsonl", tmp_path, labeler)


def test_fitted_trust_ranks_labels_by_how_right_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second, segments, references = [], [], [], []
    words = SAID.split()
    for number in range(60):
        heard = [w if rng.random() > number % 3 * 0.3 else "wrong" for w in words]
        first.append(" ".join(heard))
        second.append(" ".join(w if rng.random() > number % 3 * 0.3 else "other" for w in words))
        segments.append(replace(segment(7), id=str(number), text=" ".join(words[:5])))
        references.append(SAID)
    labels = labelled(Parrot(first), Parrot(second, family="owl"), *segments)
    model = fit_trust(labels[:45], references[:45])
    trust = [model.of(label) for label in labels]
    assert np.mean(trust[45::3]) > np.mean(trust[47::3]) + 0.1
    model.save(tmp_path / "trust.json")
    assert TrustModel.load(tmp_path / "trust.json") == model
    with pytest.raises(ConfigError, match="fitting trust needs"):
        fit_trust(labels[:5], references[:5])
    (tmp_path / "trust.json").write_text('{"names": ["a"]}')
    with pytest.raises(ConfigError, match=r"trust\.json"):
        TrustModel.load(tmp_path / "trust.json")
