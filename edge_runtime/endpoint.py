"""When is an utterance over, and where may it be cut?

Three rules, after Kaldi's online endpointing; the first that holds wins:

* `NOTHING_SAID`: no word yet, and a long silence;
* `PAUSE`: words, then a pause;
* `TOO_LONG`: the utterance has reached its greatest length.

The first two fire inside silence, so cutting at the last frame splits no word. The third may fire
in running speech: `cut_frame` chooses the word boundary with the widest gap in the recent past,
and what was said after it starts the next utterance.

Pure functions: no clock, no audio.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.decoding import Token


class Endpoint(enum.Enum):
    """Why an utterance ended."""

    NOTHING_SAID = "nothing said"
    PAUSE = "pause"
    TOO_LONG = "too long"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """Durations in seconds."""

    silence_s: float = 2.4  # nothing decoded
    trailing_silence_s: float = 0.8  # after something was decoded
    max_utterance_s: float = 20.0
    recent_s: float = 6.0  # where `cut_frame` looks for a gap

    def __post_init__(self) -> None:
        for name in ("silence_s", "trailing_silence_s", "max_utterance_s", "recent_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")


def endpoint(
    config: EndpointConfig, *, decoded: bool, trailing_silence_s: float, utterance_s: float
) -> Endpoint | None:
    """The rule that ends the utterance now, or None.

    `decoded`: the utterance has a word. `trailing_silence_s`: since its last token, or since its
    start where there is none. `utterance_s`: since its start.
    """
    if not decoded and trailing_silence_s >= config.silence_s:
        return Endpoint.NOTHING_SAID
    if decoded and trailing_silence_s >= config.trailing_silence_s:
        return Endpoint.PAUSE
    if utterance_s >= config.max_utterance_s:
        return Endpoint.TOO_LONG
    return None


def cut_frame(
    tokens: Sequence[Token], word_starts: Sequence[bool], *, now: int, recent_frames: int
) -> int:
    """The frame at which an utterance that is too long is cut; never inside a word.

    Of the gaps between two words that begin within the last `recent_frames` frames the widest, of
    equally wide ones the latest; the last word boundary at all if there is none so recent. The last
    word may still be going on, so the silence after it is chosen only where there is no boundary.

    `tokens` are those of the utterance, `word_starts` says which ids start a word, `now` is the
    number of frames seen. Tokens that start before the returned frame belong to the utterance.
    """
    best: tuple[int, int] | None = None  # (gap, frame)
    for left, right in zip(reversed(tokens[:-1]), reversed(tokens[1:]), strict=True):
        if not word_starts[right.id]:
            continue
        if best is not None and left.end_frame < now - recent_frames:
            break
        gap = right.start_frame - left.end_frame
        if best is None or gap > best[0]:
            best = gap, left.end_frame + (gap + 1) // 2
    return now if best is None else best[1]
