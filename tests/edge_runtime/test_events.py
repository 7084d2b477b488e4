"""The JSON of events is an interface: keys and rounding are fixed here."""

from __future__ import annotations

import json

from edge_runtime.events import Event, Final, Hypothesis, Partial, Word

WORD = Word("hello", 0.12345, 0.5, 0.987654)
WORD_JSON = {"word": "hello", "start": 0.123, "end": 0.5, "confidence": 0.9877}


def test_a_partial_has_exactly_these_keys() -> None:
    event = Partial("hello", 0.12345, 0.5, 0.987654, (WORD,))
    assert event.to_json() == {
        "type": "partial",
        "text": "hello",
        "start": 0.123,
        "end": 0.5,
        "confidence": 0.9877,
        "words": [WORD_JSON],
    }


def test_a_final_adds_the_deletion_score_and_the_n_best_list() -> None:
    event = Final("hello", 0.1, 0.5, 0.9, (WORD,), 0.25, (Hypothesis("hello", -1.5, (WORD,)),))
    data = event.to_json()
    assert data["type"] == "final"
    assert data["deletion_score"] == 0.25
    assert data["nbest"] == [{"text": "hello", "score": -1.5, "words": [WORD_JSON]}]
    assert list(data) == [*Partial("", 0, 0, 0, ()).to_json(), "deletion_score", "nbest"]


def test_events_survive_json_with_any_letters() -> None:
    event: Event = Final("žluťoučký ☕", 0.0, 1.0, 1.0, ())
    assert json.loads(json.dumps(event.to_json()))["text"] == event.text


def test_the_type_says_which_event_it_is() -> None:
    assert [event.type for event in (Partial("", 0, 0, 0, ()), Final("", 0, 0, 0, ()))] == [
        "partial",
        "final",
    ]
