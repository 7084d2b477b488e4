"""Captions from recognised words: SubRip and WebVTT.

    for number, cue in enumerate(cues(finals), 1):
        file.write(srt(number, cue))

A cue has at most two lines of 42 characters and stays at most seven seconds (the usual broadcast
limits).  It breaks where the speaker paused; where a run of speech without a pause is too long, it
breaks at the widest gap of the second half of what fits.  Cues never overlap, and stay readable for
a second where the next one leaves room.

The captions of a live stream are written while it runs, one cue late: see CueSheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from edge_runtime.events import Final, Word

VTT_HEADER = "WEBVTT\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    """What a cue may look like.

    42 characters, two lines, seven seconds: Netflix Timed Text Style Guide, General Requirements.
    """

    line_chars: int = 42
    lines: int = 2
    cue_s: float = 7.0
    pause_s: float = 0.5  # silence between two words that ends a cue
    readable_s: float = 1.0  # a shorter cue stays this long if the next one leaves room


@dataclass(frozen=True, slots=True)
class Cue:
    """Text to show from `start` to `end`, in seconds; one string per line."""

    start: float
    end: float
    lines: tuple[str, ...]


class CueSheet:
    """Turns finals into cues as they come: in order, without overlaps, on whole milliseconds."""

    def __init__(self, config: CaptionConfig | None = None) -> None:
        self._config = config or CaptionConfig()
        self._held: Cue | None = None  # its end depends on where the next one starts

    def add(self, final: Final) -> list[Cue]:
        """Cues that are settled by another final of the same stream."""
        settled = []
        for cue in _raw_cues(final, self._config):
            if self._held is None:
                self._held = replace(cue, start=max(0.0, cue.start))
                continue
            # Words may touch or, by rounding, overlap: the later cue gives way.
            start = _ms(max(cue.start, self._held.start + 0.001))
            settled.append(self._settle(self._held, start))
            self._held = replace(cue, start=start)
        return settled

    def finish(self) -> list[Cue]:
        """The last cue, if there was any."""
        settled = [] if self._held is None else [self._settle(self._held, float("inf"))]
        self._held = None
        return settled

    def _settle(self, cue: Cue, limit: float) -> Cue:
        """The cue, readable if there is room before `limit`, which is after its start."""
        end = min(max(cue.end, cue.start + self._config.readable_s), limit)
        return replace(cue, end=_ms(end))


def cues(finals: Iterable[Final], config: CaptionConfig | None = None) -> list[Cue]:
    """All cues of a stream's finals."""
    sheet = CueSheet(config)
    settled = [cue for final in finals for cue in sheet.add(final)]
    return settled + sheet.finish()


def _ms(seconds: float) -> float:
    return round(seconds * 1000) / 1000


def _raw_cues(final: Final, config: CaptionConfig) -> Iterator[Cue]:
    words = [part for word in final.words for part in _parts(word, config)]
    while words:
        count = _cut(words, config)
        chosen, words = words[:count], words[count:]
        start = _ms(chosen[0].start)
        end = min(max(word.end for word in chosen), start + config.cue_s)
        yield Cue(start, _ms(end), _wrap([word.word for word in chosen], config))


def _parts(word: Word, config: CaptionConfig) -> list[Word]:
    """The word; in parts, each with its share of the time, if it is longer than a line."""
    text = "".join(word.word.split())
    step = config.line_chars
    count = -(-len(text) // step)
    each = (word.end - word.start) / max(1, count)
    return [
        word._replace(
            word=text[i * step : (i + 1) * step],
            start=word.start + i * each,
            end=word.start + (i + 1) * each,
        )
        for i in range(count)
    ]


def _cut(words: Sequence[Word], config: CaptionConfig) -> int:
    """How many of `words` make the next cue; at least one."""
    fits = 1
    while fits < len(words):
        gap = words[fits].start - words[fits - 1].end
        if gap >= config.pause_s:
            return fits
        if words[fits].end - words[0].start > config.cue_s:
            break
        if not _wrap([word.word for word in words[: fits + 1]], config):
            break
        fits += 1
    else:
        return fits
    later = range(max(1, fits // 2), fits + 1)
    return max(later, key=lambda n: (_ms(words[n].start - words[n - 1].end), n))


def _wrap(words: Sequence[str], config: CaptionConfig) -> tuple[str, ...]:
    """The words in as few lines as possible, as even as possible; () if they do not fit."""
    for lines in range(1, config.lines + 1):
        if wrapped := _even(words, lines, config.line_chars):
            return wrapped
    return ()


def _even(words: Sequence[str], lines: int, width: int) -> tuple[str, ...]:
    if lines == 1:
        line = " ".join(words)
        return (line,) if len(line) <= width else ()
    best: tuple[str, ...] = ()
    for count in range(1, len(words) - lines + 2):
        first = " ".join(words[:count])
        if len(first) > width:
            break
        rest = _even(words[count:], lines - 1, width)
        if rest and (not best or max(map(len, (first, *rest))) <= max(map(len, best))):
            best = (first, *rest)
    return best


def srt(number: int, cue: Cue) -> str:
    """One SubRip cue, numbered from 1."""
    # SubRip has no escapes.  A zero-width space keeps text from being read as an arrow or a tag.
    text = "\n".join(cue.lines).replace("-->", "--\u200b>").replace("<", "<\u200b")
    return f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{text}\n\n"


def vtt(cue: Cue) -> str:
    """One WebVTT cue (W3C WebVTT, section 4.1); the file starts with VTT_HEADER."""
    text = "\n".join(cue.lines)
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, escaped)
    return f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{text}\n\n"


def _clock(seconds: float, point: str) -> str:
    total = round(seconds * 1000)
    minutes, ms = divmod(total, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"
