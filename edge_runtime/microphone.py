"""Live sound from a microphone, as blocks of float32 mono at 16 kHz.

    with open_microphone(device="USB") as microphone:
        for block in microphone.blocks():            # until the caller stops iterating
            ...

PortAudio (through PyAudio, extra `mic`) calls back on its own thread; the callback only puts bytes
into a bounded queue.  A consumer that falls behind therefore loses sound, never memory: what did
not fit is dropped, counted in `lost_s` and logged.  The device is asked for 16 kHz mono; one that
refuses is opened at its own rate and channels, averaged and resampled.

Trying it without a microphone: ALSA's `file` plugin over its `null` plugin makes any raw file the
default capture device (see the tests).  `null` has no clock, so PortAudio reads such a file some
thousand times faster than real time, and after its end repeats the last period for ever; a FIFO as
the `infile` is read as fast as it is written, which makes a paced microphone.  (Write BLOCK_S at
once: the plugin fills up a short read with silence.)
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.audio import SAMPLE_RATE, AudioSource, RawFormat
from edge_runtime.errors import AudioError, ConfigError

log = logging.getLogger(__name__)

BLOCK_S = 0.04  # s per callback: half of the smallest chunk, so capture adds little latency
QUEUE_S = 10.0  # s of sound that may wait: longer than any pause of the consumer worth surviving
SILENT_DEVICE_S = 5.0  # s without a callback before the device counts as gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One capture device, as PortAudio sees it."""

    index: int
    name: str
    channels: int
    sample_rate: int  # Hz, the one it likes best
    is_default: bool


@dataclass(slots=True)
class Microphone:
    """An open capture device; iterate `blocks` once."""

    device: Device
    source: AudioSource
    lost_s: float = 0.0  # s of sound dropped because the consumer was too slow

    def blocks(self, block_s: float = 0.1) -> Iterator[NDArray[np.float32]]:
        """Blocks of `block_s` seconds, f32 [n] at 16 kHz, without end.

        Raises AudioError when the device goes away.
        """
        return self.source.blocks(block_s)


def list_devices() -> list[Device]:
    """Every device that can record.  Raises ConfigError where PyAudio is not installed."""
    with _portaudio() as audio:
        return _devices(audio)


@contextlib.contextmanager
def open_microphone(
    device: int | str | None = None, *, queue_s: float = QUEUE_S
) -> Iterator[Microphone]:
    """Starts recording from a device: its index, a part of its name, or None for the default.

    Raises AudioError (no such device, or it cannot be opened), ConfigError (PyAudio missing).
    """
    with _portaudio() as audio:
        chosen = _choose(_devices(audio), device)
        with _record(audio, chosen, queue_s) as microphone:
            yield microphone


@contextlib.contextmanager
def _record(audio: Any, device: Device, queue_s: float) -> Iterator[Microphone]:
    waiting: queue.Queue[bytes] = queue.Queue(max(1, round(queue_s / BLOCK_S)))
    dropped = overflows = 0  # callbacks that did not fit; times the device itself lost sound

    def on_block(data: bytes, frames: int, times: Any, status: int) -> tuple[None, int]:
        nonlocal dropped, overflows
        overflows += bool(status & 2)  # paInputOverflow
        try:
            waiting.put_nowait(data)
        except queue.Full:
            dropped += 1
        return None, 0  # paContinue

    stream, layout = _open_stream(audio, device, on_block)
    held = bytearray()
    reported = (0, 0)
    next_report = time.monotonic()

    def report() -> None:
        nonlocal reported, next_report
        if (dropped, overflows) != reported and time.monotonic() >= next_report:
            reported = (dropped, overflows)
            microphone.lost_s = dropped * BLOCK_S
            next_report = time.monotonic() + 5.0
            log.warning(
                "%s: %.1f s of sound lost so far because recognition cannot keep up, "
                "%d overflows in the device",
                device.name,
                microphone.lost_s,
                overflows,
            )

    def read(count: int) -> NDArray[np.float32]:
        last = time.monotonic()
        want = count * layout.frame_bytes
        while len(held) < want:
            try:
                held.extend(waiting.get(timeout=0.5))
                last = time.monotonic()
            except queue.Empty:
                if not stream.is_active() or time.monotonic() - last > SILENT_DEVICE_S:
                    raise AudioError(
                        f"microphone {device.name}: stopped delivering sound; "
                        "check that it is still plugged in"
                    ) from None
        report()
        block = bytes(held[:want])
        del held[:want]
        return layout.decode(block)

    source = AudioSource(
        name=device.name,
        sample_rate=layout.sample_rate,
        channels=layout.channels,
        duration_s=None,
        read=read,
        close=lambda: None,
    )
    microphone = Microphone(device, source)
    try:
        yield microphone
    finally:
        microphone.lost_s = dropped * BLOCK_S
        with contextlib.suppress(OSError):  # a device that went away cannot be stopped
            stream.stop_stream()
            stream.close()


def _open_stream(
    audio: Any, device: Device, on_block: Callable[..., tuple[None, int]]
) -> tuple[Any, RawFormat]:
    """16 kHz mono if the device can, else the nearest to it that it can do."""
    rates = dict.fromkeys((SAMPLE_RATE, device.sample_rate, 48_000))
    widths = dict.fromkeys((1, min(2, device.channels), device.channels))
    problem: Exception | None = None
    for rate in rates:
        for channels in widths:
            try:
                with _quiet():
                    stream = audio.open(
                        format=8,  # paInt16: every device has it, and 16 bits are enough for speech
                        channels=channels,
                        rate=rate,
                        input=True,
                        input_device_index=device.index,
                        frames_per_buffer=round(BLOCK_S * rate),
                        stream_callback=on_block,
                    )
            except (OSError, ValueError) as error:
                problem = error
            else:
                return stream, RawFormat(sample_rate=rate, channels=channels)
    raise AudioError(
        f"microphone {device.name}: cannot be opened ({_words(problem)}); "
        "is another program using it?"
    ) from problem


def _choose(devices: list[Device], wanted: int | str | None) -> Device:
    if not devices:
        raise AudioError("no microphone found; connect one, or transcribe a file instead")
    listing = "; ".join(f"{d.index}: {d.name}" for d in devices)
    if wanted is None:
        return next((d for d in devices if d.is_default), devices[0])
    if isinstance(wanted, int) or wanted.isdecimal():
        found = [d for d in devices if d.index == int(wanted)]
    else:
        found = [d for d in devices if wanted.casefold() in d.name.casefold()]
    if not found:
        raise AudioError(f"no microphone {wanted!r}; there are {listing}")
    exact = [d for d in found if d.name == wanted]
    if len(found) > 1 and not exact:
        names = "; ".join(f"{d.index}: {d.name}" for d in found)
        raise AudioError(f"microphone {wanted!r} could be several: {names}")
    return (exact or found)[0]


def _devices(audio: Any) -> list[Device]:
    try:
        default = int(audio.get_default_input_device_info()["index"])
    except OSError:  # there is none
        default = -1
    found = []
    for index in range(audio.get_device_count()):
        info = audio.get_device_info_by_index(index)
        if int(info["maxInputChannels"]) > 0:
            found.append(
                Device(
                    index=index,
                    name=str(info["name"]),
                    channels=int(info["maxInputChannels"]),
                    sample_rate=int(info["defaultSampleRate"]),
                    is_default=index == default,
                )
            )
    return found


@contextlib.contextmanager
def _portaudio() -> Iterator[Any]:
    try:
        import pyaudio
    except ImportError as error:  # the package, or the libportaudio it links to
        raise ConfigError(
            f"the microphone needs PyAudio ({error}): pip install 'vitconformer[mic]'"
        ) from error
    with _quiet():
        if _alsa_is_empty():  # PortAudio 19.6 would abort the process
            raise AudioError("no microphone found: ALSA's configuration names no device at all")
        try:
            audio = pyaudio.PyAudio()
        except OSError as error:
            raise AudioError(f"no sound system: PortAudio: {_words(error)}") from error
    try:
        yield audio
    finally:
        with _quiet():
            audio.terminate()


def _alsa_is_empty() -> bool:
    """Is ALSA there, but its configuration without any `pcm`?  Its own always has `default`."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        alsa = ctypes.CDLL("libasound.so.2")
        alsa.snd_config_update()
        root = ctypes.c_void_p.in_dll(alsa, "snd_config")
    except (OSError, ValueError):  # not there, or not the library that we know
        return False
    if not root.value:
        return True
    found = ctypes.c_void_p()
    return int(alsa.snd_config_search(root, b"pcm", ctypes.byref(found))) < 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Moves what ALSA and JACK write to file descriptor 2 while probing into the debug log."""
    if sys.stderr is None:  # started without one; descriptor 2 may be anything
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as noise:
        saved = os.dup(2)
        os.dup2(noise.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            noise.seek(0)
            if text := noise.read(10_000).decode(errors="replace").strip():
                log.debug("sound system: %s", text)


def _words(error: Exception | None) -> str:
    """PyAudio's errors are OSErrors with the number first, or the text first, as it happens."""
    texts = [str(part) for part in error.args if isinstance(part, str)] if error else []
    return texts[0] if texts else str(error)
