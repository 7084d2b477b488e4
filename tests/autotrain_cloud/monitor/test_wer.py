"""Estimates that are right on average, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autotrain_cloud.monitor.wer import Estimate, Scored, estimate_wer

HARD = (1.2, 6.0)  # Beta: how hard an utterance is, of mean 1/6
TRUTH = HARD[0] / sum(HARD)


def _uploads(
    seed: int, *, devices: int = 30, each: int = 25, checked: float = 0.25, kind: float = 0.85
) -> list[Scored]:
    """Devices send what is hard, mostly; the teacher hears `kind` of the errors that there are."""
    rng = np.random.default_rng(seed)
    records = []
    for device in range(devices):
        words = rng.integers(4, 12, each)
        # Devices differ; the mean over all is kept.
        factor = rng.uniform(0.5, 1.5)
        hard = np.clip(rng.beta(*HARD, each) * factor, 0, 0.95)
        sent = np.where(hard > 0.2, 0.9, 0.15)
        true = rng.binomial(words, hard)
        heard = rng.binomial(true, kind)
        for i in np.flatnonzero(rng.random(each) < sent):
            human = bool(rng.random() < checked)
            records.append(
                Scored(
                    device=str(device), inclusion_probability=float(sent[i]),
                    teacher_errors=int(heard[i]), teacher_words=int(words[i]),
                    human_errors=int(true[i]) if human else None,
                    human_words=int(words[i]) if human else None,
                    human_probability=checked or 1.0,
                )
            )  # fmt: skip
    return records


def _estimate(records: list[Scored], **options: float) -> Estimate:
    found = estimate_wer(records, draws=400, **options)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_uploads_alone_mislead_and_weights_put_that_right() -> None:
    estimates = [_estimate(_uploads(seed)).rate for seed in range(40)]
    plain = [
        sum(r.teacher_errors for r in records) / sum(r.teacher_words for r in records)
        for records in map(_uploads, range(10))
    ]
    assert np.mean(estimates) == pytest.approx(TRUTH, abs=0.008)
    assert np.mean(plain) > TRUTH + 0.05


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(150):
        found = _estimate(_uploads(seed), confidence=0.9)
        assert found.low is not None and found.high is not None and found.basis == "human"
        held += found.low <= TRUTH <= found.high
    assert 0.83 <= held / 150 <= 0.97  # 0.9, plus or minus three standard errors


def test_a_teacher_makes_checked_segments_worth_more() -> None:
    narrower = 0
    for seed in range(10):
        records = _uploads(seed, checked=0.15)
        alone = [r for r in records if r.human_words is not None]
        with_all, only = _estimate(records), _estimate(alone)
        assert with_all.trust > 0.3
        narrower += _width(with_all) < _width(only)
    assert narrower >= 8


def _width(estimate: Estimate) -> float:
    assert estimate.low is not None and estimate.high is not None
    return estimate.high - estimate.low


def test_a_teacher_that_is_no_help_does_no_harm() -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(12):
        found = _estimate(
            [
                dataclasses.replace(r, teacher_errors=int(rng.integers(0, r.teacher_words + 1)))
                for r in _uploads(seed, devices=50)
            ]
        )
        assert found.trust < 0.4 and found.low is not None and found.high is not None
        held += found.low <= TRUTH <= found.high
    assert held >= 9


def test_without_people_it_is_called_disagreement() -> None:
    found = _estimate(_uploads(3, checked=0.0))
    assert found.basis == "agreement" and found.checked == 0
    assert found.text.startswith("Disagreement with the teacher")
    assert found.rate < TRUTH  # this teacher misses errors; nothing here can know that


def test_few_devices_have_no_interval() -> None:
    found = _estimate(_uploads(4, devices=3))
    assert (found.low, found.high) == (None, None) and "too few devices" in found.text
    assert found.basis == "human"


def test_without_words_there_is_no_estimate() -> None:
    silent = Scored(device="a", inclusion_probability=1, teacher_errors=0, teacher_words=0)
    assert estimate_wer([]) is None
    assert estimate_wer([silent] * 3) is None
    right = [
        Scored(device=str(i), inclusion_probability=1, teacher_errors=0, teacher_words=5)
        for i in range(6)
    ]
    found = _estimate(right)
    assert (found.low, found.rate, found.high) == (0.0, 0.0, 0.0)


def test_records_and_options_that_make_no_sense_are_refused() -> None:
    for changes in (
        {"inclusion_probability": 0.0}, {"human_probability": 1.5}, {"human_errors": 3},
    ):  # fmt: skip
        usual = {"device": "a", "inclusion_probability": 1, "teacher_errors": 0, "teacher_words": 1}
        with pytest.raises(ValueError, match=next(iter(changes))):
            Scored(**{**usual, **changes})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="confidence"):
        estimate_wer([], confidence=1.0)
