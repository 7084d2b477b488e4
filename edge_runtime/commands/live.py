"""Feeding sound to a recogniser so that Ctrl-C loses no words."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from edge_runtime.errors import AudioError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.events import Final, Partial
    from edge_runtime.recognizer import Recognizer


class Source(Protocol):
    """Where blocks of 16 kHz mono come from: AudioSource, Microphone."""

    def blocks(self, block_s: float = 0.1) -> Iterator[NDArray[np.float32]]: ...


class Interrupt:
    """Ctrl-C as a question asked between steps, because a step cut in half loses words.

    Only while the program waits for sound does it interrupt at once; asked a second time, always.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupt]:
        """Handles SIGINT and SIGTERM within the block."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._handle) for number in signals]
        try:
            yield self
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def waiting_for(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The blocks, until there are no more or the question is asked."""
        while not self.asked:
            try:
                self._waiting = True
                block = next(blocks, None)
            except KeyboardInterrupt:
                block = None
            finally:
                self._waiting = False
            if block is None:
                return
            yield block

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again or self._waiting:
            raise KeyboardInterrupt


def recognise(
    recognizer: Recognizer,
    source: Source,
    show: Callable[[Partial | Final], None],
    *,
    realtime: bool = False,
    on_time: Callable[[float], None] = lambda seconds: None,
) -> bool:
    """Feeds a source to a new stream and shows every event, the last words included.

    Args:
        realtime: a block is handed over when its last sample would have been spoken.
        on_time: called with the seconds of sound done so far.

    Returns whether Ctrl-C ended it.  Raises what the source and the stream raise; where it is the
    sound that is damaged, what was said before that is shown first.
    """
    stream = recognizer.stream()
    done_s = 0.0
    blocks = source.blocks(recognizer.chunk_ms / 1000)
    if realtime:
        blocks = _paced(blocks, recognizer.sample_rate)
    with Interrupt().installed() as interrupt:
        damage: AudioError | None = None
        try:
            for block in interrupt.waiting_for(blocks):
                for event in stream.push(block):
                    show(event)
                done_s += len(block) / recognizer.sample_rate
                on_time(done_s)
        except AudioError as error:
            damage = error
        for event in stream.finish():
            if damage is None or event.text:
                show(event)
        if damage is not None:
            raise damage
    return interrupt.asked


def _paced(
    blocks: Iterator[NDArray[np.float32]], sample_rate: int
) -> Iterator[NDArray[np.float32]]:
    begin, samples = time.monotonic(), 0
    for block in blocks:
        samples += len(block)
        time.sleep(max(0.0, begin + samples / sample_rate - time.monotonic()))
        yield block
