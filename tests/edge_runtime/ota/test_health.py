"""Probation: what is kept, what is not, and that no noise decides early."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ota.health import Health, judge
from edge_runtime.ota.settings import Probation

RULES = Probation(utterances=20, minutes=30.0, longest_hours=2.0, confidence_drop=0.1)
OLD = Health(utterances=500, confidence=0.85, confidence_sd=0.15, audio_s=900, busy_s=90)
NEW = dataclasses.replace(OLD, utterances=25)


@pytest.mark.parametrize(
    ("health", "minutes", "outcome"),
    [
        (NEW, 31, "keep"),
        (NEW, 29, "wait"),
        (dataclasses.replace(NEW, utterances=19), 31, "wait"),
        (dataclasses.replace(NEW, utterances=19), 121, "keep"),
        (Health(), 119, "wait"),
        (Health(), 121, "keep"),
        (dataclasses.replace(NEW, confidence=0.76), 31, "keep"),
        (dataclasses.replace(NEW, confidence=0.74), 31, "fail"),
        (dataclasses.replace(NEW, confidence=0.74), 5, "wait"),  # it may be chance yet
        (dataclasses.replace(NEW, confidence=0.30), 1, "fail"),
        (dataclasses.replace(NEW, confidence=0.30, utterances=3), 1, "wait"),
        (dataclasses.replace(NEW, busy_s=850.0), 1, "fail"),
        (dataclasses.replace(NEW, busy_s=17.0, audio_s=18.0), 1, "wait"),
        (dataclasses.replace(NEW, crashes=1), 1, "fail"),
    ],
)
def test_the_rules(health: Health, minutes: float, outcome: str) -> None:
    assert judge(RULES, health, OLD, minutes).outcome == outcome


def test_without_a_model_to_compare_with_confidence_does_not_decide() -> None:
    low = dataclasses.replace(NEW, confidence=0.1)
    for before in (None, Health(utterances=5, confidence=0.9)):
        assert judge(RULES, low, before, 31).outcome == "keep"


@given(
    st.builds(
        Health, utterances=st.integers(0, 10**6), confidence=st.floats(0, 1),
        confidence_sd=st.floats(0, 0.5), audio_s=st.floats(0, 1e6), busy_s=st.floats(0, 1e6),
        crashes=st.integers(0, 5), memory_bytes=st.integers(0, 1 << 40),
    ),
    st.floats(0, 1e5),
)  # fmt: skip
def test_nothing_bad_is_ever_kept_and_waiting_ends(health: Health, minutes: float) -> None:
    verdict = judge(RULES, health, OLD, minutes)
    assert verdict.reason
    if verdict.outcome == "keep":
        assert not health.crashes and minutes >= RULES.minutes
        assert health.utterances < 10 or OLD.confidence - health.confidence <= 0.1
    if minutes >= 60 * RULES.longest_hours:
        assert verdict.outcome != "wait"


def test_an_equal_model_is_hardly_ever_ended_early() -> None:
    """Confidences of one distribution, looked at after every utterance."""
    rng, ended = np.random.default_rng(0), 0
    for _ in range(300):
        values = rng.beta(5, 1.2, 60)
        for count in range(1, 61):
            seen = values[:count]
            health = Health(
                utterances=count, confidence=float(seen.mean()), confidence_sd=float(seen.std())
            )
            before = dataclasses.replace(OLD, confidence=5 / 6.2, confidence_sd=0.147)
            ended += judge(RULES, health, before, 1).outcome == "fail"
    assert ended == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_health_is_counted(value: float) -> None:
    with pytest.raises(ValueError, match="health is counted"):
        Health(confidence=value)
