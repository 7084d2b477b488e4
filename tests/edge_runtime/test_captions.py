"""Captions: their limits hold for any words, and every word and time can be read back."""

from __future__ import annotations

import html
import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.captions import VTT_HEADER, Cue, CueSheet, cues, srt, vtt
from edge_runtime.events import Final, Word


def final(words: list[Word]) -> Final:
    return Final(
        text=" ".join(word.word for word in words),
        start=words[0].start if words else 0.0,
        end=words[-1].end if words else 0.0,
        confidence=0.9,
        words=tuple(words),
    )


def say(text: str, *, start: float = 0.0, each: float = 0.3, gap: float = 0.1) -> list[Word]:
    """Words of a steady speaker."""
    step = each + gap
    return [
        Word(word=word, start=start + i * step, end=start + i * step + each, confidence=0.9)
        for i, word in enumerate(text.split())
    ]


@st.composite
def speech(draw: st.DrawFn, alphabet: st.SearchStrategy[str] | None = None) -> list[Final]:
    """Finals with words in order of time, pauses of any length, words of any length."""
    text = st.text(alphabet or st.sampled_from("abc<>&-'\"{}é字"), min_size=1, max_size=42)
    now = draw(st.floats(0, 4000))
    finals = []
    for _ in range(draw(st.integers(0, 4))):
        words = []
        for _ in range(draw(st.integers(0, 30))):
            now += draw(st.sampled_from([0.0, 0.04, 0.2, 0.6, 9.0]))
            end = now + draw(st.sampled_from([0.0, 0.04, 0.3, 1.0, 8.0]))
            words.append(Word(word=draw(text), start=now, end=end, confidence=0.5))
            now = end
        finals.append(final(words))
    return finals


Parsed = tuple[float, float, list[str]]


def seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.replace(",", ".").split(":")
    return round(int(hours) * 3600 + int(minutes) * 60 + float(rest), 3)


def parse(text: str) -> list[Parsed]:
    """An independent reader of cue blocks: times, and lines still escaped."""
    parsed = []
    for block in text.split("\n\n")[:-1]:
        lines = block.split("\n")
        if re.fullmatch(r"\d+", lines[0]):
            assert int(lines[0]) == len(parsed) + 1
            lines = lines[1:]
        times = re.fullmatch(r"(\d\d:\d\d:\d\d[.,]\d{3}) --> (\d\d:\d\d:\d\d[.,]\d{3})", lines[0])
        assert times, block
        parsed.append((seconds(times[1]), seconds(times[2]), lines[1:]))
    return parsed


def as_srt(made: list[Cue]) -> str:
    return "".join(srt(number, cue) for number, cue in enumerate(made, 1))


def as_vtt(made: list[Cue]) -> str:
    return "".join(vtt(cue) for cue in made)


@settings(deadline=None, max_examples=60)
@given(speech())
def test_words_and_times_can_be_read_back_from_both_formats(finals: list[Final]) -> None:
    made = cues(finals)
    spoken = [word for final in finals for word in final.words]
    for text, unescape in ((as_vtt(made), html.unescape), (as_srt(made), drop_invisible)):
        parsed = parse(text)
        read = [word for _, _, lines in parsed for line in lines for word in unescape(line).split()]
        assert read == [word.word for word in spoken]
        first = 0
        for (start, end, lines), cue in zip(parsed, made, strict=True):
            assert (start, end) == (round(cue.start, 3), round(cue.end, 3))
            count = len(" ".join(lines).split())
            # Two words of no duration at one moment still get a millisecond each.
            assert abs(start - spoken[first].start) <= 0.001 * len(made) + 0.0006
            first += count


def drop_invisible(line: str) -> str:
    return line.replace("\u200b", "")


@settings(deadline=None, max_examples=60)
@given(speech())
def test_limits_hold_for_any_words(finals: list[Final]) -> None:
    made = cues(finals)
    for cue in made:
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 for line in cue.lines)
        assert 0 < cue.end - cue.start <= 7.001
    for cue, following in itertools.pairwise(made):
        assert cue.end <= following.start
        assert cue.start < following.start


@settings(deadline=None, max_examples=60)
@given(speech())
def test_a_live_sheet_gives_the_same_cues_as_early_as_it_can(finals: list[Final]) -> None:
    sheet = CueSheet()
    settled = [sheet.add(final) for final in finals]
    assert [cue for batch in settled for cue in batch] + sheet.finish() == cues(finals)
    held = sum(map(len, settled))
    assert held >= len(cues(finals)) - 1


def test_a_word_longer_than_a_line_is_continued() -> None:
    word = Word(word="x" * 100, start=1.0, end=2.0, confidence=1.0)
    made = cues([final([word])])
    assert "".join(line for cue in made for line in cue.lines) == "x" * 100
    assert all(len(line) <= 42 for cue in made for line in cue.lines)
    assert made[0].start == 1.0
    assert made[-1].start < 2.0


def test_a_pause_ends_a_cue() -> None:
    words = [*say("one two three"), *say("four five", start=2.0)]
    assert [cue.lines for cue in cues([final(words)])] == [("one two three",), ("four five",)]


def test_a_run_without_a_pause_breaks_at_its_widest_gap() -> None:
    words = say("a " * 40, each=0.1, gap=0.02)
    for i in range(30, 40):  # a breath of 0.3 s before the thirtieth word
        words[i] = Word(
            word="b", start=words[i].start + 0.3, end=words[i].end + 0.3, confidence=0.9
        )
    words += say("b " * 20, start=words[-1].end + 0.02, each=0.1, gap=0.02)
    assert cues([final(words)])[0].lines[-1].split()[-1] == "a"
    assert cues([final(words)])[1].lines[0].split()[0] == "b"


def test_two_lines_are_about_equally_long() -> None:
    (cue,) = cues([final(say("we hold these truths to be self evident that all", each=0.2))])
    assert cue.lines == ("we hold these truths to", "be self evident that all")


def test_a_short_word_stays_readable_unless_the_next_is_due() -> None:
    alone = cues([final(say("yes", each=0.2))])
    assert (alone[0].start, alone[0].end) == (0.0, 1.0)
    followed = cues([final(say("yes", each=0.2)), final(say("no", start=0.5, each=0.2))])
    assert (followed[0].end, followed[1].end) == (0.5, 1.5)


def test_finals_without_words_make_no_cue() -> None:
    assert cues([final([]), final(say("hi")), final([])])[0].lines == ("hi",)
    assert cues([final([])]) == []


def test_markup_in_a_word_cannot_become_markup_of_the_file() -> None:
    cue = Cue(0.0, 1.0, ("<b>a</b> --> R&D",))
    assert vtt(cue) == ("00:00:00.000 --> 00:00:01.000\n&lt;b&gt;a&lt;/b&gt; --&gt; R&amp;D\n\n")
    body = srt(1, cue).split("\n")[2]
    assert "-->" not in body
    assert not re.search(r"</?\w", body)


def test_the_exact_text_of_both_formats() -> None:
    made = cues([final(say("hello world", start=3661.5))])
    assert as_srt(made) == "1\n01:01:01,500 --> 01:01:02,500\nhello world\n\n"
    assert VTT_HEADER + as_vtt(made) == ("WEBVTT\n\n01:01:01.500 --> 01:01:02.500\nhello world\n\n")
