"""The sets that models are compared on: manifests whose every line says who spoke.

A set's digest is that of what is heard, of the references and of who spoke, so that a file that
moved is the same set and a corrected transcript makes another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.manifest import Utterance, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One line of a set."""

    utterance: Utterance
    block: str  # who spoke: the speaker, else the device; "" if nobody knows
    slice: str  # part of the set that is judged by itself; "" if it has no parts
    audio_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSet:
    """A manifest under a name."""

    name: str
    path: Path
    recordings: tuple[Recording, ...] = field(repr=False)
    digest: str  # SHA-256, hex

    @property
    def seconds(self) -> float:
        return sum(recording.utterance.duration for recording in self.recordings)


def read_set(name: str, path: Path, *, blocks: bool = True) -> EvalSet:
    """Reads a manifest and the digests of its audio.

    With `blocks`, every line must say who spoke: `speaker`, or `device`. Differences are judged by
    speaker, and there is no honest way to do that for speech of unknown people.

    Raises ConfigError naming the line, and for a set without utterances.
    """
    recordings = []
    for number, utterance in enumerate(read_manifest(path), start=1):
        where = f"{path}: utterance {number}"
        block = utterance.speaker or str(utterance.extra.get("device", ""))
        if blocks and not block:
            raise ConfigError(f"{where}: has neither speaker nor device; say who spoke")
        part = utterance.extra.get("slice", "")
        if not isinstance(part, str):
            raise ConfigError(f"{where}: slice: {part!r} (expected text)")
        recordings.append(
            Recording(
                utterance=utterance,
                block=block,
                slice=part,
                audio_sha256=audio_digest(utterance.audio_filepath, where),
            )
        )
    if not recordings:
        raise ConfigError(f"{path}: the set {name} has no utterances")
    return EvalSet(name=name, path=path, recordings=tuple(recordings), digest=_digest(recordings))


def audio_digest(path: Path, where: str) -> str:
    """SHA-256 of a file. Raises ConfigError beginning with `where`."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ConfigError(f"{where}: audio_filepath: {path}: {error.strerror}") from error
    return digest.hexdigest()


def _digest(recordings: Sequence[Recording]) -> str:
    digest = hashlib.sha256()
    for one in recordings:
        line = [one.audio_sha256, one.utterance.text, one.block, one.slice]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()
