"""What happened to the model of this device, as a chain: each entry has the hash of the one before.

A line of JSON an entry, durable when `write` returns::

    {"number": 7, "at": "2026-11-25T21:04:05Z", "what": "committed", ..., "previous": "5f2a…"}

`previous` is the SHA-256 of the line before, so no line can be changed, taken out or put in without
that showing in every later one.  Whoever knows a later hash (`head` is in every status) knows that
nothing before it was changed.  Old entries go when the file is full: it becomes ``audit.old`` and
the next one goes on from its last hash.

A power cut can tear only the line that was being written: it is cut off, and that is written down.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edge_runtime.ota.fs import Fs, replace

NAME, OLD = "audit", "audit.old"
MOST_BYTES = 500_000  # of each of the two files
BEGINNING = "0" * 64  # what comes before the first entry
_LONGEST = 400  # characters of a text in an entry


@dataclass(frozen=True, slots=True)
class Checked:
    """What `verify` found."""

    entries: list[dict[str, Any]]  # oldest first, those that can be read
    problems: list[str]  # in words; [] if the chain holds
    head: str  # hash of the last entry


class Audit:
    """The log of the device whose files `fs` holds."""

    def __init__(self, fs: Fs, *, now: Callable[[], float] = time.time) -> None:
        self._fs = fs
        self._now = now
        self.head, self._number = BEGINNING, 0
        lines, torn = _lines(fs, NAME)
        older, _ = _lines(fs, OLD)
        for line in (lines or older)[-1:]:
            self.head, self._number = _hash(line), _entry(line)["number"] + 1
        if torn:
            replace(fs, NAME, b"".join(line + b"\n" for line in lines))
            self.write("torn", outcome="repaired", detail=f"the last line, {torn} bytes, was cut")

    def write(self, what: str, **facts: Any) -> None:
        """Adds an entry; durable when this returns. Texts are cut at 400 characters."""
        fs = self._fs
        if fs.size(NAME) >= MOST_BYTES:
            fs.rename(NAME, OLD)
            fs.sync(".")
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))
        facts = {key: v[:_LONGEST] if isinstance(v, str) else v for key, v in facts.items()}
        entry = {"number": self._number, "at": at, "what": what, **facts, "previous": self.head}
        line = json.dumps(entry, separators=(",", ":")).encode()
        is_new = fs.size(NAME) < 0
        fs.append(NAME, line + b"\n")
        fs.sync(NAME)
        if is_new:
            fs.sync(".")
        self.head, self._number = _hash(line), self._number + 1


def verify(fs: Fs) -> Checked:
    """Reads everything and checks the chain; changes nothing."""
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    head = ""
    for name in (OLD, NAME):
        try:
            data = fs.read(name)
        except FileNotFoundError:
            continue
        *lines, rest = data.split(b"\n")
        if rest:
            problems.append(f"{name}: the last line is not whole: a power cut, or somebody's hand")
        for number, line in enumerate(lines, 1):
            where = f"{name}: line {number}"
            try:
                entry = _entry(line)
            except ValueError:
                problems.append(f"{where}: is no entry")
                head = ""
                continue
            if not entries and entry["number"] == 0 and entry["previous"] != BEGINNING:
                problems.append(f"{where}: the first entry follows another")
            if entries and entry["number"] != entries[-1]["number"] + 1:
                problems.append(f"{where}: entry {entry['number']} follows {entries[-1]['number']}")
            elif entries and entry["previous"] != head:
                problems.append(f"{where}: the entry before it was changed")
            entries.append(entry)
            head = _hash(line)
    return Checked(entries, problems, head or BEGINNING)


def _lines(fs: Fs, name: str) -> tuple[list[bytes], int]:
    """Lines up to the last that is an entry, and how many bytes come after it."""
    try:
        data = fs.read(name)
    except FileNotFoundError:
        return [], 0
    lines = data.split(b"\n")[:-1]
    while lines and not _is_entry(lines[-1]):
        lines.pop()
    return lines, len(data) - sum(len(line) + 1 for line in lines)


def _is_entry(line: bytes) -> bool:
    try:
        _entry(line)
    except ValueError:
        return False
    return True


def _entry(line: bytes) -> dict[str, Any]:
    """Raises ValueError."""
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("no object")
    if not isinstance(found.get("number"), int) or not isinstance(found.get("previous"), str):
        raise ValueError("no number")
    return found


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def texts(entries: list[dict[str, Any]]) -> Iterator[str]:
    """A line for people for each entry."""
    for entry in entries:
        rest = {
            key: value
            for key, value in entry.items()
            if key not in ("number", "at", "what", "previous") and value not in ("", None, {})
        }
        facts = ", ".join(f"{key}: {value}" for key, value in rest.items())
        yield f"{entry['number']:6} {entry.get('at', '')} {entry.get('what', '')}  {facts}"
