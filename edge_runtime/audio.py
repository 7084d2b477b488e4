"""Sound from files and pipes, as blocks of float32 mono at 16 kHz.

    with open_audio("a.flac") as source:            # or "-": standard input
        for block in source.blocks(0.32):           # f32 [5120] in [-1, 1]; the last may be shorter
            ...

* Files: whatever libsndfile reads.  Pipes: a WAV stream, recognised by its header, or raw PCM.
* Channels are averaged; other rates go through a streaming soxr resampler, whose output does not
  depend on the block size and which is flushed at the end.
* A source is read block by block, never as a whole, so length costs no memory.
* Sound without samples is no error: it yields no blocks.  NaN and infinite samples are one, because
  a recogniser would carry them in its state for ever.

Every failure is an AudioError that says which file, what was found there and what to do.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import AudioError

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000  # Hz, of every block
RATES = (1_000, 1_000_000)  # Hz; a header outside this is damaged, not exotic
MAX_CHANNELS = 1024  # libsndfile's own limit

# name -> little-endian dtype (24-bit has none), bytes per sample, offset, full scale
_FORMATS: dict[str, tuple[str, int, float, float]] = {
    "u8": ("u1", 1, 128.0, 128.0),
    "s16le": ("<i2", 2, 0.0, 2.0**15),
    "s24le": ("", 3, 0.0, 2.0**23),
    "s32le": ("<i4", 4, 0.0, 2.0**31),
    "f32le": ("<f4", 4, 0.0, 1.0),
    "f64le": ("<f8", 8, 0.0, 1.0),
}

# First bytes of files people have, whether or not libsndfile reads them.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"RIFF", "a WAV file"),
    (0, b"RF64", "an RF64 file"),
    (0, b"fLaC", "a FLAC file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"FORM", "an AIFF file"),
    (0, b"ID3", "an MP3 file"),
    (0, b"caff", "a CAF file"),
    (4, b"ftyp", "an MP4/M4A file"),
    (0, b"\x1aE\xdf\xa3", "a Matroska/WebM file"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFormat:
    """How samples without a header are laid out; channels interleaved."""

    encoding: str = "s16le"
    sample_rate: int = SAMPLE_RATE  # Hz
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding not in _FORMATS:
            raise ValueError(f"encoding must be one of {', '.join(_FORMATS)}, not {self.encoding}")
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise ValueError(f"sample_rate must be {RATES[0]} to {RATES[1]} Hz")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels must be 1 to {MAX_CHANNELS}")

    @property
    def frame_bytes(self) -> int:
        return _FORMATS[self.encoding][1] * self.channels

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """Whole interleaved frames -> f32 [n, channels] in [-1, 1]."""
        dtype, width, offset, scale = _FORMATS[self.encoding]
        samples: NDArray[Any]
        if dtype:
            samples = np.frombuffer(data, dtype)
        else:  # 24 bits: the high three bytes of 32, so that the sign comes for free
            wide = np.zeros((len(data) // width, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, width)
            samples = wide.view("<i4")[:, 0] >> 8
        values = (samples.astype(np.float32) - np.float32(offset)) / np.float32(scale)
        return cast(NDArray[np.float32], values.reshape(-1, self.channels))


@dataclass(slots=True, kw_only=True)
class AudioSource:
    """One open source; iterate it once.  Use as a context manager."""

    name: str
    sample_rate: int  # Hz, of the source itself
    channels: int
    duration_s: float | None  # None where it is not known in advance
    read: Callable[[int], NDArray[np.float32]]  # n -> f32 [<= n, channels]; fewer only at the end
    close: Callable[[], None]

    def __enter__(self) -> AudioSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def blocks(self, block_s: float = 0.1) -> Iterator[NDArray[np.float32]]:
        """Blocks of `block_s` seconds, f32 [n] at 16 kHz; only the last is shorter, none is empty.

        Raises AudioError where the source turns out damaged, or holds NaN or infinite samples.
        """
        size = max(1, round(block_s * SAMPLE_RATE))
        if self.sample_rate == SAMPLE_RATE:
            yield from self._mono(size)
        else:
            yield from _regroup(self._resampled(max(1, round(block_s * self.sample_rate))), size)

    def _mono(self, size: int) -> Iterator[NDArray[np.float32]]:
        done = 0  # frames
        while len(frames := self.read(size)):  # [n, channels]
            mono = frames[:, 0] if self.channels == 1 else frames.mean(axis=1, dtype=np.float32)
            if not np.isfinite(mono).all():
                at = (done + int(np.argmin(np.isfinite(mono)))) / self.sample_rate
                raise AudioError(
                    f"{self.name}: NaN or infinite samples from {at:.3f} s on; "
                    "repair or re-export the recording"
                )
            done += len(frames)
            yield mono
            if len(frames) < size:
                return

    def _resampled(self, size: int) -> Iterator[NDArray[np.float32]]:
        import soxr  # only where a source needs it: most are 16 kHz already

        resampler = soxr.ResampleStream(self.sample_rate, SAMPLE_RATE, 1, dtype="float32")
        for mono in self._mono(size):
            yield resampler.resample_chunk(mono)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def open_audio(path: str | Path, *, raw: RawFormat | None = None) -> AudioSource:
    """Opens a file, a pipe, or `-` for standard input.

    A pipe is a WAV stream if it starts like one, else raw samples as `raw` says (default: 16 kHz
    mono s16le).  With `raw` given, the header is not looked for.  Raises AudioError.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise AudioError("standard input is closed: pipe audio into it, or name a file")
        if sys.stdin.isatty():
            raise AudioError("standard input is a terminal: pipe audio into it, or name a file")
        return _open_pipe("standard input", sys.stdin.buffer, raw)
    name = str(path)
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        info = os.fstat(fd)
    except (OSError, ValueError) as error:
        raise AudioError(f"{name}: {_os_problem(error)}") from error
    if stat.S_ISDIR(info.st_mode):
        os.close(fd)
        raise AudioError(f"{name}: is a directory; name the audio files in it")
    if not stat.S_ISREG(info.st_mode):
        pipe = os.fdopen(fd, "rb")
        try:
            return _open_pipe(name, pipe, raw)
        except BaseException:
            pipe.close()
            raise
    try:
        if info.st_size == 0:
            raise AudioError(f"{name}: empty file (0 bytes); record or download it again")
        return _open_file(name, fd)
    except BaseException:
        os.close(fd)
        raise


def compress(samples: NDArray[np.float32], codec: Literal["opus", "flac"]) -> bytes:
    """f32 [n] in [-1, 1], 16 kHz mono -> a file: Opus in Ogg (24 kb/s), or FLAC (16 bits).

    libsndfile turns its compression level into a bit rate; 0.93 measured 24 kb/s on speech. Raises
    AudioError where it has no such codec.
    """
    import soundfile

    layout: dict[str, Any] = {"format": "FLAC", "subtype": "PCM_16"}
    if codec == "opus":
        layout = {"format": "OGG", "subtype": "OPUS", "compression_level": 0.93}
    file = io.BytesIO()
    try:
        with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, **layout) as sink:
            sink.write(np.clip(samples, -1, 1))
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise AudioError(
            f"libsndfile {soundfile.__libsndfile_version__} does not write {codec}: {error}"
        ) from error
    return file.getvalue()


def _open_file(name: str, fd: int) -> AudioSource:
    """A regular file through libsndfile.  The descriptor stays ours until the source is closed."""
    import soundfile

    try:
        # By descriptor: libsndfile then goes by content alone, and cannot misread the name.
        file: Any = soundfile.SoundFile(fd, closefd=False)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        found = describe(os.pread(fd, 64, 0))
        problem = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise AudioError(
            f"{name}: cannot be read as audio: looks like {found} ({problem}); "
            f"repair it or convert it, e.g. ffmpeg -i {name} -ar 16000 -ac 1 out.wav"
        ) from error
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise AudioError(f"{name}: corrupt header: sample rate {file.samplerate} Hz")
    done = 0  # frames

    def read(count: int) -> NDArray[np.float32]:
        nonlocal done
        try:
            frames = cast(NDArray[np.float32], file.read(count, dtype="float32", always_2d=True))
        except (soundfile.SoundFileError, RuntimeError) as error:
            problem = getattr(error, "error_string", str(error)).strip().rstrip(".")
            at = done / file.samplerate
            raise AudioError(
                f"{name}: damaged or cut off after {at:.1f} s ({problem}); fetch or export it again"
            ) from error
        done += len(frames)
        return frames

    def close() -> None:
        file.close()
        os.close(fd)

    return AudioSource(
        name=name,
        sample_rate=file.samplerate,
        channels=file.channels,
        duration_s=file.frames / file.samplerate,
        read=read,
        close=close,
    )


def _open_pipe(name: str, pipe: BinaryIO, raw: RawFormat | None) -> AudioSource:
    budget: int | None = None  # bytes of samples still to come; None: until the pipe closes
    head = b"" if raw else _read(name, pipe, 12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        raw, budget = _wav_header(name, pipe)
        head = b""
    elif head and describe(head) not in (_UNKNOWN, _TEXT):
        raise AudioError(
            f"{name}: is {describe(head)}, but a pipe must be WAV or raw samples; "
            "name the file instead, or decode it, e.g. ffmpeg -i FILE -f wav -"
        )
    layout = raw or RawFormat()

    def read(count: int) -> NDArray[np.float32]:
        nonlocal head, budget
        want = count * layout.frame_bytes
        if budget is not None:
            want = min(want, budget)
        data = head + _read(name, pipe, max(0, want - len(head)))
        data, head = data[:want], data[want:]
        if budget is not None:
            budget -= len(data)
        if spare := len(data) % layout.frame_bytes:
            log.warning("%s: ends within a sample; %d trailing bytes dropped", name, spare)
            data = data[:-spare]
        return layout.decode(data)

    return AudioSource(
        name=name,
        sample_rate=layout.sample_rate,
        channels=layout.channels,
        duration_s=None,
        read=read,
        close=pipe.close if pipe is not getattr(sys.stdin, "buffer", None) else lambda: None,
    )


def _wav_header(name: str, pipe: BinaryIO) -> tuple[RawFormat, int | None]:
    """Reads up to the first sample.  RIFF as in Microsoft's RIFFNEW and mmreg.h."""
    layout: RawFormat | None = None
    while len(chunk := _read(name, pipe, 8)) == 8:
        tag, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if tag == b"data":
            if layout is None:
                break
            # Programs that write into a pipe cannot know the size: they write 0 or a huge number.
            return layout, size if 0 < size < 0x7FFF_0000 else None
        body = _read(name, pipe, min(size + size % 2, 1 << 20))
        if tag == b"fmt " and len(body) >= 16:
            code, channels = (int.from_bytes(body[i : i + 2], "little") for i in (0, 2))
            rate = int.from_bytes(body[4:8], "little")
            bits = int.from_bytes(body[14:16], "little")
            if (
                code == 0xFFFE and len(body) >= 26
            ):  # WAVE_FORMAT_EXTENSIBLE: the code is in the GUID
                code = int.from_bytes(body[24:26], "little")
            kinds = {(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le"}
            kinds |= {(3, 32): "f32le", (3, 64): "f64le"}
            if (code, bits) not in kinds:
                raise AudioError(
                    f"{name}: WAV encoding {code} with {bits} bits cannot be read from a pipe; "
                    "convert it to 16-bit PCM"
                )
            try:
                layout = RawFormat(encoding=kinds[code, bits], sample_rate=rate, channels=channels)
            except ValueError as error:
                raise AudioError(f"{name}: corrupt WAV header: {error}") from error
    raise AudioError(f"{name}: corrupt WAV header: no samples found after it; write it again")


def _read(name: str, pipe: BinaryIO, count: int) -> bytes:
    """Exactly `count` bytes, or what there is before the end."""
    try:
        return pipe.read(count)
    except OSError as error:
        raise AudioError(f"{name}: {_os_problem(error)}") from error


def _regroup(chunks: Iterator[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same samples in blocks of `size`; a shorter last one, and none that is empty."""
    held = np.zeros(0, np.float32)
    for chunk in chunks:
        held = np.concatenate([held, chunk])
        whole = len(held) - len(held) % size
        for start in range(0, whole, size):
            yield held[start : start + size]
        held = held[whole:]
    if len(held):
        yield held


_UNKNOWN = "an unknown format"
_TEXT = "a text file"


def describe(head: bytes) -> str:
    """What a file is, by its first bytes, in words for an error message."""
    for offset, magic, found in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return found
    try:
        # A multi-byte character may be cut at the end of `head`; three bytes less are enough.
        text = head[:-3].decode()
    except UnicodeDecodeError:
        return _UNKNOWN
    return _TEXT if text and all(c.isprintable() or c.isspace() for c in text) else _UNKNOWN


def is_sound(path: str | Path) -> bool:
    """Is there a file of a sound format, by its first bytes?  False where it cannot be read."""
    try:
        if not Path(path).is_file():  # to open a FIFO would wait for its writer
            return False
        with Path(path).open("rb") as file:
            return describe(file.read(64)) not in (_UNKNOWN, _TEXT)
    except OSError:
        return False


def _os_problem(error: OSError | ValueError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return "no such file; check the path"
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied; check that you may read it"
    return f"cannot be opened ({error})"
