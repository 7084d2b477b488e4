"""Where the device and a label differ, word by word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotrain_cloud.labels.text import plain
from edge_runtime.metrics import align

MOST_WORDS = 1000  # of either side: aligning takes their product


def difference(label: Any, segment: Any) -> dict[str, Any] | None:
    """Of a label's row and its segment's; None for texts that are too long."""
    reference = plain(label.text).split()
    heard = _words(segment)
    if max(len(reference), len(heard)) > MOST_WORDS:
        return None
    alignment = align(reference, [word for word, _ in heard])
    counts = alignment.counts
    steps, place = [], 0
    for want, got in alignment.pairs:
        step: dict[str, Any] = {"kind": _kind(want, got), "reference": want, "hypothesis": got}
        if got is not None:
            about = heard[place][1]
            place += 1
            step |= {name: about.get(name) for name in ("confidence", "start_s", "end_s")}
        steps.append(step)
    length = counts.reference_length
    return {
        "label": label.id,
        "errors": counts.errors,
        "reference_words": length,
        "word_error_rate": counts.errors / length if length else None,
        "steps": steps,
    }


def _words(segment: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The device's words with what it said of each; without these, those of its text."""
    if not segment.words:
        return [(word, {}) for word in plain(segment.text).split()]
    return [(part, word) for word in segment.words for part in plain(word["word"]).split()]


def _kind(want: str | None, got: str | None) -> str:
    if want is None:
        return "insertion"
    if got is None:
        return "deletion"
    return "equal" if want == got else "substitution"
