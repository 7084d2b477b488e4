"""From log-probabilities to the confidence of words, and what a bad map file says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.confidence import (
    FEATURES,
    ConfidenceMap,
    WordConfidence,
    WordFeatures,
    deletion_score,
    speech_frames,
    tsallis,
    utterance_confidence,
    word_features,
)
from edge_runtime.decoding import Token
from edge_runtime.errors import BundleError, BundleIncompatible
from edge_runtime.events import Word
from edge_runtime.frame_stats import FrameStats
from edge_runtime.lexicon import RAREST, Lexicon


def _logprobs(frames: int, vocabulary: int = 6, seed: int = 0, sharpness: float = 3) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(frames, vocabulary)) * sharpness
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)), np.float32)


def _tsallis_by_hand(logprobs: np.ndarray, linear: bool) -> float:
    """One frame, straight from the definition."""
    alpha, size = 1 / 3, len(logprobs)
    h: float = (1 - sum(math.exp(x) ** alpha for x in logprobs.tolist())) / (alpha - 1)
    greatest: float = (size ** (1 - alpha) - 1) / (1 - alpha)
    if linear:
        return 1 - h / greatest
    return (math.exp(-h) - math.exp(-greatest)) / (1 - math.exp(-greatest))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("vocabulary", [2, 6, 257])
def test_tsallis_follows_its_definition(vocabulary: int, linear: bool) -> None:
    logprobs = _logprobs(40, vocabulary)
    by_hand = [_tsallis_by_hand(row, linear) for row in logprobs]
    assert tsallis(logprobs, linear=linear) == pytest.approx(by_hand, abs=2e-6, rel=1e-4)


def test_the_smallest_vocabulary_has_no_second_best() -> None:
    stats = FrameStats()
    stats.push(np.log(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)))
    features = word_features(stats, [Token(0, 0, 1, math.log(0.9))], "a", 0.04)
    assert features is not None
    assert features.margin_min == pytest.approx(0.8)


@pytest.mark.parametrize("linear", [False, True])
def test_a_certain_frame_has_confidence_one_and_a_uniform_one_zero(linear: bool) -> None:
    frames = np.full((2, 257), -np.inf, np.float32)
    frames[0, 3] = 0.0
    frames[1] = -math.log(257)
    assert tsallis(frames, linear=linear) == pytest.approx([1.0, 0.0], abs=1e-6)


def test_both_norms_rank_frames_alike() -> None:
    logprobs = _logprobs(200)
    order = np.argsort(tsallis(logprobs, linear=True), kind="stable")
    assert (np.diff(tsallis(logprobs)[order]) >= 0).all()


def _features_by_hand(logprobs: np.ndarray, tokens: list[Token], word: str) -> WordFeatures:
    frames = [f for token in tokens for f in range(token.start_frame, token.end_frame)]
    first, stop = tokens[0].start_frame, tokens[-1].end_frame
    p = np.sort(np.exp(logprobs.astype(np.float64)), axis=1)
    exp = [_tsallis_by_hand(logprobs[f], False) for f in frames]
    linear = [_tsallis_by_hand(logprobs[f], True) for f in frames]
    greatest = [math.log(p[f, -1]) for f in frames]
    margin = [p[f, -1] - p[f, -2] for f in frames]
    return WordFeatures(
        tsallis_min=min(exp),
        tsallis_mean=float(np.mean(exp)),
        tsallis_linear_min=min(linear),
        tsallis_linear_mean=float(np.mean(linear)),
        log_max_prob_min=min(greatest),
        log_max_prob_mean=float(np.mean(greatest)),
        margin_min=min(margin),
        margin_mean=float(np.mean(margin)),
        token_logprob_min=min(token.logprob for token in tokens),
        span_tsallis_linear_mean=float(
            np.mean([_tsallis_by_hand(row, True) for row in logprobs[first:stop]])
        ),
        seconds_per_char=(stop - first) * 0.04 / len(word),
        tokens=len(tokens),
        chars=len(word),
        known=0.0,
        word_logprob=RAREST,
    )


TOKENS = [Token(1, 10, 11, -0.5), Token(2, 13, 16, -0.25), Token(3, 20, 21, -1.5)]


@pytest.mark.parametrize("block", [1, 7, 40])
def test_word_features_follow_their_definitions_however_frames_arrive(block: int) -> None:
    logprobs = _logprobs(40)
    stats = FrameStats()
    for k in range(0, 40, block):
        stats.push(logprobs[k : k + block])
    for tokens in (TOKENS, TOKENS[:1], TOKENS[1:2]):
        features = word_features(stats, tokens, "word", 0.04)
        assert features == pytest.approx(_features_by_hand(logprobs, tokens, "word"), rel=1e-4)


def test_a_word_is_known_and_common_if_the_lexicon_says_so() -> None:
    stats = FrameStats()
    stats.push(_logprobs(40))
    lexicon = Lexicon.of({"ship": -9.1})
    found = word_features(stats, TOKENS, "ship", 0.04, lexicon)
    other = word_features(stats, TOKENS, "shap", 0.04, lexicon)
    assert found is not None and other is not None
    assert (found.known, found.word_logprob) == (1.0, pytest.approx(-9.1))
    assert (other.known, other.word_logprob) == (0.0, RAREST)
    assert found[: FEATURES.index("known")] == other[: FEATURES.index("known")]


def test_features_stay_the_same_when_older_frames_are_forgotten() -> None:
    logprobs = _logprobs(40)
    whole, dropped = FrameStats(), FrameStats()
    whole.push(logprobs)
    dropped.push(logprobs[:25])
    dropped.drop(10)
    dropped.push(logprobs[25:])
    assert (dropped.first, dropped.end) == (10, 40)
    assert word_features(dropped, TOKENS, "word", 0.04) == word_features(
        whole, TOKENS, "word", 0.04
    )


def test_a_word_whose_frames_are_gone_gets_the_confidence_of_its_tokens() -> None:
    stats = FrameStats()
    stats.push(_logprobs(40))
    stats.drop(21)
    assert word_features(stats, TOKENS, "word", 0.04) is None
    assert WordConfidence(stats, 0.04)(TOKENS, "word") == pytest.approx(math.exp(-1.5))


def test_impossible_tokens_do_not_make_statistics_infinite() -> None:
    logprobs = np.full((3, 5), -np.inf, np.float32)
    logprobs[:, 2] = 0.0
    stats = FrameStats()
    stats.push(logprobs)
    features = word_features(stats, [Token(2, 0, 3, 0.0)], "a", 0.04)
    assert features is not None
    assert all(map(math.isfinite, features))
    assert features.tsallis_min == pytest.approx(1.0)


def test_without_a_map_the_confidence_is_the_least_tsallis_of_the_word() -> None:
    logprobs = _logprobs(40)
    stats = FrameStats()
    stats.push(logprobs)
    frames = [10, 13, 14, 15, 20]
    expected = tsallis(logprobs[frames], linear=True).min()
    assert WordConfidence(stats, 0.04)(TOKENS, "word") == pytest.approx(expected, rel=1e-5)


# --- the map ------------------------------------------------------------------------------------

MAP: dict[str, Any] = {
    "schema_version": 1,
    "features": ["margin_min", "tokens"],
    "mean": [0.5, 3],
    "scale": [0.25, 2.0],
    "weights": [2.0, -0.5],
    "bias": 0.1,
    "fitted_on": "dev",
    "metrics": {"auroc": 0.8},
}


def _features(**known: float) -> WordFeatures:
    return WordFeatures(*(known.get(name, 0.0) for name in FEATURES))


def test_a_map_is_a_logistic_function_of_standardised_features() -> None:
    probability = ConfidenceMap.parse(json.dumps(MAP))(_features(margin_min=0.75, tokens=1.0))
    assert probability == pytest.approx(1 / (1 + math.exp(-(0.1 + 2.0 * 1.0 - 0.5 * -1.0))))


def test_a_map_does_not_extrapolate_beyond_four_deviations() -> None:
    loaded = ConfidenceMap.parse(json.dumps(MAP))
    assert loaded(_features(margin_min=1.5)) == loaded(_features(margin_min=1e9))
    assert loaded(_features(margin_min=-0.5)) == loaded(_features(margin_min=-1e9))


@given(st.lists(st.floats(-1e6, 1e6), min_size=len(FEATURES), max_size=len(FEATURES)))
@settings(deadline=None)
def test_a_map_always_gives_a_probability(values: list[float]) -> None:
    steep = ConfidenceMap.parse(json.dumps({**MAP, "weights": [1e5, -1e5], "bias": -1e7}))
    assert 0 <= steep(WordFeatures(*values)) <= 1


def test_a_map_survives_being_written_and_read(tmp_path: Path) -> None:
    original = ConfidenceMap.parse(json.dumps(MAP))
    path = tmp_path / "confidence.json"
    path.write_text(original.to_json(), encoding="utf-8")
    assert ConfidenceMap.load(path) == original
    assert json.loads(original.to_json()) == MAP


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"features": ["loudness"]}, "features"),
        ({"features": []}, "features"),
        ({"features": ["tokens", "tokens"]}, "features"),
        ({"features": "tokens"}, "features"),
        ({"mean": [0.5]}, "mean"),
        ({"mean": ["0.5", 3]}, "mean"),
        ({"mean": [True, 3]}, "mean"),
        ({"scale": [0.0, 1.0]}, "scale"),
        ({"weights": [math.inf, 0]}, "weights"),
        ({"weights": None}, "weights"),
        ({"weights": [10**400, 0]}, "weights"),
        ({"bias": "0"}, "bias"),
        ({"bias": math.nan}, "bias"),
    ],
)
def test_a_bad_map_is_refused_naming_file_and_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BundleError) as caught:
        ConfidenceMap.parse(json.dumps({**MAP, **change}), file="b/confidence.json")
    assert (caught.value.file, caught.value.field) == ("b/confidence.json", field)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_text_that_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"^confidence\.json: is not"):
        ConfidenceMap.parse(text)


@pytest.mark.parametrize("version", [None, 2, "1"])
def test_an_unknown_schema_version_needs_another_runtime(version: object) -> None:
    with pytest.raises(BundleIncompatible, match="schema_version"):
        ConfidenceMap.parse(json.dumps({**MAP, "schema_version": version}))


def test_an_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="missing\\.json: cannot be read"):
        ConfidenceMap.load(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes(b'{"fitted_on": "\xe9"}')
    with pytest.raises(BundleError, match="latin\\.json: cannot be read"):
        ConfidenceMap.load(tmp_path / "latin.json")


# --- utterances ---------------------------------------------------------------------------------


def test_an_utterance_is_as_sure_as_its_letters() -> None:
    words = (Word("a", 0, 1, 0.1), Word("elephant", 1, 2, 1.0))
    assert utterance_confidence(words) == pytest.approx((0.1 + 8 * 1.0) / 9)
    assert utterance_confidence(()) == 1.0
    assert utterance_confidence((), deletion_score=0.75) == 0.25


def _blank_runs(nonblank: dict[int, float], frames: int = 30) -> FrameStats:
    """Frames of blanks with this probability of something else."""
    p = np.full((frames, 4), 1e-6)
    for frame, probability in nonblank.items():
        p[frame, 1] = probability
    p[:, 3] = 1 - p[:, :3].sum(axis=1)
    stats = FrameStats()
    stats.push(np.log(p).astype(np.float32))
    return stats


def test_the_deletion_score_is_the_greatest_doubt_of_the_blanks() -> None:
    stats = _blank_runs({5: 0.3, 20: 0.45})
    assert deletion_score(stats, [], 0, 30) == pytest.approx(0.45, abs=1e-4)
    assert deletion_score(stats, [], 0, 20) == pytest.approx(0.3, abs=1e-4)
    assert deletion_score(stats, [], 6, 20) < 1e-4
    assert deletion_score(stats, [], 30, 30) == 0.0


def test_tokens_and_their_flanks_are_no_deletions() -> None:
    stats = _blank_runs({9: 0.4, 10: 0.9, 11: 0.3, 20: 0.1})
    assert deletion_score(stats, [Token(1, 10, 11, -0.1)], 0, 30) == pytest.approx(0.1, abs=1e-4)
    assert deletion_score(stats, [Token(1, 10, 11, -0.1)], 10, 12) == 0.0


def test_only_speech_can_be_deleted() -> None:
    stats = _blank_runs({5: 0.3, 20: 0.45})
    energy = np.full(30, -10.0)
    energy[3:8] = 2.0
    assert deletion_score(stats, [], 0, 30, energy) == pytest.approx(0.3, abs=1e-4)
    assert deletion_score(stats, [], 0, 30, np.zeros(30)) == 0.0


def test_the_deletion_score_uses_the_frames_that_are_kept() -> None:
    stats = _blank_runs({5: 0.3, 20: 0.45, 25: 0.2})
    stats.drop(21)
    assert deletion_score(stats, [], 0, 30) == pytest.approx(0.2, abs=1e-4)


def test_steady_noise_is_not_speech() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.2, size=200)
    assert not speech_frames(noise).any()
    noise[50:80] += 6
    assert speech_frames(noise).nonzero()[0].tolist() == list(range(50, 80))
    assert len(speech_frames(np.zeros(0))) == 0
