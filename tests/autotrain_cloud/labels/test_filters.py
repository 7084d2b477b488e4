from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_cloud.labels.filters import (
    FilterSettings,
    Outcome,
    check_settings,
    check_transcript,
    combine,
    failed,
    longest_run,
)
from autotrain_cloud.labels.text import distance, plain
from autotrain_cloud.labels.triage import TriageSettings, triage
from autotrain_cloud.teacher import Provenance, Transcript, compression_ratio
from edge_runtime.errors import ConfigError

ABOUT = Provenance(family="f", model="m", version="1", checkpoint_sha256="0", settings="{}")
SETTINGS = FilterSettings()


def transcript(text: str, **fields: object) -> Transcript:
    made = Transcript(
        text=text, confidence=0.9, avg_logprob=-0.2, no_speech_prob=0.1, language="en",
        language_prob=0.99, compression_ratio=compression_ratio(text), provenance=ABOUT,
    )  # fmt: skip
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def broken(text: str, speech_s: float = 2.0, **fields: object) -> tuple[str, ...]:
    return failed(check_transcript(transcript(text, **fields), plain(text), speech_s, SETTINGS))


def test_an_ordinary_sentence_breaks_no_rule() -> None:
    assert broken("Turn the light on in the kitchen, please.") == ()
    assert broken("Yes.", 0.4) == ()


@pytest.mark.parametrize(
    ("text", "speech_s", "fields", "rule"),
    [
        ("", 2.0, {}, "empty"),
        ("so so so so so so so so so", 2.0, {}, "repeats"),
        ("i am going " * 6, 4.0, {}, "repeats"),
        ("a b a b a c a c a b a c b c a b", 2.0, {}, "unique_words"),
        ("pneumonoultramicroscopicsilicosis", 2.0, {}, "long_word"),
        ("Thanks for watching!", 2.0, {}, "phrase"),
        ("Untertitel der Amara.org-Community", 2.0, {}, "phrase"),
        ("turn the light on in the kitchen", 0.5, {}, "rate"),
        ("yes", 9.0, {}, "rate"),
        ("turn the light on", 2.0, {"compression_ratio": 2.5}, "compression"),
        ("turn the light on", 2.0, {"avg_logprob": -0.7}, "avg_logprob"),
        ("turn the light on", 2.0, {"no_speech_prob": 0.7}, "no_speech_prob"),
        ("mach das licht an", 2.0, {"language": "de"}, "language"),
        ("turn the light on", 2.0, {"language_prob": 0.5}, "language"),
        ("at 5 p.m. it is 20 %", 2.0, {}, "alphabet"),
        ("caf\xe9 au lait", 2.0, {}, "alphabet"),
    ],
)
def test_each_rule_finds_what_it_is_for(
    text: str, speech_s: float, fields: dict[str, object], rule: str
) -> None:
    assert rule in broken(text, speech_s, **fields)


def test_a_phrase_inside_a_sentence_is_speech() -> None:
    assert broken("Thank you very much for the book that you gave me.") == ()


def test_what_was_not_measured_is_no_failure() -> None:
    found = check_transcript(
        transcript("turn it on", avg_logprob=None, no_speech_prob=None), "turn it on", 1.0, SETTINGS
    )
    outcomes = {outcome.rule: outcome.passed for outcome in found}
    assert outcomes["avg_logprob"] is None and outcomes["no_speech_prob"] is None


def test_one_outcome_never_overwrites_another() -> None:
    first = Outcome(rule="rate", passed=False)
    with pytest.raises(ValueError, match="rate"):
        combine([first], [Outcome(rule="rate", passed=True)])
    rules = [o.rule for o in check_transcript(transcript("a"), "a", 1.0, SETTINGS)]
    assert len(rules) == len(set(rules))


def test_runs_of_one_to_four_words_are_counted() -> None:
    assert longest_run([]) == (0, "")
    assert longest_run("a b c".split()) == (1, "")
    assert longest_run("no no no way".split()) == (3, "no")
    assert longest_run("x go on go on go on y".split()) == (3, "go on")
    assert longest_run("i will go i will go".split()) == (2, "i will go")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers(2, 6))
def test_a_phrase_said_n_times_is_a_run_of_at_least_n(phrase: list[str], times: int) -> None:
    assert longest_run(phrase * times)[0] >= times


@given(st.text(max_size=60))
def test_plain_text_is_plain_already(text: str) -> None:
    assert plain(plain(text)) == plain(text)


def test_plain_text_keeps_words_and_drops_marks() -> None:
    assert (
        plain("[MUSIC] It\u2019s \u201cO'Hara\u201d \u2014 the well-known!")
        == "it's o'hara the well known"
    )
    assert plain("'tis the dogs' dinner") == "tis the dogs dinner"


@given(st.text("ab ", max_size=12), st.text("ab ", max_size=12))
def test_a_distance_is_symmetric_and_between_0_and_1(a: str, b: str) -> None:
    assert 0 <= distance(a, b) <= 1
    assert distance(a, b) == distance(b, a)
    assert distance(a, a) == 0


def test_triage_follows_its_table() -> None:
    settings = TriageSettings(max_teachers=0.1, max_near=0.2)
    assert triage(0.0, 0.9, settings) == "easy"
    assert triage(0.0, None, settings) == "easy"
    assert triage(0.5, 0.05, settings) == "gold"
    assert triage(0.5, 0.5, settings) == "disputed"
    assert triage(0.15, None, settings) == "near"
    assert triage(0.5, None, settings) == "lone"


def test_a_sure_teacher_is_believed_where_another_nearly_agrees_if_that_was_asked_for() -> None:
    settings = TriageSettings(max_teachers=0.1, max_sure=0.3, sure_confidence=0.7)
    assert triage(0.5, 0.2, settings, confidence=0.8) == "sure"
    assert triage(0.5, 0.2, settings, confidence=0.7) == "disputed"
    assert triage(0.5, 0.4, settings, confidence=0.9) == "disputed"
    assert triage(0.5, 0.05, settings, confidence=0.1) == "gold"
    assert triage(0.5, None, settings, confidence=0.9) == "lone"
    assert triage(0.5, 0.2, TriageSettings(), confidence=1.0) == "disputed"
    with pytest.raises(ConfigError, match="sure_confidence"):
        TriageSettings(sure_confidence=2.0)


def test_a_teacher_may_be_believed_alone_by_how_sure_it_is_and_by_nothing_else() -> None:
    settings = TriageSettings(alone_confidence=0.5)
    assert triage(0.9, None, settings, confidence=0.6) == "alone"
    assert triage(0.1, None, settings, confidence=0.6) == "alone"
    assert triage(0.1, None, settings, confidence=0.5) == "lone"  # the device confirms nothing
    assert triage(0.0, None, settings, confidence=0.1) == "easy"
    assert triage(0.9, 0.5, settings, confidence=0.6) == "disputed"
    with pytest.raises(ConfigError, match="alone_confidence"):
        TriageSettings(alone_confidence=-0.1)


def test_a_teacher_is_believed_against_another_only_where_the_device_is_lost() -> None:
    settings = TriageSettings(ahead_confidence=0.5, lost_confidence=0.4, ahead_words=8)

    def kind(
        second: float | None = 0.6, *, device: float = 0.9, settings: TriageSettings = settings,
        teacher: float = 0.6, lost: float = 0.3, words: int = 8,
    ) -> str:  # fmt: skip
        return triage(
            device, second, settings, confidence=teacher, device_confidence=lost, words=words
        )

    assert kind() == "ahead"
    assert kind(lost=0.4) == kind(teacher=0.5) == kind(words=7) == "disputed"
    assert kind(0.05) == "gold" and kind(device=0.0) == "easy" and kind(None) == "lone"
    assert kind(settings=TriageSettings(), teacher=1.0, lost=0.0) == "disputed"
    with pytest.raises(ConfigError, match="lost_confidence"):
        TriageSettings(lost_confidence=1.5)
    with pytest.raises(ConfigError, match="ahead_words"):
        TriageSettings(ahead_words=0)


def test_settings_that_nothing_could_pass_are_an_error() -> None:
    with pytest.raises(ConfigError, match="min_chars_per_s"):
        check_settings(FilterSettings(min_chars_per_s=30))
    with pytest.raises(ConfigError, match="max_easy"):
        TriageSettings(max_easy=0.5, max_near=0.2)
