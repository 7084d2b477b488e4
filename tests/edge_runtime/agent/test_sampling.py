"""Nothing is kept without consent, budgets hold, and the weights make the sample whole again."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.agent.sampling import (
    Budget,
    Candidate,
    Decision,
    Quiet,
    SamplingPolicy,
    decide,
    draw,
    random_share,
)
from edge_runtime.contract.messages import Consent
from edge_runtime.errors import ConfigError

NOON = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
CONSENT = Consent(id="c-1", version=1, granted=True, from_ms=0)
SURE = Candidate(
    id="0" * 32,
    captured_ms=int(NOON.timestamp() * 1000),
    speech_s=2.0,
    confidence=0.9,
    deletion_score=0.1,
    size=10_000,
    text="hello",
)
UNSURE = replace(SURE, confidence=0.3)
POLICY = SamplingPolicy()


def _at(candidate: Candidate, moment: datetime) -> Candidate:
    return replace(candidate, captured_ms=round(moment.timestamp() * 1000))


def _outcomes(decision: Decision) -> dict[str, str]:
    return {rule.name: rule.outcome for rule in decision.rules}


candidates = st.builds(
    Candidate,
    id=st.integers(0, 1 << 127).map(lambda n: f"{n:032x}"),
    captured_ms=st.integers(0, 1 << 42),
    speech_s=st.floats(0, 60),
    confidence=st.floats(0, 1),
    deletion_score=st.floats(0, 1),
    size=st.integers(1, 200_000),
)
policies = st.builds(
    SamplingPolicy,
    confidence_below=st.floats(0, 1),
    deletion_above=st.floats(0, 1),
    random_share=st.floats(0, 1),
    daily_segments=st.integers(0, 20),
    daily_bytes=st.integers(0, 10**6),
    random_budget=st.floats(0, 1),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Kiritimati"]),
)


@given(policies, candidates)
def test_without_a_consent_nothing_is_kept(policy: SamplingPolicy, candidate: Candidate) -> None:
    day = candidate.captured_ms
    for consent in (
        None,
        replace(CONSENT, granted=False),
        replace(CONSENT, from_ms=day + 1),
        replace(CONSENT, until_ms=day),
        replace(CONSENT, purposes=("research",)),
    ):
        decision = decide(policy, consent, candidate, Budget())
        assert not decision.upload
        assert decision.random_probability == decision.inclusion_probability == 0
        assert decision.unsampled
        assert replace(decision.budget, day="") == Budget()


def test_a_purpose_that_was_not_agreed_to_selects_nothing() -> None:
    policy = SamplingPolicy(random_share=1, seed="x")
    training = decide(policy, replace(CONSENT, purposes=("training",)), UNSURE, Budget())
    assert training.reasons == ("unsure",)
    assert training.random_probability == 0
    monitoring = decide(policy, replace(CONSENT, purposes=("monitoring",)), UNSURE, Budget())
    assert monitoring.reasons == ("random",)
    assert monitoring.inclusion_probability == 1
    assert "unsure: no consent to training" in str(replace(monitoring, reasons=("unsure",)))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, ()),
        ({"confidence": 0.59}, ("unsure",)),
        ({"confidence": 0.6}, ()),
        ({"deletion_score": 0.51}, ("deletion",)),
        ({"deletion_score": 0.5}, ()),
        ({"confidence": 0.0, "deletion_score": 1.0}, ("unsure", "deletion")),
        ({"confidence": 0.1, "speech_s": 0.4}, ()),
        ({"confidence": 0.1, "speech_s": 31.0}, ()),
    ],
)
def test_what_is_unsure_or_misses_words_goes_up(
    change: dict[str, float], reasons: tuple[str, ...]
) -> None:
    decision = decide(POLICY, CONSENT, replace(SURE, **change), Budget())  # type: ignore[arg-type]
    assert decision.reasons == reasons
    assert decision.upload == bool(reasons)


@given(policies, st.lists(candidates, max_size=60), st.lists(st.integers(0, 3 * 86_400_000)))
@settings(max_examples=150)
def test_no_day_costs_more_than_its_budget(
    policy: SamplingPolicy, utterances: list[Candidate], times: list[int]
) -> None:
    budget = Budget()
    segments: dict[str, int] = {}
    octets: dict[str, int] = {}
    for candidate, captured_ms in zip(utterances, sorted(times), strict=False):
        candidate = replace(candidate, captured_ms=captured_ms, speech_s=1.0)
        decision = decide(policy, CONSENT, candidate, budget)
        budget = decision.budget
        if decision.upload:
            segments[budget.day] = segments.get(budget.day, 0) + 1
            octets[budget.day] = octets.get(budget.day, 0) + candidate.size
    assert max(segments.values(), default=0) <= policy.daily_segments
    assert max(octets.values(), default=0) <= policy.daily_bytes


def test_the_day_is_local_and_a_clock_that_goes_back_gives_nothing_again() -> None:
    policy = SamplingPolicy(daily_segments=4, random_budget=0, time_zone="America/New_York")
    evening = datetime(2026, 7, 2, 3, 59, tzinfo=timezone.utc)  # the first of July, 23:59
    budget = Budget()
    for _ in range(5):
        decision = decide(policy, CONSENT, _at(UNSURE, evening), budget)
        budget = decision.budget
    assert (budget.day, budget.segments, decision.upload) == ("2026-07-01", 4, False)
    later = decide(policy, CONSENT, _at(UNSURE, evening + timedelta(minutes=1)), budget)
    assert (later.budget.day, later.budget.segments) == ("2026-07-02", 1)
    back = decide(policy, CONSENT, _at(UNSURE, evening), replace(budget, day="2038-01-19"))
    assert not back.upload
    assert back.budget == budget
    next_day = decide(policy, CONSENT, _at(UNSURE, evening + timedelta(days=1)), back.budget)
    assert next_day.upload


NIGHT = Quiet(time(22), time(6))
BERLIN = ZoneInfo("Europe/Berlin")


@given(st.integers(0, 2 * 366 * 24 * 4))
@settings(max_examples=300)
def test_quiet_hours_go_by_the_clock_on_the_wall(quarters: int) -> None:
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=15 * quarters)
    policy = SamplingPolicy(quiet=(NIGHT,), time_zone="Europe/Berlin")
    wall = moment.astimezone(BERLIN).hour
    decision = decide(policy, CONSENT, _at(UNSURE, moment), Budget())
    assert decision.upload == (6 <= wall < 22)


@pytest.mark.parametrize(
    ("utc", "quiet"),
    [
        # Spring: 01:59 CET is followed by 03:00 CEST; the hour from two does not happen.
        ("2026-03-29T00:59:00", False),
        ("2026-03-29T01:00:00", False),
        # Autumn: the hour from two happens twice.
        ("2026-10-25T00:00:00", True),
        ("2026-10-25T00:59:59", True),
        ("2026-10-25T01:00:00", True),
        ("2026-10-25T01:59:59", True),
        ("2026-10-25T02:00:00", False),
        ("2026-10-24T23:59:59", False),
    ],
)
def test_quiet_hours_across_a_change_of_the_clocks(utc: str, quiet: bool) -> None:
    policy = SamplingPolicy(quiet=(Quiet(time(2), time(3)),), time_zone="Europe/Berlin")
    moment = datetime.fromisoformat(utc).replace(tzinfo=timezone.utc)
    decision = decide(policy, CONSENT, _at(UNSURE, moment), Budget())
    assert decision.upload is not quiet
    assert _outcomes(decision)["quiet hours"] == ("vetoes" if quiet else "passes")


def test_the_same_segment_gets_the_same_dice_and_another_seed_others() -> None:
    ids = [f"{n:032x}" for n in range(20_000)]
    dice = [draw("seed", id) for id in ids]
    assert dice == [draw("seed", id) for id in ids]
    assert dice != [draw("other", id) for id in ids]
    for low in range(10):  # uniform: a bin of 2000 has a standard deviation of 42
        assert abs(sum(low <= 10 * each < low + 1 for each in dice) - 2000) < 4.5 * 42


def test_weighting_with_the_inverse_probability_gives_the_mean_of_all_utterances() -> None:
    """Whatever the budget does: uploads chosen for low confidence, a sample that thins out."""
    rng = random.Random(3)
    policy = SamplingPolicy(random_share=0.2, daily_segments=60, random_budget=0.5)
    reachable: list[float] = []
    uploads: list[float] = []
    weighted = sampled = 0.0
    count = 400 * 200
    for number in range(count):
        if number % 200 == 0:
            budget = Budget()
        confidence = rng.betavariate(4, 1.5)
        id = f"{rng.getrandbits(128):032x}"
        decision = decide(policy, CONSENT, replace(SURE, id=id, confidence=confidence), budget)
        budget = decision.budget
        if decision.upload:
            uploads.append(confidence)
        if decision.unsampled:
            continue
        reachable.append(confidence)
        if decision.upload:
            weighted += confidence / decision.inclusion_probability
        if "random" in decision.reasons:
            sampled += confidence / decision.random_probability
    truth = sum(reachable) / len(reachable)
    assert len(reachable) > 0.9 * count
    assert len(uploads) <= 400 * 60
    assert sum(uploads) / len(uploads) < truth - 0.1  # what the uploads alone would say
    assert weighted / len(reachable) == pytest.approx(truth, rel=0.02)
    assert sampled / len(reachable) == pytest.approx(truth, rel=0.03)


def test_the_sample_thins_out_and_ends_only_with_its_budget() -> None:
    policy = SamplingPolicy(random_share=0.5, daily_segments=80, random_budget=0.25)
    shares = [random_share(policy, Budget(random_segments=n), 1000) for n in range(22)]
    assert shares[:11] == [0.5] * 11
    assert shares[10:20] == pytest.approx([0.5 * n / 10 for n in range(10, 0, -1)])
    assert shares[20:] == [0, 0]
    assert random_share(policy, Budget(random_bytes=4_900_000), 200_000) == 0
    assert random_share(replace(policy, daily_bytes=0), Budget(), 0) == 0


def test_the_sample_is_paid_for_from_its_own_budget_alone() -> None:
    policy = SamplingPolicy(random_share=1, daily_segments=8, random_budget=0.5)
    decision = decide(policy, CONSENT, UNSURE, Budget())
    assert decision.reasons == ("unsure", "random")
    assert (decision.budget.segments, decision.budget.random_segments) == (0, 1)
    spent = replace(decision.budget, random_segments=4)
    decision = decide(policy, CONSENT, UNSURE, spent)
    assert decision.reasons == ("unsure",)
    assert (decision.budget.segments, decision.budget.random_segments) == (1, 4)
    assert decision.unsampled


def test_a_redactor_has_the_last_word_and_says_why() -> None:
    def redactor(candidate: Candidate) -> str | None:
        return "holds a number" if "hello" in candidate.text else None

    decision = decide(POLICY, CONSENT, UNSURE, Budget(), redactor=redactor)
    assert not decision.upload
    assert "redaction: holds a number" in str(decision)
    assert decide(POLICY, CONSENT, replace(UNSURE, text="x"), Budget(), redactor=redactor).upload


def test_every_rule_is_asked_whatever_the_others_say() -> None:
    names = [
        "consent",
        "speech",
        "quiet hours",
        "redaction",
        "budget",
        "unsure",
        "deletion",
        "random",
    ]
    assert list(_outcomes(decide(POLICY, None, UNSURE, Budget()))) == names
    assert list(_outcomes(decide(POLICY, CONSENT, SURE, Budget()))) == names


def test_a_decision_is_one_line_that_a_person_understands() -> None:
    assert str(decide(POLICY, CONSENT, UNSURE, Budget())) == (
        "kept for upload, with a probability of 1 (unsure: confidence 0.30 is below 0.60)"
    )
    assert str(decide(POLICY, None, UNSURE, Budget())) == (
        "not kept: consent: there is none (although unsure: confidence 0.30 is below 0.60)"
    )
    dice = draw("", SURE.id)
    assert str(decide(POLICY, CONSENT, SURE, Budget())) == (
        "not kept: nothing selects it (unsure: confidence 0.90 is not below 0.60; deletion: score"
        f" 0.10 is not above 0.50; random: dice {dice:.4f} not below 0.0100)"
    )
    full = Budget(day="2026-07-01", segments=150)
    assert str(decide(POLICY, CONSENT, UNSURE, full)) == (
        "not kept: budget: 150 of 150 segments, 0 of 15000000 bytes spent, 10000 more asked for"
        " (although unsure: confidence 0.30 is below 0.60)"
    )


def test_the_sample_is_worth_most_then_the_least_sure() -> None:
    def value(policy: SamplingPolicy, candidate: Candidate) -> float:
        return decide(policy, CONSENT, candidate, Budget()).value

    everything = SamplingPolicy(random_share=1)
    assert value(everything, SURE) == 1
    values = [value(POLICY, replace(SURE, confidence=c)) for c in (0.0, 0.2, 0.5)]
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < values[0] < 1


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("confidence_below", 1.5),
        ("random_share", -0.1),
        ("random_share", float("nan")),
        ("daily_segments", -1),
        ("min_speech_s", 40.0),
        ("time_zone", "Europe/Atlantis"),
        ("time_zone", "../etc/passwd"),
        ("time_zone", ""),
    ],
)
def test_a_wrong_policy_names_the_field(field: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=field):
        SamplingPolicy(**{field: wrong})  # type: ignore[arg-type]
