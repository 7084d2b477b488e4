from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_cloud.datasets.export import export
from autotrain_cloud.datasets.manifest import erase, freeze
from autotrain_cloud.datasets.rows import row_of
from autotrain_cloud.labels.records import Label
from autotrain_cloud.labels.stretches import StretchSettings, agreed, cut, whole
from autotrain_cloud.review import Review, apply
from autotrain_cloud.segments import HeardWord, segment_audio
from edge_runtime.errors import ConfigError
from edge_runtime.manifest import read_manifest
from tests.autotrain_cloud.labelled import ABOUT, label

SAMPLE = Path(__file__).parents[3] / "samples" / "flite-slt.flac"
SETTINGS = StretchSettings(min_words=3)


def said(text: str, start: float = 0.1, each: float = 0.3) -> tuple[HeardWord, ...]:
    """One word after the other, with gaps of 0.1 s."""
    return tuple(
        HeardWord(word=word, start_s=start + i * each, end_s=start + i * each + 0.2, confidence=0.9)
        for i, word in enumerate(text.split())
    )


def texts(first: str, second: str) -> list[str]:
    return [s.text for s in agreed(said(first), said(second), 9.0, SETTINGS)]


def test_runs_of_the_same_words_are_stretches() -> None:
    assert texts("a b c x d e f g", "a b c y d e f g") == ["a b c", "d e f g"]
    assert texts("A b, c!", "a b c") == ["a b c"]
    assert texts("a b x c d", "a b y c d") == []
    assert texts("", "a b c") == []


def test_a_word_that_only_one_heard_parts_a_stretch() -> None:
    # Times drift by one word from there on, which is still the same speech.
    assert texts("a b c d e f", "a b c extra d e f") == ["a b c", "d e f"]


def test_the_same_words_at_another_time_are_other_speech() -> None:
    assert agreed(said("a b c"), said("a b c", start=3.0), 9.0, SETTINGS) == []


def test_cuts_fall_into_the_gaps() -> None:
    [one] = agreed(said("x b c d y"), said("z b c d w"), 9.0, SETTINGS)
    assert (one.start_s, one.end_s) == (pytest.approx(0.35), pytest.approx(1.25))
    [end] = agreed(said("a b c"), said("a b c"), 0.95, SETTINGS)
    assert 0 <= end.start_s < 0.1 and end.end_s <= 0.95


@given(st.lists(st.sampled_from("abc"), max_size=15), st.lists(st.sampled_from("abc"), max_size=15))
def test_stretches_are_what_both_said_in_order_and_apart(a: list[str], b: list[str]) -> None:
    ours, theirs = said(" ".join(a)), said(" ".join(b))
    found = agreed(ours, theirs, 9.0, StretchSettings(min_words=2, max_drift_s=99))
    for stretch in found:
        assert stretch.text == " ".join(a[stretch.first : stretch.stop])
        assert f" {stretch.text} " in f" {' '.join(b)} "
    for one, two in itertools.pairwise(found):
        assert one.stop <= two.first and one.end_s <= two.start_s + 1e-9


def disputed(**fields: object) -> Label:
    first, second = "one two three wrong five six seven", "one two three bad five six seven"
    made = label("s", first, decision="review", triage="disputed", reasons=("disputed",),
                 segment_audio=str(SAMPLE), segment_duration_s=2.4,
                 segment_words=said("one two three what are six seven"), **fields)  # fmt: skip
    assert made.teacher is not None
    heard = dataclasses.replace(made.teacher, words=said(first), provenance=ABOUT)
    return dataclasses.replace(
        made, teacher=heard, second=dataclasses.replace(heard, text=second, words=said(second))
    )


def test_a_disputed_label_becomes_labels_of_what_is_agreed() -> None:
    easy, gold = cut(disputed(), SETTINGS)
    assert (easy.text, easy.triage, easy.decision) == ("one two three", "easy", "keep")
    assert (gold.text, gold.triage) == ("five six seven", "gold")
    assert gold.segment.text == "are six seven"
    assert whole(gold.segment.id) == "s" and gold.segment.id != easy.segment.id
    assert gold.outcomes[-1].rule == "stretch" and gold.outcomes[:-1] == disputed().outcomes
    samples = segment_audio(gold.segment, Path())
    assert len(samples) == pytest.approx(gold.segment.duration_s * 16_000, abs=2)
    everything = segment_audio(
        dataclasses.replace(gold.segment, start_s=0.0, end_s=None, id="s"), Path()
    )
    start = round(gold.segment.start_s * 16_000)
    np.testing.assert_array_equal(samples, everything[start : start + len(samples)])


def test_what_has_more_against_it_is_not_cut() -> None:
    for changed in (
        {"decision": "drop", "reasons": ("repeats",)},
        {"reasons": ("alphabet", "disputed")},
        {"second": None},
    ):
        assert list(cut(dataclasses.replace(disputed(), **changed), SETTINGS)) == []  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="min_words"):
        StretchSettings(min_words=0)


def test_clips_are_exported_erased_and_superseded_with_their_segment(tmp_path: Path) -> None:
    labels = [disputed(), *cut(disputed(), SETTINGS)]
    rows = [row_of(one, "train", "") for one in labels[1:]]
    dataset = freeze(tmp_path, "n", [*rows, row_of(label("other", "words"), "train", "")])
    left = erase(dataset, ["s"], tmp_path)
    assert [row.segment_id for row in left.rows] == ["other"]
    assert len(left.head.erased) == 2
    path = tmp_path / "out.jsonl"
    export(freeze(tmp_path, "clips", rows), path, splits=("train",))
    import soundfile

    for line in read_manifest(path):
        assert soundfile.info(line.audio_filepath).duration == pytest.approx(
            line.duration, abs=1e-3
        )
    review = Review(segment_id="s", reviewer="ada", at_ms=1, verdict="text", text="all of it")
    decisions = [(one.decision, one.source) for one in apply(labels, [review])]
    assert decisions == [("keep", "human"), ("drop", "teacher"), ("drop", "teacher")]
