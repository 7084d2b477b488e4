"""The definitions of emission latency and churn, on screens written by hand."""

from __future__ import annotations

import pytest

from benchmarks.latency import Shown, Spoken, churn, emission_latencies, parse_times

SAID = (Spoken("the", 0.2, 0.3), Spoken("cat", 0.3, 0.7), Spoken("sat", 0.7, 1.1))


def test_a_word_is_emitted_when_it_is_first_shown_right() -> None:
    shown = [
        Shown(0.64, ("the",)),
        Shown(0.96, ("the", "cap")),
        Shown(1.28, ("the", "cat")),
        Shown(1.60, ("the", "cat", "sat")),
    ]
    assert emission_latencies(SAID, shown) == pytest.approx([0.34, 0.58, 0.50])


def test_a_word_that_is_wrong_in_the_end_has_no_latency() -> None:
    shown = [Shown(1.0, ("the", "cat")), Shown(1.6, ("the", "cap", "sat"))]
    assert emission_latencies(SAID, shown) == pytest.approx([0.7, 0.5])
    assert emission_latencies(SAID, []) == []


def test_a_word_shown_before_its_end_has_a_negative_latency_but_never_before_its_start() -> None:
    twice = (Spoken("the", 0.2, 0.3), Spoken("the", 2.0, 2.2))
    assert emission_latencies(twice, [Shown(0.4, ("the",)), Shown(2.1, ("the", "the"))]) == (
        pytest.approx([0.1, -0.1])
    )
    # Two articles on the screen before the second was begun: it cannot have been that one.
    assert emission_latencies(twice, [Shown(0.4, ("the", "the")), Shown(3.0, ("the", "the"))]) == (
        pytest.approx([0.1, 0.8])
    )


def test_churn_counts_what_is_taken_back_behind_the_common_beginning() -> None:
    shown = [
        Shown(1, ("for",)),
        Shown(2, ("forty", "two")),
        Shown(3, ("forty", "two", "men")),
        Shown(4, ("forty", "too", "many")),
    ]
    assert churn(shown) == (3, 1 + 2 + 1 + 2)
    assert churn([]) == (0, 0)


def test_the_times_of_the_synthesiser_are_read_per_file() -> None:
    lines = ["= a.wav", "Well 0.22 0.5", "= b.wav", "it's 0.1 0.4", "on 0.4 0.6"]
    assert parse_times(lines) == [
        ("a.wav", (Spoken("well", 0.22, 0.5),)),
        ("b.wav", (Spoken("it's", 0.1, 0.4), Spoken("on", 0.4, 0.6))),
    ]
