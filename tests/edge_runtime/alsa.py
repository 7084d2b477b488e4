"""Microphones made of files: configurations for ALSA's `file` plugin.

`null` takes and gives samples without a clock, so a plain file arrives at once and repeats its last
period after the end. A FIFO arrives as fast as somebody writes it; what is written at once must be
whole callbacks of PortAudio, because the plugin fills up a short read with silence.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.microphone import BLOCK_S

RATE = 16_000
CALLBACK = round(BLOCK_S * RATE)  # samples


def write_config(path: Path, microphones: Mapping[str, Path]) -> Path:
    """An asound.conf with these capture devices and no other; each reads raw s16le."""
    lines = ["pcm.null { type null }"]
    for name, infile in microphones.items():
        lines.append(
            f"pcm.!{name} {{ type file slave.pcm null file /dev/null "
            f'infile "{infile}" format raw hint {{ show on description "{name}" }} }}'
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@contextlib.contextmanager
def paced_fifo(path: Path, samples: NDArray[np.int16], *, speed: float = 1.0) -> Iterator[Path]:
    """A FIFO into which the samples go at `speed` times real time, then silence for ever."""
    os.mkfifo(path)
    # Opened for reading too, so that opening does not wait for the other end.
    descriptor = os.open(path, os.O_RDWR)
    stop = threading.Event()

    def write() -> None:
        begin, sent = time.monotonic(), 0
        while not stop.is_set():
            block = samples[sent : sent + CALLBACK]
            block = np.concatenate([block, np.zeros(CALLBACK - len(block), np.int16)])
            os.write(descriptor, block.astype("<i2").tobytes())
            sent += CALLBACK
            time.sleep(max(0.0, begin + sent / RATE / speed - time.monotonic()))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield path
    finally:
        stop.set()
        writer.join()
        os.close(descriptor)
