"""The recogniser's promises: no word lost, bent or invented, however audio is cut or batched."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.decoding import BeamConfig, GreedyConfig
from edge_runtime.endpoint import EndpointConfig
from edge_runtime.errors import AudioError, BundleError, ConfigError
from edge_runtime.events import Event, Final
from edge_runtime.lexicon import Lexicon
from edge_runtime.recognizer import Recognizer
from tests import models
from tests.edge_runtime.tones import (
    GAP_S,
    RATE,
    WORD_S,
    say,
    silence,
    word_starts,
    write_tone_bundle,
)

TALK = "t20 t35 t50, t61 t20, t44 t33 t27 t70"


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_bundle(tmp_path_factory.mktemp("tones") / "bundle").path


@pytest.fixture(scope="module")
def recognizer(tones: Path) -> Recognizer:
    return Recognizer.open(tones)


def words_of(text: str) -> list[str]:
    return [word.strip(",") for word in text.split()]


def finals(events: Iterable[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def recognise(
    recognizer: Recognizer, samples: NDArray[np.float32], cuts: Sequence[int] = ()
) -> list[Final]:
    stream = recognizer.stream()
    events: list[Event] = []
    for block in np.split(samples, sorted(cuts)):
        events += stream.push(block)
    return finals(events + stream.finish())


def text_of(found: Iterable[Final]) -> str:
    return " ".join(final.text for final in found if final.text)


def test_words_and_their_times_are_those_that_were_said(recognizer: Recognizer) -> None:
    found = recognise(recognizer, say(TALK))
    assert [final.text for final in found] == ["t20 t35 t50", "t61 t20", "t44 t33 t27 t70"]
    starts = word_starts(TALK)
    spoken = [word for final in found for word in final.words]
    assert [word.word for word in spoken] == words_of(TALK)
    for word, start in zip(spoken, starts, strict=True):
        assert word.start == pytest.approx(start, abs=0.08)  # one output frame
        assert word.end == pytest.approx(start + WORD_S, abs=0.08)
        assert 0 <= word.confidence <= 1


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, 5 * RATE), max_size=40))
def test_how_audio_is_cut_into_pushes_changes_nothing(
    recognizer: Recognizer, cuts: list[int]
) -> None:
    samples = say("t20 t35, t61 t44 t33")
    whole = recognise(recognizer, samples)
    assert recognise(recognizer, samples, [cut for cut in cuts if cut < len(samples)]) == whole


def test_one_sample_at_a_time_is_the_same_too(recognizer: Recognizer) -> None:
    samples = say("t20 t35", lead_s=0.1, tail_s=0.05)
    assert recognise(recognizer, samples, range(1, len(samples))) == recognise(recognizer, samples)


@pytest.mark.parametrize("tail_s", [0.0, 0.01, 0.07, 0.3])
def test_the_last_word_is_never_lost(recognizer: Recognizer, tail_s: float) -> None:
    samples = say("t20 t35 t50", tail_s=tail_s)
    found = recognise(recognizer, samples)
    assert text_of(found) == "t20 t35 t50"
    assert found[-1].end <= len(samples) / RATE


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 400])
def test_next_to_nothing_is_one_empty_final(recognizer: Recognizer, samples: int) -> None:
    stream = recognizer.stream()
    events = stream.push(np.zeros(samples, np.float32)) + stream.finish()
    assert [(event.type, event.text) for event in events] == [("final", "")]


def test_endpointing_changes_where_lines_break_and_not_the_words(tones: Path) -> None:
    samples = say(TALK)
    without = recognise(Recognizer.open(tones, endpoint=None), samples)
    assert len(without) == 1
    for pause in (0.2, 0.5, 0.8, 1.2):
        config = EndpointConfig(trailing_silence_s=pause)
        with_pauses = recognise(Recognizer.open(tones, endpoint=config), samples)
        assert text_of(with_pauses) == without[0].text
        assert len(with_pauses) >= 2 or pause > 1.2


@pytest.mark.parametrize("decoder", [GreedyConfig(), BeamConfig(beam=4)])
def test_a_talk_without_pauses_is_cut_between_words(
    tones: Path, decoder: GreedyConfig | BeamConfig
) -> None:
    text = " ".join(f"t{45 + 3 * (i % 11)}" for i in range(40))
    limit = EndpointConfig(max_utterance_s=5.0)
    found = recognise(Recognizer.open(tones, endpoint=limit, decoder=decoder), say(text))
    uncut = recognise(Recognizer.open(tones, endpoint=None, decoder=decoder), say(text))
    assert text_of(found) == text_of(uncut)
    assert len(found) > 4
    for final in found:
        assert final.end - final.start <= 5.0 + WORD_S
    for earlier, later in itertools.pairwise(found):
        assert later.start >= earlier.end


def test_silence_yields_no_finals_until_the_end(recognizer: Recognizer) -> None:
    stream = recognizer.stream()
    assert stream.push(silence(20.0)) == []
    assert [event.text for event in stream.finish()] == [""]


def test_a_final_repeats_the_last_partial(recognizer: Recognizer) -> None:
    stream = recognizer.stream()
    events = stream.push(say("t20 t35 t50,", tail_s=1.5)) + stream.finish()
    partials = [event for event in events if event.type == "partial"]
    assert [partial.text for partial in partials] == ["t20", "t20 t35", "t20 t35 t50"]
    assert finals(events)[0].text == partials[-1].text


def test_a_stream_is_as_new_after_finish_and_after_reset(recognizer: Recognizer) -> None:
    samples = say("t20 t35, t61")
    expected = recognise(recognizer, samples)
    stream = recognizer.stream()
    stream.push(say("t70 t71 t72"))
    stream.finish()
    assert finals(stream.push(samples) + stream.finish()) == expected
    stream.push(say("t70 t71", tail_s=0.0))
    stream.reset()
    assert finals(stream.push(samples) + stream.finish()) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_impossible_samples_are_refused_and_harm_nothing(
    recognizer: Recognizer, bad: float
) -> None:
    samples = say("t20 t35")
    stream = recognizer.stream()
    events = stream.push(samples[:8000])
    broken = samples[8000:9000].copy()
    broken[17] = bad
    with pytest.raises(AudioError, match="NaN, infinite"):
        stream.push(broken)
    events += stream.push(samples[8000:]) + stream.finish()
    assert text_of(finals(events)) == "t20 t35"


def test_rows_of_a_batch_say_what_single_streams_say(recognizer: Recognizer) -> None:
    talks = ["t20 t35, t50", "t61", TALK, "t44 t33 t27"]
    audio = [say(text) for text in talks]
    batch = recognizer.batch(len(talks))
    events: list[list[Event]] = [[] for _ in talks]
    position, rng = [0] * len(talks), np.random.default_rng(0)
    while any(at < len(samples) for at, samples in zip(position, audio, strict=True)):
        blocks: list[NDArray[np.float32] | None] = []
        for row, samples in enumerate(audio):
            size = int(rng.integers(0, 4000))
            block = samples[position[row] : position[row] + size]
            blocks.append(block if len(block) else None)
            position[row] += len(block)
        for row, found in enumerate(batch.push(blocks)):
            events[row] += found
    for rows in ([2], [0, 3], [1]):
        for row, found in zip(rows, batch.finish(rows), strict=True):
            events[row] += found
    for row, samples in enumerate(audio):
        assert finals(events[row]) == recognise(recognizer, samples)


def test_finishing_a_row_loses_nothing_of_the_others(recognizer: Recognizer) -> None:
    samples = say("t20 t35 t50 t61")
    batch = recognizer.batch(2)
    events = batch.push([samples[:3000], samples])[1]
    batch.finish([0])
    batch.reset(0)
    events += batch.push([None, silence(0.01)])[1] + batch.finish([1])[0]
    assert text_of(finals(events)) == "t20 t35 t50 t61"


@pytest.mark.parametrize("chunk_ms", [80, 160, 320, 640])
def test_every_chunk_size_of_a_bundle_hears_the_same_features(
    tmp_path: Path, chunk_ms: int
) -> None:
    path = models.tiny_bundle(tmp_path / "echo", models.echo_model()).path
    rng = np.random.default_rng(3)
    samples = (0.1 * rng.standard_normal(2 * RATE + 777)).astype(np.float32)
    found = recognise(Recognizer.open(path, chunk_ms=chunk_ms, endpoint=None), samples)
    expected = recognise(Recognizer.open(path, chunk_ms=320, endpoint=None), samples)
    assert found[0].text == expected[0].text
    assert len(found[0].words) > 20


def test_an_unknown_chunk_size_names_the_choices(tmp_path: Path) -> None:
    path = models.tiny_bundle(tmp_path / "echo", models.echo_model()).path
    with pytest.raises(ConfigError, match="80, 160, 320, 640"):
        Recognizer.open(path, chunk_ms=200)


def test_a_batch_with_one_bad_block_has_taken_nothing(recognizer: Recognizer) -> None:
    samples = say("t20 t35")
    batch = recognizer.batch(2)
    bad = np.full(100, np.nan, np.float32)
    with pytest.raises(AudioError, match="NaN"):
        batch.push([samples, bad])
    events = batch.push([samples, samples])
    for row, rest in enumerate(batch.finish([0, 1])):
        assert finals(events[row] + rest) == recognise(recognizer, samples)


def test_an_empty_final_covers_the_stream_and_all_suspicion_in_it(recognizer: Recognizer) -> None:
    """Utterances that ended without a word are not passed on; what was suspect in them is."""
    suspect, sure = np.full((2, 20, models.NEMO_TOKENS + 1), -20.0, np.float32)
    suspect[:, -1], suspect[:, 0] = np.log(0.6), np.log(0.4)
    sure[:, -1] = np.log(0.999)
    stream = recognizer.stream()
    row = stream._batch._rows[0]
    for block in (suspect, sure, sure, sure, sure, sure):  # 9.6 s
        assert row.advance(block) == []
    row.end_of_audio(9.5)
    (final,) = row.finish()
    assert (final.text, final.start, final.end) == ("", 0.0, 9.5)
    assert isinstance(final, Final)
    assert final.deletion_score == pytest.approx(0.4, abs=1e-3)
    assert final.confidence == pytest.approx(0.6, abs=1e-3)


def test_an_endpoint_leaves_a_word_that_is_only_half_heard_whole(tones: Path) -> None:
    """The silence ends the utterance in the very frame in which the search begins to hear a word.

    Neither of its two frames is likelier speech than not; only together are they.
    """

    def heard(endpointing: EndpointConfig | None) -> str:
        row = (
            Recognizer.open(tones, decoder=BeamConfig(), endpoint=endpointing)
            .stream()
            ._batch._rows[0]
        )
        frames = np.full((40, models.NEMO_TOKENS + 1), -20.0, np.float32)
        frames[:, -1] = np.log(0.9999)
        frames[29, [20, -1]] = np.log([0.40, 0.60])
        frames[30, [20, -1]] = np.log([0.45, 0.55])
        events = [event for k in range(0, 40, 2) for event in row.advance(frames[k : k + 2])]
        return text_of(finals([*events, *row.finish()]))

    assert heard(None) == "t20"
    assert heard(EndpointConfig(silence_s=2.4)) == "t20"  # 30 frames of 80 ms


def test_words_of_a_long_utterance_keep_the_confidence_they_had(tones: Path) -> None:
    recognizer = Recognizer.open(tones, endpoint=None)
    samples = say(" ".join(["t20 t35 t50"] * 4))
    stream = recognizer.stream()
    stats = stream._batch._rows[0]._stats
    stats._limit, stats._AT_ONCE = 10, 1  # frames; two seconds are more
    (final,) = finals(stream.push(samples) + stream.finish())
    (expected,) = recognise(recognizer, samples)
    assert final.words == expected.words


def test_n_best_lists_readings_best_first(tones: Path) -> None:
    recognizer = Recognizer.open(tones, decoder=BeamConfig(beam=8, nbest=3))
    (final,) = recognise(recognizer, say("t20 t35"))
    assert 1 <= len(final.nbest) <= 3
    assert final.nbest[0].text == final.text
    scores = [reading.score for reading in final.nbest]
    assert scores == sorted(scores, reverse=True)


def test_memory_does_not_grow_with_the_stream(recognizer: Recognizer) -> None:
    stream = recognizer.stream()
    block = np.concatenate([say("t20 t35 t50 t61", tail_s=2.0)])

    def run(times: int) -> int:
        for _ in range(times):
            stream.push(block)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early = run(60)  # past the statistics' limit: everything has its final size
        late = run(60)
    finally:
        tracemalloc.stop()
    assert late - early < 20_000


def test_gaps_are_shorter_than_the_pause_that_ends_an_utterance() -> None:
    assert EndpointConfig().trailing_silence_s > GAP_S  # what the talks above rely on


# --- what is no word -----------------------------------------------------------------------------

BY_LEXICON = json.dumps(
    {
        "schema_version": 1,
        "features": ["known", "word_logprob"],
        "mean": [0.5, -12.0],
        "scale": [0.5, 2.0],
        "weights": [2.0, 1.0],
        "bias": 0.0,
    }
)


def test_a_word_that_the_lexicon_has_not_is_less_sure(tmp_path: Path) -> None:
    lexicon = Lexicon.of({"t20": -10.0, "t35": -13.0}).to_bytes()
    bundle = write_tone_bundle(tmp_path / "b", lexicon=lexicon, confidence=BY_LEXICON)
    (final,) = recognise(Recognizer.open(bundle.path), say("t20 t35 t50"))
    z = [2.0 + 1.0, 2.0 - 0.5, -2.0 - 1.0]
    expected = [1 / (1 + math.exp(-each)) for each in z]
    assert [word.confidence for word in final.words] == pytest.approx(expected)


def test_words_of_hotwords_are_known_whatever_the_lexicon_says(tmp_path: Path) -> None:
    lexicon = Lexicon.of({"t20": -10.0}).to_bytes()
    bundle = write_tone_bundle(tmp_path / "b", lexicon=lexicon, confidence=BY_LEXICON)
    named = Recognizer.open(bundle.path, decoder=BeamConfig(hotwords=("t35 t50:0",)))
    sure = {
        word.word: word.confidence > 0.5
        for final in recognise(named, say("t20 t35 t50 t61"))
        for word in final.words
    }
    assert sure["t20"] and sure["t35"] and sure["t50"] and not sure["t61"]


def test_a_map_that_needs_a_lexicon_is_refused_without_one(tmp_path: Path) -> None:
    bundle = write_tone_bundle(tmp_path / "b", confidence=BY_LEXICON)
    with pytest.raises(BundleError, match=r"confidence\.json: features: .*no lexicon"):
        Recognizer.open(bundle.path)
