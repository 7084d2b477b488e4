"""Segments as the steps of learning see them: what a device heard and where its audio lies.

    for segment in read_segments(Path("shard.jsonl")):       # or .parquet
        samples = segment_audio(segment, base=Path("."))     # f32 [n], 16 kHz mono

A shard is a file of segments, the unit of work: some hundreds of them.  The store writes shards;
nothing here knows a database.
"""

from __future__ import annotations

import dataclasses
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.tables import read_rows
from edge_runtime.audio import SAMPLE_RATE, open_audio
from edge_runtime.errors import AudioError, ConfigError, StorageError

Samples: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardWord:
    """One word of a transcript; times from the start of the audio."""

    word: str
    start_s: float
    end_s: float
    confidence: float  # 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What a device uploaded, and what the store knows about it."""

    id: str
    audio: str  # a path, relative to the shard, or a URL that fsspec opens
    audio_sha256: str = ""
    duration_s: float
    start_s: float = 0.0  # of a clip within the audio …
    end_s: float | None = None  # … to here; none: to its end
    codec: str = "file"  # pcm16 has no header; everything else says itself what it is
    sample_rate: int = 16_000  # Hz, of pcm16
    text: str  # the device's best hypothesis
    words: tuple[HeardWord, ...] = ()
    confidence: float = 0.0  # the device's, calibrated
    device: str
    speaker: str = ""  # where known
    slice: str = ""  # that monitoring and quotas count it under
    domain: str = ""
    language: str = ""  # BCP 47, as the device has it
    model: str = ""  # bundle name and version that recognised it
    captured_ms: int = 0  # since 1970, UTC
    consent: str = ""  # id of the consent it was recorded under
    retention: str = ""  # retention class
    random_probability: float = 0.0  # that the random sample alone would have sent it
    reference: str | None = None  # what was said, where a person or the source of the text says so
    reference_source: str = ""  # human or source

    def __post_init__(self) -> None:
        if not self.id or not self.audio or not self.device:
            raise ConfigError("id, audio and device must not be empty")
        if "@" in self.id and self.end_s is None:
            raise ConfigError(f"id: {self.id!r}: an @ is for clips of a segment")
        if not (self.duration_s >= 0 and 0 <= self.confidence <= 1):
            raise ConfigError("duration_s must be 0 or more and confidence 0 to 1")
        if (self.reference is None) != (self.reference_source not in ("human", "source")):
            raise ConfigError("a reference needs a reference_source: human or source")


def read_segments(path: Path) -> Iterator[Segment]:
    """The segments of a shard.  Raises ConfigError: malformed, or an id twice."""
    seen = set()
    for segment in read_rows(path, Segment):
        if segment.id in seen:
            raise ConfigError(f"{path}: segment {segment.id} is in it twice")
        seen.add(segment.id)
        yield segment


def segment_audio(segment: Segment, base: Path) -> Samples:
    """f32 [n], 16 kHz mono, the clip alone of a clip; relative paths are relative to `base`.

    Raises:
        AudioError: there is no such audio, or it cannot be decoded; trying again is no use.
        StorageError: where it lies cannot be reached now; try again.
    """
    samples = _whole_audio(segment, base)
    end = len(samples) if segment.end_s is None else round(segment.end_s * SAMPLE_RATE)
    return samples[round(segment.start_s * SAMPLE_RATE) : end]


def _whole_audio(segment: Segment, base: Path) -> Samples:
    location = segment.audio.removeprefix("file://")
    if "://" not in location and segment.codec != "pcm16":
        return _decoded(base / location)
    data = _fetched(location) if "://" in location else _read(base / location)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio"
        if segment.codec == "pcm16":
            with wave.open(str(path), "wb") as sink:
                sink.setparams((1, 2, segment.sample_rate, 0, "NONE", ""))
                sink.writeframes(data)
        else:
            path.write_bytes(data)
        try:
            return _decoded(path)
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), segment.audio)) from error


def resolved(segment: Segment, base: Path) -> Segment:
    """The same with a path that does not depend on where the shard lies."""
    if "://" in segment.audio:
        return segment
    return dataclasses.replace(segment, audio=str((base / segment.audio).resolve()))


def _decoded(path: Path) -> Samples:
    with open_audio(path) as source:
        blocks = list(source.blocks(30.0))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _fetched(url: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(url, "rb") as source:
            data: bytes = source.read()
            return data
    except FileNotFoundError as error:
        raise AudioError(f"{url}: no such object") from error
    except (ImportError, ValueError) as error:  # an unknown protocol, or its package is missing
        raise ConfigError(f"{url}: cannot be opened: {error}") from error
    except Exception as error:  # each object store has errors of its own
        raise StorageError(f"{url}: the object store cannot be reached: {error}") from error
