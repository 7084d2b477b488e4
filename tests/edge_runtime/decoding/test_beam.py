"""The beam search against the enumeration of all alignments, and as a stream without end."""

from __future__ import annotations

import gc
import itertools
import math
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from random import Random
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.decoding import (
    BeamConfig,
    Candidate,
    Decoder,
    GreedyConfig,
    Token,
    decoder_factory,
)
from edge_runtime.tokens import BLANK, Vocabulary
from tests.edge_runtime.decoding.arpa import SENTENCE_START, UNIGRAM, bigram, write_arpa
from tests.edge_runtime.decoding.brute import (
    VOCABULARY,
    aligned,
    enumerate_prefixes,
    random_logprobs,
    speech_like,
)

SIZE = len(VOCABULARY)
EXACT = BeamConfig().exact()


def _decoder(config: BeamConfig, vocabulary: Vocabulary = VOCABULARY) -> Decoder:
    return decoder_factory(config, vocabulary)()


def _ids(candidate: Candidate) -> tuple[int, ...]:
    return tuple(token.id for token in candidate.tokens)


def _log_sum(values: list[float]) -> float:
    return float(np.logaddexp.reduce(values))


def _by_text(sums: dict[tuple[int, ...], float], vocabulary: Vocabulary) -> dict[str, float]:
    texts: dict[str, list[float]] = {}
    for ids, score in sums.items():
        texts.setdefault(vocabulary.detokenise(ids), []).append(score)
    return {text: _log_sum(scores) for text, scores in texts.items()}


def _scores(decoder: Decoder, vocabulary: Vocabulary) -> dict[str, float]:
    found = decoder.nbest(1 << 30)
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    texts = [vocabulary.detokenise(_ids(candidate)) for candidate in found]
    assert len(set(texts)) == len(texts)
    return {text: candidate.score for text, candidate in zip(texts, found, strict=True)}


# --- the scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "size"), [(1, 2), (3, 7), (5, 4), (6, 3), (9, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_without_pruning_every_score_is_the_sum_over_all_alignments(
    frames: int, size: int, seed: int
) -> None:
    vocabulary = Vocabulary.from_pieces([*VOCABULARY.pieces[1:size], BLANK])
    logprobs = random_logprobs(frames, size, seed)
    decoder = _decoder(EXACT, vocabulary)
    decoder.advance(logprobs)
    assert _scores(decoder, vocabulary) == pytest.approx(
        _by_text(enumerate_prefixes(logprobs), vocabulary), abs=1e-9
    )


def test_without_pruning_probabilities_sum_to_one() -> None:
    decoder = _decoder(EXACT)
    decoder.advance(random_logprobs(5, SIZE, 0))
    total = _log_sum([candidate.score for candidate in decoder.nbest(1 << 30)])
    assert total == pytest.approx(0.0, abs=1e-5)


def test_impossible_tokens_are_no_hypotheses() -> None:
    logprobs = np.full((4, SIZE), -np.inf, np.float32)
    logprobs[:, [1, SIZE - 1]] = math.log(0.5)
    decoder = _decoder(EXACT)
    decoder.advance(logprobs)
    assert set(_scores(decoder, VOCABULARY)) == {"", "a", "a a"}


@pytest.mark.parametrize("skip", [2.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_blank_penalty_is_a_less_probable_blank(seed: int, skip: float) -> None:
    logprobs = random_logprobs(5, SIZE, seed)
    dearer = logprobs.copy()
    dearer[:, -1] -= np.float32(0.75)
    penalised = _decoder(replace(EXACT, blank_penalty=0.75, blank_skip=skip))
    penalised.advance(logprobs)
    plain = _decoder(replace(EXACT, blank_skip=skip * math.exp(-0.75)))
    plain.advance(dearer)
    assert _scores(penalised, VOCABULARY) == pytest.approx(_scores(plain, VOCABULARY), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_hotwords_add_what_the_text_earns_to_the_sum(seed: int) -> None:
    logprobs = random_logprobs(4, SIZE, seed)
    decoder = _decoder(replace(EXACT, hotwords=("ab:2.5", "a b:1")))
    decoder.advance(logprobs)
    expected = {}
    for text, score in _by_text(enumerate_prefixes(logprobs), VOCABULARY).items():
        words = text.split()  # each phrase takes two pieces at least: 5 nats and 2 nats
        pairs = list(itertools.pairwise(words))
        expected[text] = score + 5.0 * words.count("ab") + 2.0 * pairs.count(("a", "b"))
    assert len(expected) > 50
    assert _scores(decoder, VOCABULARY) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_language_model_scores_complete_words_and_the_end(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    logprobs = random_logprobs(4, SIZE, seed)
    config = replace(
        EXACT,
        lm=str(write_arpa(tmp_path)),
        lm_weight=0.7,
        word_bonus=0.3,
        unknown_logprob=-8.0,
    )
    decoder = _decoder(config)
    decoder.advance(logprobs)
    expected = {}
    for text, score in _by_text(enumerate_prefixes(logprobs), VOCABULARY).items():
        before = SENTENCE_START
        for word in text.split():
            known = word in UNIGRAM
            score += 0.7 * (bigram(before, word) * math.log(10) if known else -8.0) + 0.3
            before = word
        if text:
            score += 0.7 * bigram(before, "</s>") * math.log(10)
        expected[text] = score
    assert _scores(decoder, VOCABULARY) == pytest.approx(expected, abs=1e-5)


LETTERS = Vocabulary.from_pieces(["▁a", "▁b", "a", "b", BLANK])


def _best_of(config: BeamConfig, logprobs: NDArray[np.float32]) -> tuple[Candidate, int]:
    """The best text, and how many the beam has."""
    decoder = _decoder(config, LETTERS)
    decoder.advance(logprobs)
    found = decoder.nbest(1 << 30)
    return found[0], len(found)


def test_recombination_finds_what_the_full_search_finds(tmp_path: Path) -> None:
    lm = str(write_arpa(tmp_path))
    config = replace(EXACT, lm=lm, lm_weight=0.7, unknown_logprob=-3.0, letter_logprob=-0.5)
    texts, dropped = [], 0
    for seed in range(25):
        logprobs = speech_like(7, len(LETTERS), seed)
        (best, count), (same, fewer) = (
            _best_of(replace(config, recombine=recombine), logprobs) for recombine in (False, True)
        )
        assert LETTERS.detokenise(_ids(same)) == LETTERS.detokenise(_ids(best))
        assert same.score <= best.score + 1e-9  # other spellings are not added to it
        texts.append(_ids(best))
        dropped += count - fewer
    assert dropped > 1000 and len(set(texts)) > 5


def test_recombination_makes_room_for_better_hypotheses(tmp_path: Path) -> None:
    config = BeamConfig(beam=8, lm=str(write_arpa(tmp_path)), lm_weight=1.0, unknown_logprob=-3.0)
    gained = []
    for seed in range(20):
        logprobs = random_logprobs(60, len(LETTERS), seed, sharpness=1)
        alone, _ = _best_of(replace(config, recombine=False), logprobs)
        found, _ = _best_of(config, logprobs)
        gained.append(found.score - alone.score)
    assert np.mean(gained) > 0.5  # nats
    assert sum(gain > 0.01 for gain in gained) > 3 * sum(gain < -0.01 for gain in gained)


def test_nothing_is_recombined_where_other_readings_are_asked_for(tmp_path: Path) -> None:
    config = BeamConfig(nbest=5, lm=str(write_arpa(tmp_path)))
    logprobs = random_logprobs(12, SIZE, 0)
    found = []
    for recombine in (True, False):
        decoder = _decoder(replace(config, recombine=recombine))
        decoder.advance(logprobs)
        found.append(decoder.nbest(5))
    assert found[0] == found[1]


def test_the_default_pruning_finds_what_the_full_search_finds() -> None:
    agreed = 0
    for seed in range(15):
        logprobs = speech_like(5, 5, seed)
        vocabulary = Vocabulary.from_pieces([*VOCABULARY.pieces[1:5], BLANK])
        exact, pruned = _decoder(EXACT, vocabulary), _decoder(BeamConfig(), vocabulary)
        exact.advance(logprobs)
        pruned.advance(logprobs)
        (best,), (found,) = exact.nbest(1), pruned.nbest(1)
        agreed += _ids(best) == _ids(found)
        assert found.score <= best.score + 1e-9
    assert agreed == 15


def test_skipping_sure_blanks_changes_scores_by_no_more_than_they_were_unsure() -> None:
    frames = np.full((40, SIZE), 0.0005 / (SIZE - 1))
    frames[:, -1] = 0.9995
    for t in (5, 20, 33):  # the same token again and again, after blanks
        frames[t, [1, 3, SIZE - 1]] = 0.5, 0.1, 0.3995
    logprobs = np.log(frames).astype(np.float32)
    full, skipping = _decoder(BeamConfig(blank_skip=2.0)), _decoder(BeamConfig())
    full.advance(logprobs)
    skipping.advance(logprobs)
    expected, found = _scores(full, VOCABULARY), _scores(skipping, VOCABULARY)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=0.03)  # 36 frames of 0.0005
    assert list(skipping.tokens()) == list(full.tokens())


# --- what the context changes -------------------------------------------------------------------


def _ambiguous(*frames: dict[str, float]) -> np.ndarray:
    """Frames with these probabilities; what is missing to 1 is blank. A sure blank after each."""
    rows = []
    for frame in frames:
        row = np.full(SIZE, 1e-5)
        for piece, p in frame.items():
            row[VOCABULARY.pieces.index(piece)] = p
        row[-1] = 1 - row[:-1].sum()
        rows += [row, np.eye(SIZE)[-1] * (1 - 1e-4) + 1e-4 / SIZE]
    return np.asarray(np.log(np.array(rows)), np.float32)


def _text(decoder: Decoder) -> str:
    return VOCABULARY.detokenise([token.id for token in decoder.tokens()])


def _best(decoder: Decoder) -> str:
    return VOCABULARY.detokenise(_ids(decoder.nbest(1)[0]))


def test_a_hotword_turns_a_close_call_however_it_is_spelled() -> None:
    for logprobs in (
        _ambiguous({"▁a": 0.9}, {"a": 0.7, "b": 0.25}),
        _ambiguous({"▁": 0.9}, {"a": 0.7, "ab": 0.25}),
        _ambiguous({"▁": 0.9}, {"a": 0.9}, {"a": 0.7, "b": 0.25}),
    ):
        plain, boosted = _decoder(BeamConfig()), _decoder(BeamConfig(hotwords=("ab",)))
        plain.advance(logprobs)
        boosted.advance(logprobs)
        assert _best(plain) in ("aa", "a")
        assert _best(boosted) == "ab"


def test_a_hotword_that_does_not_come_leaves_no_trace() -> None:
    logprobs = _ambiguous({"▁a": 0.9}, {"▁b": 0.6, "a": 0.3}, {"b": 0.8})
    plain, boosted = _decoder(BeamConfig()), _decoder(BeamConfig(hotwords=("ba a:3",)))
    plain.advance(logprobs)
    boosted.advance(logprobs)
    assert _best(plain) == _best(boosted) == "a bb"
    assert boosted.nbest(1)[0].score == pytest.approx(plain.nbest(1)[0].score)


def test_the_language_model_turns_a_close_call(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    logprobs = _ambiguous({"▁a": 0.9}, {"▁b": 0.5, "b": 0.45})  # "a b" or "ab"
    plain = _decoder(BeamConfig())
    fused = _decoder(BeamConfig(lm=str(write_arpa(tmp_path))))
    plain.advance(logprobs)
    fused.advance(logprobs)
    assert _best(plain) == "a b"
    assert _best(fused) == "ab"


# --- the stream ---------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=12))
@settings(max_examples=40, deadline=None)
def test_blocks_make_no_difference(seed: int, cuts: list[int]) -> None:
    logprobs = speech_like(60, SIZE, seed)
    whole, parts = _decoder(BeamConfig()), _decoder(BeamConfig())
    whole.advance(logprobs)
    for block in np.split(logprobs, sorted(cuts)):
        before = [token.id for token in parts.tokens()]
        changed = parts.advance(block)
        assert changed == ([token.id for token in parts.tokens()] != before)
    assert list(parts.tokens()) == list(whole.tokens())
    assert parts.nbest(9) == whole.nbest(9)
    assert (parts.frames, parts.trailing_blank_frames) == (60, whole.trailing_blank_frames)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_on_clear_speech_tokens_and_times_are_the_greedy_ones(seed: int) -> None:
    logprobs = np.asarray(speech_like(80, SIZE, seed) * 8, np.float32)
    greedy = decoder_factory(GreedyConfig(), VOCABULARY)()
    beam = _decoder(BeamConfig())
    greedy.advance(logprobs)
    beam.advance(logprobs)
    assert list(beam.tokens()) == list(greedy.tokens())
    assert beam.trailing_blank_frames == greedy.trailing_blank_frames


@given(st.integers(0, 10**6), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_splitting_in_blanks_neither_loses_nor_doubles_a_token(
    seed: int, block: int, random: Random
) -> None:
    logprobs = np.asarray(speech_like(120, SIZE, seed) * 8, np.float32)
    whole = _decoder(BeamConfig())
    whole.advance(logprobs)
    decoder, collected = _decoder(BeamConfig()), list[Token]()
    for k in range(0, 120, block):
        decoder.advance(logprobs[k : k + block])
        blanks = [
            t
            for t in range(max(0, decoder.frames - 20), decoder.frames)
            if logprobs[t].argmax() == SIZE - 1
        ]
        if blanks and random.random() < 0.3:
            frame = random.choice(blanks)
            (best,) = decoder.nbest(1, before=frame)
            done = decoder.split(frame)
            assert done == best.tokens
            assert all(token.start_frame < frame for token in done)
            assert all(token.start_frame >= frame for token in decoder.tokens())
            collected += done
    collected += decoder.split(decoder.frames)
    assert collected == list(whole.tokens())
    assert not decoder.tokens()


@given(st.integers(0, 10**6), st.lists(st.integers(0, 90), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_split_anywhere_keeps_what_was_said_after_it(seed: int, frames: list[int]) -> None:
    """On doubtful input, in the middle of tokens: the best hypothesis is continued."""
    logprobs = speech_like(90, SIZE, seed)
    decoder = _decoder(BeamConfig(hotwords=("ab a",)))
    now = 0
    for frame in sorted(frames):
        decoder.advance(logprobs[now:frame])
        now = max(now, frame)
        cut = max(0, now - 7)
        (best,) = decoder.nbest(1)
        (early,) = decoder.nbest(1, before=cut)
        done = decoder.split(cut)
        assert done == early.tokens
        kept = tuple(decoder.tokens())
        if best.tokens[: len(done)] == done:  # else another text was better up to the cut
            rests = [c.tokens for c in decoder.nbest(99)]
            assert best.tokens[len(done) :] in rests or kept in rests
        ids = [token.id for token in kept]
        starts = [token.start_frame for token in kept]
        assert starts == sorted(set(starts)), ids
    decoder.advance(logprobs[now:])
    assert decoder.frames == 90


def test_a_cut_between_the_words_of_the_best_hypothesis_splits_no_word_of_another() -> None:
    """Two spellings of "a bb" outweigh each "a b" only together; in "ab b" the cut is in a word."""
    decoder = _decoder(BeamConfig())
    decoder.advance(_ambiguous({"▁a": 0.9}, {"▁b": 0.4, "b": 0.35, "ab": 0.2}, {"b": 0.9}))
    best = decoder.tokens()
    assert _text(decoder) == "a bb"
    done = decoder.split(best[1].start_frame, ended=False)
    assert VOCABULARY.detokenise([token.id for token in done]) == "a"
    firsts = [candidate.tokens[0].id for candidate in decoder.nbest(99) if candidate.tokens]
    assert all(VOCABULARY.word_starts[i] for i in firsts)  # nothing left begins inside a word
    decoder.advance(_ambiguous({"▁b": 0.9}))
    assert _text(decoder) == "bb b"


def test_a_token_that_goes_on_across_a_split_is_not_said_twice() -> None:
    blank = SIZE - 1
    logprobs = aligned([blank, 1, 1, 1, blank, 1], SIZE)
    decoder = _decoder(BeamConfig())
    decoder.advance(logprobs[:2])
    assert [token.id for token in decoder.split(2)] == [1]
    decoder.advance(logprobs[2:5])
    assert not decoder.tokens()
    assert decoder.trailing_blank_frames == 1
    assert decoder.advance(logprobs[5:])
    assert [(token.id, token.start_frame) for token in decoder.tokens()] == [(1, 5)]


def test_a_sentence_that_has_not_ended_goes_on_in_the_language_model(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    config = replace(EXACT, lm=str(write_arpa(tmp_path)), lm_weight=1.0, word_bonus=0.0)

    def score(ended: bool) -> float:
        decoder = decoder_factory(config, VOCABULARY)()
        decoder.advance(_ambiguous({"▁b": 0.999}))
        decoder.split(decoder.frames, ended=ended)
        decoder.advance(_ambiguous({"▁a": 0.999}))
        best = decoder.nbest(1)[0]
        assert VOCABULARY.detokenise(_ids(best)) == "a"
        return best.score

    continued = bigram("b", "a") - bigram(SENTENCE_START, "a")
    assert score(ended=False) - score(ended=True) == pytest.approx(
        continued * math.log(10), abs=1e-4
    )


def test_reset_is_a_fresh_stream() -> None:
    logprobs = speech_like(50, SIZE, 3)
    used, fresh = _decoder(BeamConfig(hotwords=("ab",))), _decoder(BeamConfig(hotwords=("ab",)))
    used.advance(speech_like(77, SIZE, 4))
    used.split(60)
    used.reset()
    assert (used.frames, used.trailing_blank_frames, list(used.tokens())) == (0, 0, [])
    used.advance(logprobs)
    fresh.advance(logprobs)
    assert used.nbest(9) == fresh.nbest(9)


def test_streams_of_one_factory_do_not_influence_each_other() -> None:
    new = decoder_factory(BeamConfig(hotwords=("ab", "b a:3")), VOCABULARY)
    inputs = [speech_like(40, SIZE, seed) for seed in range(3)]
    together = [new() for _ in inputs]
    for k in range(0, 40, 8):
        for decoder, logprobs in zip(together, inputs, strict=True):
            decoder.advance(logprobs[k : k + 8])
    for decoder, logprobs in zip(together, inputs, strict=True):
        alone = new()
        alone.advance(logprobs)
        assert alone.nbest(9) == decoder.nbest(9)


def _trie_size(decoder: Decoder) -> int:
    root = decoder._beam[0].prefix  # type: ignore[attr-defined]
    while root.parent is not None:
        root = root.parent
    size, stack = 0, [root]
    while stack:
        stack += stack.pop().children.values()
        size += 1
    return size


def test_only_ancestors_of_live_hypotheses_stay_in_the_trie() -> None:
    decoder = _decoder(BeamConfig())
    for k in range(300):
        decoder.advance(speech_like(10, SIZE, k))
        needed = set()
        for one in decoder._beam:  # type: ignore[attr-defined]
            prefix = one.prefix
            while prefix is not None and prefix not in needed:
                needed.add(prefix)
                prefix = prefix.parent
        assert _trie_size(decoder) == len(needed)


def test_memory_is_flat_while_utterances_are_split_off() -> None:
    decoder = _decoder(BeamConfig(hotwords=("ab a", "b b:3")))
    blocks = [speech_like(50, SIZE, seed) for seed in range(5)]

    def utterances(count: int) -> None:
        for k in range(count):
            decoder.advance(blocks[k % 5])
            decoder.tokens()
            decoder.split(decoder.frames)

    gc.collect()
    gc.disable()  # nothing may depend on the collector: a device may turn it off
    try:
        utterances(10)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        utterances(40)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < 20_000


def test_a_stream_that_never_ends_costs_the_same_per_frame_and_can_be_dropped() -> None:
    decoder = _decoder(BeamConfig())
    blocks = [speech_like(40, SIZE, seed) for seed in range(20)]

    def cost() -> int:
        """Calls of all functions, of Python's and of C's."""
        calls = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            for block in blocks:
                decoder.advance(block)
                decoder.tokens()
        finally:
            sys.setprofile(None)
        return calls

    early = cost()
    for _ in range(10):
        cost()
    assert cost() < 1.1 * early
    assert decoder.frames == 800 * 12
    assert len(decoder.tokens()) > 1_000
    assert decoder.split(decoder.frames)
    assert not decoder.tokens()


# --- the options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"beam": 0}, {"top_k": 0}, {"nbest": 0}, {"blank_skip": 0.0}, {"hotwords": "ada"}]
)
def test_senseless_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        BeamConfig(**options)  # type: ignore[arg-type]


def test_top_k_and_beam_bound_the_search() -> None:
    logprobs = random_logprobs(6, SIZE, 0)
    decoder = _decoder(replace(EXACT, beam=3))
    decoder.advance(logprobs)
    assert len(decoder.nbest(99)) <= 3
    narrow = _decoder(replace(EXACT, top_k=1))
    narrow.advance(logprobs)
    allowed = set(logprobs[:, :-1].argmax(axis=1).tolist())
    assert {i for c in narrow.nbest(99) for i in _ids(c)} <= allowed
