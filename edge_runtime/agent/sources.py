"""Where the agent's sound comes from: a microphone for ever, or files in its place.

Both give streams, one after the other; a stream is a name and its blocks, f32 [n] at 16 kHz. Files
are streams of their own; a microphone is one until it fails, and then the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.agent.config import AudioSettings
from edge_runtime.agent.problems import Problems
from edge_runtime.audio import SAMPLE_RATE, is_sound, open_audio
from edge_runtime.errors import AudioError, ConfigError

Blocks = Iterator[NDArray[np.float32]]

RETRY_S = 5.0  # until a microphone that failed is tried again


class Source(Protocol):
    def streams(self, block_s: float) -> Iterator[tuple[str, Blocks]]:
        """Name and blocks of each; whoever asks has finished the one before."""


def open_source(settings: AudioSettings, problems: Problems, stop: threading.Event) -> Source:
    """The source that the settings name. Raises ConfigError for files that are not there."""
    if settings.files:
        return Files(settings, problems, stop)
    return Microphones(settings.microphone or None, problems, stop)


class Microphones:
    """One microphone, opened again whenever it went away."""

    def __init__(self, device: str | None, problems: Problems, stop: threading.Event) -> None:
        self._device = device
        self._problems = problems
        self._stop = stop

    def streams(self, block_s: float) -> Iterator[tuple[str, Blocks]]:
        from edge_runtime.microphone import open_microphone

        while not self._stop.is_set():
            try:
                with open_microphone(self._device) as microphone:
                    self._problems.clear("microphone")
                    yield microphone.device.name, self._guarded(microphone.blocks(block_s))
            except AudioError as error:
                self._problems.report("microphone", error)
                self._stop.wait(RETRY_S)

    def _guarded(self, blocks: Blocks) -> Blocks:
        """Ends where the microphone does, so that what was said before is still finished."""
        try:
            for block in blocks:
                if self._stop.is_set():
                    return
                yield block
        except AudioError as error:
            self._problems.report("microphone", error)
            self._stop.wait(RETRY_S)


class Files:
    """A virtual microphone: files and the files of folders, by name."""

    def __init__(self, settings: AudioSettings, problems: Problems, stop: threading.Event) -> None:
        self._files = [file for path in settings.files for file in _files(path)]
        self._speed = settings.speed
        self._repeat = settings.repeat
        self._problems = problems
        self._stop = stop
        self._begin = 0.0  # monotonic, of the first sample
        self._played = 0  # samples

    def streams(self, block_s: float) -> Iterator[tuple[str, Blocks]]:
        self._begin = time.monotonic()
        while not self._stop.is_set():
            for path in self._files:
                if self._stop.is_set():
                    return
                yield path.name, self._blocks(path, block_s)
            if not self._repeat:
                return

    def _blocks(self, path: Path, block_s: float) -> Blocks:
        try:
            with open_audio(path) as source:
                for block in source.blocks(block_s):
                    self._played += len(block)
                    if self._speed:
                        due = self._begin + self._played / (SAMPLE_RATE * self._speed)
                        self._stop.wait(max(0.0, due - time.monotonic()))
                    if self._stop.is_set():
                        return
                    yield block
        except AudioError as error:
            self._problems.report("audio", error)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if is_sound(file))
        if not found:
            raise ConfigError(f"audio: files: {path}: holds no audio files")
        return found
    if not path.exists():
        raise ConfigError(f"audio: files: {path}: no such file")
    return [path]
