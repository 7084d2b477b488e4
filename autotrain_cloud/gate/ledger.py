"""The promotion ledger: who decided what, when and on which evidence; only ever added to.

A file of JSON lines, each with the SHA-256 of the line before it and of itself, so that an entry
that is changed, removed or moved breaks the chain at its line.  What a chain cannot show is that
its newest entries were cut off: `verify` takes the head that somebody noted elsewhere.

An append is on the disk when it returns, and writers exclude one another by a lock on the file.
A line that a crash left unfinished was never acknowledged: reading reports it, and the next append
takes its place and says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autotrain_cloud.locks import locked
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import sync_directory

SCHEMA_VERSION = 1
START = "0" * 64  # what the first entry follows
LOCK_S = 10.0
KINDS = {  # and what the body of each must say; "verdict" is the digest of one
    "verdict": ("verdict", "decision", "reasons", "champion", "challenger", "sets", "training"),
    "approval": ("verdict",),
    "refusal": ("verdict", "reason"),
    "publication": ("verdict", "challenger", "release_counter"),
    "rollback": ("release_counter", "reason"),
}


class LedgerTampered(StorageError):
    """An entry is not what was appended."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}; this ledger was changed after it was written")
        self.path, self.line = path, line


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line."""

    number: int  # from 1
    at: str  # ISO 8601, UTC
    who: str
    kind: str  # one of KINDS
    body: Mapping[str, Any] = field(default_factory=dict)
    previous: str  # hash of the entry before
    hash: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "number": self.number,
            "at": self.at,
            "who": self.who,
            "kind": self.kind,
            "body": dict(self.body),
            "previous": self.previous,
            "hash": self.hash,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A whole ledger, every link checked."""

    entries: tuple[Entry, ...]
    torn: bytes  # an unfinished line at the end
    head: str  # hash of the newest entry


def read_ledger(path: Path) -> Reading:
    """Raises LedgerTampered naming the first line that is wrong, StorageError if unreadable.

    A file that does not exist is an empty ledger.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(content, path)


def parse(content: bytes, path: Path) -> Reading:
    """As `read_ledger`, from the file's content."""
    *lines, torn = content.split(b"\n")
    entries: list[Entry] = []
    head = START
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            version, claimed = fields.pop("schema_version"), fields["hash"]
            entry = Entry(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerTampered(path, number, "is not an entry") from error
        if version != SCHEMA_VERSION:
            raise StorageError(f"{path}:{number}: written by another version of vitconformer")
        if entry.number != number or entry.previous != head:
            raise LedgerTampered(path, number, "does not follow the entry before it")
        if claimed != _hash(entry) or line != _line(entry):
            raise LedgerTampered(path, number, "differs from its hash")
        entries.append(entry)
        head = claimed
    return Reading(entries=tuple(entries), torn=torn, head=head)


def verify(path: Path, *, head: str = "") -> Reading:
    """Every link, and with `head` that an entry of this hash is still there.

    Raises LedgerTampered; its line is the last where `head` is missing.
    """
    reading = read_ledger(path)
    if head and not any(entry.hash.startswith(head) for entry in reading.entries):
        last = len(reading.entries)
        raise LedgerTampered(path, last, f"no entry up to here has the hash {head[:12]}")
    return reading


def append(
    path: Path,
    kind: str,
    who: str,
    body: Mapping[str, Any],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    lock_s: float = LOCK_S,
) -> Entry:
    """Adds an entry; on the disk when this returns.

    Raises LedgerTampered without adding to a broken chain, StorageError if the disk refuses or
    another writer holds the ledger for `lock_s` seconds.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r} (expected one of {', '.join(KINDS)})")
    if missing := next((name for name in KINDS[kind] if name not in body), None):
        raise ValueError(f"{kind}: {missing}: is missing")
    if not who:
        raise ConfigError("an entry of the ledger needs a name: who decided")
    try:
        is_new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + lock_s
        with locked(path, mode=0o644, give_up=lambda: time.monotonic() > until) as handle:
            if handle is None:
                raise StorageError(f"{path}: another process has been writing for {lock_s:g} s")
            size = os.fstat(handle).st_size
            reading = parse(os.pread(handle, size, 0), path)
            if reading.torn:
                body = {**body, "replaces_unfinished_line_of_bytes": len(reading.torn)}
            entry = Entry(
                number=len(reading.entries) + 1,
                at=now().isoformat(timespec="milliseconds"),
                who=who,
                kind=kind,
                body=json.loads(json.dumps(body)),  # what will be read back
                previous=reading.head,
            )
            entry = Entry(**{**_fields(entry), "hash": _hash(entry)})
            end = size - len(reading.torn)
            os.ftruncate(handle, end)
            _write(handle, _line(entry) + b"\n", end)
            os.fsync(handle)
        if is_new:
            sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    return entry


def looks(reading: Reading, eval_set: str) -> int:
    """How many different challengers were judged on the set of that digest."""
    return len(
        {
            entry.body.get("challenger", {}).get("digest")
            for entry in reading.entries
            if entry.kind == "verdict"
            and any(one.get("digest") == eval_set for one in entry.body.get("sets", ()))
        }
    )


def _fields(entry: Entry) -> dict[str, Any]:
    fields = entry.to_json()
    del fields["schema_version"]
    return fields


def _hash(entry: Entry) -> str:
    fields = entry.to_json()
    del fields["hash"]
    return hashlib.sha256(canonical(fields)).hexdigest()


def _line(entry: Entry) -> bytes:
    return canonical(entry.to_json())


def canonical(fields: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces: of what digests are. Raises ValueError for a NaN."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")  # JSON escapes the rest


def _write(handle: int, content: bytes, at: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(handle, content[done:], at + done)
