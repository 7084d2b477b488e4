"""Sound over HTTP: types, ETag, and one range of bytes (RFC 9110, 14)."""

from __future__ import annotations

import dataclasses
import re
import struct
from dataclasses import dataclass

from fastapi import HTTPException
from fastapi.responses import Response

TYPES = {"opus": "audio/ogg; codecs=opus", "flac": "audio/flac", "pcm16": "audio/wav"}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sound:
    """What is sent."""

    type: str
    etag: str
    sample_rate: int
    is_raw: bool
    data: bytes = b""

    @classmethod
    def of(cls, codec: str, sample_rate: int, digest: str) -> Sound:
        raw = codec == "pcm16"
        return cls(TYPES[codec], f'"{digest}{"-wav" if raw else ""}"', sample_rate, raw)

    def with_data(self, data: bytes) -> Sound:
        """Samples get the header without which nothing can play them."""
        if self.is_raw:
            data = _wav_header(len(data), self.sample_rate) + data
        return dataclasses.replace(self, data=data)

    def matches(self, given: str) -> bool:
        """Whether `If-None-Match` names it."""
        tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
        return "*" in tags or self.etag in tags

    def unchanged(self) -> Response:
        return Response(status_code=304, headers={"ETag": self.etag, "Cache-Control": _CACHE})

    def begins(self, response: Response) -> bool:
        """Whether these are the first bytes: who plays on is not noted again."""
        return response.headers.get("content-range", "bytes 0-").startswith("bytes 0-")


_CACHE = "private, no-cache"  # ask every time: it may be erased


def answer(sound: Sound, *, range: str | None, if_range: str | None) -> Response:
    """The whole, or the range that was asked for. Raises 416."""
    headers = {
        "ETag": sound.etag, "Accept-Ranges": "bytes", "Cache-Control": _CACHE,
        "Content-Disposition": "inline",
    }  # fmt: skip
    size = len(sound.data)
    asked = _RANGE.fullmatch(range.strip()) if range else None
    if asked is None or asked.groups() == ("", "") or (if_range and if_range != sound.etag):
        # Several ranges, other units and nonsense may be ignored, says the RFC.
        return Response(sound.data, media_type=sound.type, headers=headers)
    first, last = asked.groups()
    if first:
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
        if last and int(last) < int(first):
            return Response(sound.data, media_type=sound.type, headers=headers)
    else:
        start, end = max(0, size - int(last)), size - 1
    if start > end:
        raise HTTPException(
            416, f"the sound has {size} bytes; ask for a range within",
            {"Content-Range": f"bytes */{size}"},
        )  # fmt: skip
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    part = sound.data[start : end + 1]
    return Response(part, 206, headers, media_type=sound.type)


def _wav_header(size: int, rate: int) -> bytes:
    """Of 16-bit mono samples."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size)
    )
