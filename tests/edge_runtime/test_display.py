"""Displays, seen through a small terminal that knows what the escape sequences do."""

from __future__ import annotations

import io
import json
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.display import (
    JsonDisplay,
    PlainDisplay,
    Progress,
    TerminalDisplay,
    open_display,
    tail,
    width,
)
from edge_runtime.events import Final, Partial, Word
from tests.edge_runtime.screen import Screen


def words(text: str, confidence: float = 0.9, start: float = 1.0) -> tuple[Word, ...]:
    return tuple(
        Word(word=word, start=start + i * 0.4, end=start + i * 0.4 + 0.3, confidence=confidence)
        for i, word in enumerate(text.split())
    )


def partial(text: str) -> Partial:
    return Partial(text=text, start=1.0, end=2.0, confidence=0.9, words=words(text))


def final(text: str, *spoken: Word, start: float = 1.0) -> Final:
    chosen = spoken or words(text, start=start)
    return Final(text=text, start=start, end=start + 1, confidence=0.9, words=chosen)


texts = st.lists(
    st.text(st.sampled_from("ab é字か́\u200b"), min_size=1, max_size=9).map(
        lambda word: "".join(word.split()) or "x"
    ),
    max_size=12,
).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), texts), max_size=8), st.integers(30, 60))
@example([(True, "\u0301 \u0301 a a aaかか aaaaaaaa")], 30)  # words without a width
def test_the_terminal_shows_the_finals_for_good_and_one_line_in_flux(
    events: list[tuple[bool, str]], columns: int
) -> None:
    screen = Screen(columns)
    display = TerminalDisplay(screen, columns=lambda: columns)  # type: ignore[arg-type]
    said: list[str] = []
    for is_final, text in events:
        display.show(final(text) if is_final else partial(text))
        if is_final:
            said += text.split()
            assert screen.lines[-1] == ""
        else:
            in_flux = screen.lines[-1]
            assert text.endswith(in_flux.lstrip("…"))
            assert in_flux == text or in_flux.startswith("…")
        permanent = " ".join(line[7:] for line in screen.lines[:-1])
        assert permanent.split() == said
    assert not screen.wrapped
    display.close()
    assert screen.lines[-1] == ""


def test_a_line_that_did_not_change_is_not_written_again() -> None:
    out = io.StringIO()
    display = TerminalDisplay(out, columns=lambda: 80)
    display.show(partial("one two"))
    written = out.tell()
    display.show(partial("one two"))
    assert out.tell() == written


def test_the_line_in_flux_follows_the_width_of_the_terminal() -> None:
    columns = [30]
    screen = Screen(30)
    display = TerminalDisplay(screen, columns=lambda: columns[0])  # type: ignore[arg-type]
    display.show(partial("a" * 25))
    assert screen.lines[-1] == "a" * 25
    columns[0] = screen.columns = 10
    display.show(partial("a" * 26))
    assert screen.lines[-1] == "…" + "a" * 8


def test_doubtful_words_are_marked_with_and_without_colour() -> None:
    sure, unsure = words("sure"), words("maybe", confidence=0.2)
    for colour, expected in ((True, "sure \x1b[33mmaybe\x1b[0m"), (False, "sure maybe?")):
        out = io.StringIO()
        TerminalDisplay(out, columns=lambda: 80, colour=colour).show(
            final("sure maybe", *sure, *unsure)
        )
        assert expected in out.getvalue()
        assert ("\x1b[2m" in out.getvalue()) == colour


def test_a_final_begins_with_its_time() -> None:
    screen = Screen(80)
    TerminalDisplay(screen, columns=lambda: 80).show(final("late", start=83.25))  # type: ignore[arg-type]
    assert screen.lines[0] == " 1:23.2  late"


def test_a_word_cannot_steer_the_terminal() -> None:
    out = io.StringIO()
    display = TerminalDisplay(out, columns=lambda: 80, colour=False)
    display.show(partial("a\x1b[2J\x07b"))
    display.show(final("a\x1b[2Jb"))
    assert "\x1b[2J" not in out.getvalue()
    assert "\x07" not in out.getvalue()


@given(st.text(), st.integers(0, 40))
def test_a_tail_fits_and_is_the_end_of_its_text(text: str, room: int) -> None:
    cut = tail(text, room)
    assert width(cut) <= room
    visible = "".join(c for c in text if unicodedata.category(c) != "Cc")
    assert cut == visible or visible.endswith(cut.removeprefix("…"))


def test_the_pipe_gets_one_line_of_text_per_final_and_nothing_else() -> None:
    out = io.StringIO()
    display = PlainDisplay(out)
    for event in (partial("on"), partial("one"), final("one two"), final(""), final("three")):
        display.show(event)
    assert out.getvalue() == "one two\nthree\n"


def test_json_is_one_typed_object_per_event() -> None:
    out = io.StringIO()
    display = JsonDisplay(out)
    display.show(partial("né"))
    display.file = "a.wav"
    display.show(final("né e"))
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert set(first) == {"type", "text", "start", "end", "confidence", "words"}
    assert first["type"] == "partial"
    assert set(first["words"][0]) == {"word", "start", "end", "confidence"}
    assert second["type"] == "final"
    assert second["text"] == "né e"
    assert second["file"] == "a.wav"
    assert "né" in out.getvalue()  # readable, not escaped


@pytest.mark.parametrize(
    ("terminal", "name", "kind"),
    [
        (False, "xterm", PlainDisplay),
        (True, "dumb", PlainDisplay),
        (True, "xterm", TerminalDisplay),
    ],
)
def test_the_display_is_chosen_by_what_stdout_is(
    terminal: bool, name: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", name)
    out = io.StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    assert isinstance(open_display(out), kind)


def test_progress_is_shown_only_of_work_that_takes_longer_than_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    screen = Screen(80)
    progress = Progress(screen, "talk.wav", 60.0)  # type: ignore[arg-type]
    progress.update(15.0)
    assert screen.lines == [""]
    now[0] += 3.0
    progress.update(30.0)
    assert screen.lines == ["talk.wav   50%  10x real time"]
    progress.clear()
    assert screen.lines == [""]
