"""`manifest.json`: what a model bundle contains and what it needs.

A bundle is a flat directory. The manifest lists every file with its size and SHA-256, so whoever
trusts the manifest can trust the files; nothing outside the list is ever opened. File names are
plain names (no separators, no `..`), so that no manifest can point outside its directory.

Parsing checks every field once and names the file and the field when it refuses one. Fields this
version does not know are kept in `extra` and written back, so that an older tool can pass a newer
manifest on unharmed; a newer `schema_version` is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from edge_runtime.errors import BundleError, BundleIncompatible

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENS_NAME = "tokens.txt"
GOLDENS_NAME = "goldens.npz"
MAX_MANIFEST_BYTES = 1 << 20  # a real one is about 4 KiB; parsing must not be a way to fill memory
FRONTENDS = ("knf_nemo", "nemo_exact")
FRAME_MS = 10  # feature frame shift of every frontend
# Fields of `edge_runtime.decoding.BeamConfig`.
DECODING = ("lm_weight", "word_bonus", "unknown_logprob", "letter_logprob", "blank_penalty")
MAX_CHUNK_FRAMES = 6000  # one minute: beyond it nothing streams, and buffers are sized from it

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
_FILE = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "export the bundle again"


def is_plain_name(name: str) -> bool:
    """Whether `name` may be a file of a bundle: no separators, no leading dot, ASCII."""
    return _FILE.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """What a file of the bundle must be."""

    sha256: str  # lower-case hex
    size: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One model bundle. Build it with keywords or `from_json`; both validate."""

    name: str
    version: str
    release_counter: int  # rises with every release; rollback protection compares it
    created: str  # ISO 8601 with offset
    frontend: str  # one of FRONTENDS
    sample_rate: int  # Hz
    chunk_frames: tuple[int, ...]  # feature frames per step that the graph may be run with
    default_chunk_ms: int  # ms of audio per step when the user chooses nothing
    precisions: Mapping[str, str]  # "float32" -> "encoder.onnx"
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    parent: str | None = None  # what this one was made from: its manifest's SHA-256, or version
    runtime: Mapping[str, str] = field(default_factory=dict)  # package -> version specifier
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    training_data: Mapping[str, Any] = field(default_factory=dict)
    confidence: str | None = None  # file name of the confidence map
    lm: str | None = None  # file name of the language model
    lexicon: str | None = None  # file name of the words there are, which the confidence map asks
    goldens: str | None = None  # file name of inputs and float answers, for a device's self-test
    decoding: Mapping[str, float] = field(default_factory=dict)  # tuned for it: DECODING's fields
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields of later versions, kept

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_json(cls, data: bytes, *, file: str = MANIFEST_NAME) -> Manifest:
        """Parses and checks. `file` is named in errors.

        Raises BundleError (malformed) or BundleIncompatible (a schema or frontend of the future).
        """
        fields = _load_object(data, file)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise BundleIncompatible(
                f"is {version!r}",
                file=file,
                field="schema_version",
                expected=str(SCHEMA_VERSION),
                remedy="install the vitconformer version that wrote this bundle",
            )
        for name in _REQUIRED:
            if name not in fields:
                raise BundleError("is missing", file=file, field=name, remedy=_REMEDY)
        names = (*_REQUIRED, *_OPTIONAL)
        known = {name: fields.pop(name) for name in names if name in fields}
        if isinstance(known["chunk_frames"], list):
            known["chunk_frames"] = tuple(known["chunk_frames"])
        known["files"] = {
            name: _parse_entry(name, entry, file)
            for name, entry in _mapping(known["files"], "files", file).items()
        }
        try:
            return cls(**known, extra=fields)
        except BundleError as error:  # the same complaint, under the caller's name for the file
            raise type(error)(
                error.problem,
                file=file,
                field=error.field,
                expected=error.expected,
                remedy=error.remedy,
            ) from None

    def to_json(self) -> str:
        """The content of `manifest.json`, the same text for the same manifest."""
        fields: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        for name in (*_REQUIRED, *_OPTIONAL):
            fields[name] = getattr(self, name)
        fields["chunk_frames"] = list(self.chunk_frames)
        fields["files"] = {
            name: {"sha256": entry.sha256, "size": entry.size}
            for name, entry in sorted(self.files.items())
        }
        return json.dumps({**fields, **self.extra}, indent=2, ensure_ascii=False) + "\n"

    def with_files(self, files: Mapping[str, FileEntry]) -> Manifest:
        """The same manifest for these files."""
        return replace(self, files=dict(files))

    @property
    def chunks_ms(self) -> tuple[int, ...]:
        """Every chunk size in milliseconds of audio."""
        return tuple(frames * FRAME_MS for frames in self.chunk_frames)


# In the order in which they are written.
_REQUIRED = (
    "name",
    "version",
    "release_counter",
    "created",
    "frontend",
    "sample_rate",
    "chunk_frames",
    "default_chunk_ms",
    "precisions",
    "files",
)
_OPTIONAL = (
    "parent",
    "runtime",
    "metrics",
    "licence",
    "training_data",
    "confidence",
    "lm",
    "lexicon",
    "goldens",
    "decoding",
)


def _load_object(data: bytes, file: str) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"is larger than {MAX_MANIFEST_BYTES} bytes", file=file, remedy=_REMEDY)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BundleError("appears twice", file=file, field=twice[:80], remedy=_REMEDY)
        return fields

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        fields = json.loads(data, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # includes UnicodeDecodeError, JSONDecodeError
        raise BundleError(f"is not JSON: {error}", file=file, remedy=_REMEDY) from error
    if not isinstance(fields, dict):
        raise BundleError("is not an object", file=file, expected="a JSON object", remedy=_REMEDY)
    return fields


def _mapping(value: Any, name: str, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(
            f"is {type(value).__name__}",
            file=file,
            field=name,
            expected="an object",
            remedy=_REMEDY,
        )
    return value


def _parse_entry(name: str, entry: Any, file: str) -> FileEntry:
    field_name = f"files[{name[:80]!r}]"
    fields = _mapping(entry, field_name, file)
    digest, size = fields.get("sha256"), fields.get("size")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise BundleError(
            "is malformed",
            file=file,
            field=f"{field_name}.sha256",
            expected="64 lower-case hex digits",
            remedy=_REMEDY,
        )
    if not isinstance(size, int) or not _is_count(size, 0, 1 << 40):
        raise BundleError(
            f"is {size!r}",
            file=file,
            field=f"{field_name}.size",
            expected="a number of bytes",
            remedy=_REMEDY,
        )
    return FileEntry(sha256=digest, size=size)


def _is_count(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _check(m: Manifest) -> None:
    """Every field of `m`, or BundleError naming the field."""

    def need(ok: bool, name: str, expected: str, error: type[BundleError] = BundleError) -> None:
        if not ok:
            value = repr(getattr(m, name.partition("[")[0]))
            short = value if len(value) <= 60 else value[:57] + "..."
            raise error(
                f"is {short}", file=MANIFEST_NAME, field=name, expected=expected, remedy=_REMEDY
            )

    def matches(value: Any, pattern: re.Pattern[str]) -> bool:
        return isinstance(value, str) and pattern.fullmatch(value) is not None

    need(matches(m.name, _NAME), "name", "lower-case letters, digits, '.', '_', '-'")
    need(matches(m.version, _VERSION), "version", "letters, digits, '.', '+', '_', '-'")
    need(_is_count(m.release_counter, 0, 1 << 53), "release_counter", "a whole number >= 0")
    need(_is_timestamp(m.created), "created", "an ISO 8601 time with offset")
    need(isinstance(m.frontend, str), "frontend", " or ".join(FRONTENDS))
    need(m.frontend in FRONTENDS, "frontend", " or ".join(FRONTENDS), BundleIncompatible)
    need(_is_count(m.sample_rate, 1, 1 << 20), "sample_rate", "Hz")
    chunks = m.chunk_frames
    need(
        isinstance(chunks, tuple)
        and 0 < len(chunks) <= 64
        and all(_is_count(frames, 1, MAX_CHUNK_FRAMES) for frames in chunks)
        and list(chunks) == sorted(set(chunks)),
        "chunk_frames",
        f"ascending feature frame counts, 1 to {MAX_CHUNK_FRAMES}",
    )
    need(
        _is_count(m.default_chunk_ms, 1, 1 << 30) and m.default_chunk_ms in m.chunks_ms,
        "default_chunk_ms",
        f"one of {', '.join(map(str, m.chunks_ms))}",
    )
    need(m.parent is None or matches(m.parent, _VERSION), "parent", "a SHA-256, a version or null")
    need(isinstance(m.licence, str), "licence", "text")
    need(isinstance(m.metrics, Mapping), "metrics", "an object")
    need(isinstance(m.training_data, Mapping), "training_data", "an object")
    for name in ("runtime", "precisions"):
        table = getattr(m, name)
        need(
            isinstance(table, Mapping)
            and all(isinstance(k, str) and isinstance(v, str) for k, v in table.items()),
            name,
            "an object of texts",
        )
    need(
        isinstance(m.decoding, Mapping)
        and all(k in DECODING and _is_finite(v) for k, v in m.decoding.items()),
        "decoding",
        f"an object of finite numbers, named {' or '.join(DECODING)}",
    )
    for name in ("confidence", "lm", "lexicon", "goldens"):
        file = getattr(m, name)
        need(file is None or matches(file, _FILE), name, "a plain file name or null")
    need(isinstance(m.files, Mapping), "files", "an object")
    need(bool(m.precisions), "precisions", "at least one model file")
    for name in m.files:
        if not matches(name, _FILE) or name == MANIFEST_NAME:
            raise BundleError(
                f"holds {str(name)[:80]!r}",
                file=MANIFEST_NAME,
                field="files",
                expected="plain file names without separators",
                remedy=_REMEDY,
            )
    if m.files:  # empty only while the bundle is being put together
        named = (m.confidence, m.lm, m.lexicon, m.goldens, *m.precisions.values())
        for needed in (TOKENS_NAME, *named):
            if needed is not None and needed not in m.files:
                raise BundleError(
                    f"lacks {str(needed)[:80]!r}", file=MANIFEST_NAME, field="files", remedy=_REMEDY
                )


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e6


def _is_timestamp(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:  # Python 3.10 does not know the Z
        return datetime.fromisoformat(re.sub("Z$", "+00:00", value)).tzinfo is not None
    except ValueError:
        return False
