"""Both models are heard over the same recordings and counted alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.report.recognition import Comparison, compare_recognition
from edge_runtime.bundle import Bundle
from edge_runtime.errors import AudioError
from edge_runtime.manifest import Utterance, read_manifest
from edge_runtime.metrics import corpus_char_errors, corpus_word_errors

ROOT = Path(__file__).parents[3]
BUNDLE = Bundle.open(ROOT / "bundles" / "en-demo")
CLIPS = read_manifest(ROOT / "samples" / "manifest.jsonl")[:5]


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare_recognition(BUNDLE, "int8-dynamic", CLIPS, 320)


def test_rates_are_those_of_the_texts(found: Comparison) -> None:
    assert [pair.utterance for pair in found.pairs] == CLIPS
    for name in ("before", "after"):
        side = getattr(found, name)
        texts = [(p.utterance.text, getattr(p, name).text) for p in found.pairs]
        assert side.wer == corpus_word_errors(texts).rate
        assert side.cer == corpus_char_errors(texts).rate
        assert 0 < side.wer < 0.6
        assert len(side.confidences) == len(side.right) == sum(len(h.split()) for _, h in texts)
        assert 0 <= side.ece < 0.5 and side.cpu_s > 0
    assert found.words == sum(len(clip.text.split()) for clip in CLIPS)
    assert found.difference.value == pytest.approx(found.after.wer - found.before.wer)
    assert found.difference.low <= found.difference.value <= found.difference.high


def test_a_model_against_itself_does_not_differ() -> None:
    same = compare_recognition(BUNDLE, "float32", CLIPS[:2], 640)
    assert same.turned(10) == []
    assert (same.difference.low, same.difference.high) == (0.0, 0.0)


def test_speakers_share_out_all_recordings(found: Comparison) -> None:
    speakers = found.by_speaker(24)
    assert set(speakers) == {clip.speaker for clip in CLIPS}
    words = [one.words for one in speakers.values()]
    assert sum(words) == found.words and words == sorted(words, reverse=True)
    few = found.by_speaker(3)
    assert list(few) == [*list(speakers)[:2], f"{len(speakers) - 2} others"]
    assert sum(one.words for one in few.values()) == found.words


def test_a_recording_that_is_missing_is_named() -> None:
    gone = Utterance(audio_filepath=Path("/nowhere/gone.wav"), duration=1.0, text="x")
    with pytest.raises(AudioError, match=r"/nowhere/gone\.wav"):
        compare_recognition(BUNDLE, "int8-dynamic", [gone], 320)
