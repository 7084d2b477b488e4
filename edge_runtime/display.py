"""How recognition events reach people and programs.

    display = open_display(sys.stdout)      # by what stdout is; or JsonDisplay(sys.stdout)
    display.show(event)                     # Partial or Final
    display.close()

On a terminal the words still in flux are one dim line, rewritten in place; a final becomes
permanent lines with its time, and the words the model doubts are marked.  On a pipe each final is
one line of text.  JSON is one object per line for every event.  All of them flush at once: whoever
reads along must not wait for a buffer.

The one line in flux never wraps: it keeps its end and cuts its start, because a terminal cannot
rewrite a line that has wrapped.  Widths count terminal columns, so East Asian text fits too.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from edge_runtime.events import Final, Partial, Word

DOUBTFUL = 0.5  # words with less confidence than this are marked
_DIM, _DOUBT, _PLAIN = "\x1b[2m", "\x1b[33m", "\x1b[0m"
_CLEAR = "\r\x1b[K"  # to the start of the line, and erase it


class Display(Protocol):
    """Shows the events of one or more streams in turn."""

    def show(self, event: Partial | Final) -> None: ...

    def close(self) -> None:
        """Leaves the output tidy; more events may follow."""


class NoDisplay:
    """Shows nothing: standard output is needed for something else."""

    def show(self, event: Partial | Final) -> None:
        pass

    def close(self) -> None:
        pass


class PlainDisplay:
    """One line of text per final that has any; alternatives indented below it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: Partial | Final) -> None:
        if isinstance(event, Final) and event.text:
            lines = [event.text, *_alternatives(event)]
            self._out.write("".join(f"{line}\n" for line in lines))
            self._out.flush()

    def close(self) -> None:
        self._out.flush()


class JsonDisplay:
    """One JSON object per event.  `file`, if set, is added to each."""

    def __init__(self, out: TextIO, file: str | None = None) -> None:
        self._out = out
        self.file = file

    def show(self, event: Partial | Final) -> None:
        fields = event.to_json()
        if self.file is not None:
            fields = {**fields, "file": self.file}
        self._out.write(json.dumps(fields, ensure_ascii=False) + "\n")
        self._out.flush()

    def close(self) -> None:
        self._out.flush()


class TerminalDisplay:
    """Words live, rewritten in place.

    Args:
        out: the terminal.
        columns: asked before every line, because terminals are resized.
        colour: without it (NO_COLOR, see no-color.org) doubtful words get a question mark instead.
    """

    def __init__(
        self, out: TextIO, *, columns: Callable[[], int] | None = None, colour: bool = True
    ) -> None:
        self._out = out
        self._columns = columns or (lambda: shutil.get_terminal_size().columns)
        self._colour = colour
        self._shown = ""  # the line in flux, as it stands on the terminal

    def show(self, event: Partial | Final) -> None:
        if isinstance(event, Final):
            self._final(event)
        else:
            self._partial(event.text)

    def close(self) -> None:
        """Erases what is in flux; it was never final."""
        self._partial("")

    def _partial(self, text: str) -> None:
        # One column stays free: a full line wraps on some terminals.
        line = tail(text, self._columns() - 1)
        if line == self._shown:
            return
        self._shown = line
        self._write(_CLEAR + (self._styled(line, _DIM) if line else ""))

    def _final(self, final: Final) -> None:
        lines = []
        if final.text:
            stamp = clock(final.start)
            room = max(10, self._columns() - 1 - len(stamp) - 2)
            for number, words in enumerate(self._wrapped(final, room)):
                margin = self._styled(stamp, _DIM) if number == 0 else " " * len(stamp)
                lines.append(f"{margin}  {words}\n")
            indent = " " * (len(stamp) + 2)
            lines += [f"{indent}{self._styled(text, _DIM)}\n" for text in _alternatives(final)]
        if lines or self._shown:
            self._write(_CLEAR + "".join(lines))
        self._shown = ""

    def _wrapped(self, final: Final, room: int) -> list[str]:
        """The final's words in lines of at most `room` columns, doubtful ones marked."""
        lines: list[list[str]] = [[]]
        used = 0
        for word in final.words or _as_words(final):
            doubtful = word.confidence < DOUBTFUL
            text = _printable(word.word) + ("?" if doubtful and not self._colour else "")
            if lines[-1] and used + 1 + width(text) > room:
                lines.append([])
                used = 0
            used += width(text) + (1 if lines[-1] else 0)
            lines[-1].append(self._styled(text, _DOUBT) if doubtful else text)
        return [" ".join(line) for line in lines]

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colour else text

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class Progress:
    """One line about a recording being worked on, once that takes longer than two seconds.

    Args:
        out: where it is rewritten in place.
        name: of the recording.
        duration_s: of the recording; None shows nothing.
    """

    def __init__(self, out: TextIO, name: str, duration_s: float | None) -> None:
        self._out = out
        self._name = name
        self._duration_s = duration_s
        self._begin = self._last = time.monotonic()
        self._visible = False

    def update(self, done_s: float) -> None:
        """`done_s` seconds of the recording are done."""
        now = time.monotonic()
        if not self._duration_s or now - self._begin < 2 or now - self._last < 0.2:
            return
        self._last = now
        share, speed = done_s / self._duration_s, done_s / (now - self._begin)
        text = f"{self._name}  {min(share, 1):4.0%}  {speed:.0f}x real time"
        self._out.write(_CLEAR + tail(text, shutil.get_terminal_size().columns - 1))
        self._out.flush()
        self._visible = True

    def clear(self) -> None:
        """Erases the line, so that something else can be written."""
        if self._visible:
            self._out.write(_CLEAR)
            self._out.flush()
            self._visible = False


def open_display(out: TextIO) -> Display:
    """The live display on a terminal that can rewrite a line, plain lines anywhere else."""
    if out.isatty() and os.environ.get("TERM", "") != "dumb":
        return TerminalDisplay(out, colour="NO_COLOR" not in os.environ)
    return PlainDisplay(out)


def clock(seconds: float) -> str:
    """`12.3 s` as ` 0:12.3`, columns aligned up to an hour and a half."""
    tenths = round(max(0.0, seconds) * 10)
    return f"{tenths // 600:2}:{tenths % 600 / 10:04.1f}"


def width(text: str) -> int:
    """Terminal columns of `text`: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(char) for char in text)


def tail(text: str, room: int) -> str:
    """The end of `text` that fits `room` columns, with an ellipsis where something was cut."""
    text = _printable(text)
    if width(text) <= room:
        return text
    used, start = 1, len(text)  # one column for the ellipsis
    while start and used + _columns_of(text[start - 1]) <= room:
        start -= 1
        used += _columns_of(text[start])
    while start < len(text) and unicodedata.combining(text[start]):
        start += 1  # a mark without its letter would sit on the ellipsis
    return ("…" + text[start:]) if room > 0 else ""


def _columns_of(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _printable(text: str) -> str:
    """Without control characters: a model's vocabulary must not steer somebody's terminal."""
    return "".join(c for c in text if unicodedata.category(c) != "Cc")


def _as_words(final: Final) -> list[Word]:
    """The text of a final that came without words."""
    return [
        Word(word=text, start=final.start, end=final.end, confidence=final.confidence)
        for text in final.text.split()
    ]


def _alternatives(final: Final) -> Sequence[str]:
    return [f"{h.score:8.2f}  {h.text}" for h in final.nbest]
