"""Ctrl-C at every moment of a stream."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.commands.live import recognise
from edge_runtime.events import Final, Partial

Event = Partial | Final


class Counting:
    """A recogniser and its stream in one: counts blocks, and says so."""

    sample_rate = 16_000
    chunk_ms = 100

    def __init__(self, on_push: Callable[[int], None] = lambda count: None) -> None:
        self.blocks = 0
        self._on_push = on_push

    def stream(self) -> Any:
        return self

    def push(self, block: NDArray[np.float32]) -> list[Event]:
        self._on_push(self.blocks)
        self.blocks += 1
        return [Partial(str(self.blocks), 0.0, 0.0, 1.0, ())]

    def finish(self) -> list[Event]:
        return [Final(str(self.blocks), 0.0, 0.0, 1.0, ())]


class Sound:
    def __init__(self, count: int, on_wait: Callable[[int], None] = lambda number: None) -> None:
        self._count = count
        self._on_wait = on_wait

    def blocks(self, block_s: float = 0.1) -> Iterator[NDArray[np.float32]]:
        for number in range(self._count):
            self._on_wait(number)
            yield np.zeros(round(block_s * 16_000), np.float32)


def interrupt_at(moment: int, times: int = 1) -> Callable[[int], None]:
    def check(number: int) -> None:
        if number == moment:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return check


def run(recognizer: Counting, sound: Sound, **options: Any) -> tuple[bool, list[str]]:
    shown: list[str] = []
    interrupted = recognise(
        recognizer,  # type: ignore[arg-type]
        sound,
        lambda event: shown.append(f"{event.type} {event.text}"),
        **options,
    )
    return interrupted, shown


def test_undisturbed_every_block_is_shown_and_then_the_final() -> None:
    assert run(Counting(), Sound(2)) == (False, ["partial 1", "partial 2", "final 2"])
    assert run(Counting(), Sound(0)) == (False, ["final 0"])


def test_interrupted_within_a_step_the_step_is_completed_and_the_final_shown() -> None:
    recognizer = Counting(on_push=interrupt_at(1))
    assert run(recognizer, Sound(9)) == (True, ["partial 1", "partial 2", "final 2"])


def test_interrupted_while_waiting_for_sound_it_waits_no_longer() -> None:
    sound = Sound(9, on_wait=interrupt_at(2))
    assert run(Counting(), sound) == (True, ["partial 1", "partial 2", "final 2"])


def test_interrupted_twice_it_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counting(on_push=interrupt_at(1, times=2)), Sound(9))


def test_a_polite_termination_is_an_interruption_too() -> None:
    sound = Sound(9, on_wait=lambda number: number == 1 and signal.raise_signal(signal.SIGTERM))
    assert run(Counting(), sound) == (True, ["partial 1", "final 1"])


def test_the_handlers_of_the_process_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(on_push=interrupt_at(0, times=2)), Sound(1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_at_real_time_a_block_is_handed_over_when_it_has_been_spoken() -> None:
    begin = time.monotonic()
    heard: list[float] = []
    run(Counting(), Sound(4), realtime=True, on_time=heard.append)
    assert time.monotonic() - begin >= 0.4
    assert heard == pytest.approx([0.1, 0.2, 0.3, 0.4])
