"""Manifests: which audio says what, one JSON object a line.

    {"audio_filepath": "clips/a.flac", "duration": 3.41, "text": "so it was", "speaker": "4088"}

The field names are NeMo's; `audio` is read as another name of `audio_filepath`.  A relative path is
relative to the manifest.  Fields this package does not know are kept and written back, so that a
manifest can pass through it without losing what another tool put there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

# Clips without text may say how loud a place is: as loud as beside speech of this mean square,
# 30 dB below full scale.
SPEECH_POWER = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One recording and its transcript."""

    audio_filepath: Path
    duration: float  # s
    text: str  # may be empty: noise, silence
    speaker: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # every other field of the line

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "audio_filepath": str(self.audio_filepath),
            "duration": self.duration,
            "text": self.text,
        }
        if self.speaker:
            fields["speaker"] = self.speaker
        return {**fields, **self.extra}


def read_manifest(path: Path | str) -> list[Utterance]:
    """The utterances of a manifest, in order; audio paths as `open` takes them.

    Raises:
        ConfigError: the file cannot be read, or a line is wrong; names file, line and field.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this manifest: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: a manifest is UTF-8 text: {error}") from error
    return [
        _utterance(line, path.parent, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _utterance(line: str, base: Path, where: str) -> Utterance:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{where}: a line is one JSON object, not {line[:40]!r}")
    if "audio" in fields:
        fields.setdefault("audio_filepath", fields.pop("audio"))
    audio = fields.pop("audio_filepath", None)
    if not isinstance(audio, str) or not audio:
        raise ConfigError(f"{where}: audio_filepath: the path of a sound file, not {audio!r}")
    duration = fields.pop("duration", None)
    if not _is_seconds(duration):
        raise ConfigError(f"{where}: duration: seconds, 0 or more, not {duration!r}")
    text = fields.pop("text", None)
    if not isinstance(text, str):
        raise ConfigError(f"{where}: text: a string, not {text!r}")
    speaker = fields.pop("speaker", "")
    if not isinstance(speaker, str | int):  # LibriSpeech readers are numbers
        raise ConfigError(f"{where}: speaker: a name, not {speaker!r}")
    return Utterance(
        audio_filepath=base / audio,  # an absolute `audio` wins over `base`
        duration=float(duration),
        text=text,
        speaker=str(speaker),
        extra=fields,
    )


def _is_seconds(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def write_manifest(path: Path | str, utterances: Iterable[Utterance]) -> int:
    """Write all or nothing; -> how many.

    Audio below the manifest's directory is written relative to it, so the two can move together.
    """
    path = Path(path)
    base = path.parent.resolve()
    lines = []
    for utterance in utterances:
        audio = utterance.audio_filepath.resolve()
        fields = utterance.to_json()
        fields["audio_filepath"] = str(
            audio.relative_to(base) if audio.is_relative_to(base) else audio
        )
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines).encode())
    return len(lines)
