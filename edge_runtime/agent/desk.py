"""Where what the ear hears goes: to telemetry, to the recorder, to whoever watches.

The recorder has a thread of its own, so that compressing an utterance and bringing it to the disk
delays no word. Its queue is bounded: a disk that hangs costs recordings, which are counted, not
memory. Sound that can wait, a file that is read as fast as possible, waits instead.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping

from edge_runtime.agent.clock import now_ms
from edge_runtime.agent.gauges import memory_bytes
from edge_runtime.agent.outbox import Stats
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.recorder import Heard, Outcome, Recorder
from edge_runtime.agent.telemetry import Meter, Window
from edge_runtime.contract.messages import Telemetry
from edge_runtime.contract.records import Model
from edge_runtime.events import Event
from edge_runtime.ota.health import Health

WAITING = 16  # utterances that may wait to be recorded


class Desk:
    """An `ear.Sink`."""

    def __init__(
        self,
        recorder: Recorder,
        meter: Meter,
        problems: Problems,
        *,
        show: Callable[[Event], None] | None,
        kept: Callable[[], None],  # something new lies in the outbox
        patient: bool = False,  # whether the sound can wait for the recorder
    ) -> None:
        self._recorder = recorder
        self._meter = meter
        self._problems = problems
        self._show = show
        self._kept = kept
        self._patient = patient
        self._lock = threading.Lock()  # of meter and the numbers below
        self._queue: queue.Queue[Heard | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._record, name="recorder", daemon=True)
        self._running: Model | None = None
        self._meant: Model | None = None  # that health is about
        self._utterances = self._crashes = 0
        self._mean = self._squares = 0.0  # of confidence: running mean, squared differences
        self._audio_s = self._busy_s = 0.0
        self.missed_s = 0.0
        self.skipped = 0  # utterances that found the queue full

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """When it returns, all that was heard is recorded."""
        self._queue.put(None)
        self._thread.join()

    def _record(self) -> None:
        while (heard := self._queue.get()) is not None:
            outcome = self._recorder.record(heard)
            self._note(heard, outcome)

    def _note(self, heard: Heard, outcome: Outcome) -> None:
        with self._lock:
            self._meter.decided(heard.model, outcome.decision, now_ms=now_ms())
        if outcome.put == "kept":
            self._kept()

    # As the ear's sink.

    def model(self, model: Model | None) -> None:
        with self._lock:
            self._running = model
            self._meter.model(model, now_ms=now_ms())
            if model is not None and model != self._meant:
                self._meant = model
                self._utterances = self._crashes = 0
                self._mean = self._squares = self._audio_s = self._busy_s = 0.0

    def audio(self, heard_s: float, busy_s: float) -> None:
        with self._lock:
            self._meter.audio(heard_s, busy_s)
            self._audio_s += heard_s
            self._busy_s += busy_s

    def event(self, event: Event, late_s: float) -> None:
        if event.type == "final" and event.text:
            with self._lock:
                self._meter.final(late_s)
        if self._show is not None:
            self._show(event)

    def first_word(self, late_s: float) -> None:
        with self._lock:
            self._meter.first_word(late_s)

    def utterance(self, heard: Heard) -> None:
        with self._lock:
            self._meter.utterance(heard.model, heard.final, now_ms=now_ms())
            self._utterances += 1
            difference = heard.final.confidence - self._mean
            self._mean += difference / self._utterances
            self._squares += difference * (heard.final.confidence - self._mean)
        try:
            self._queue.put(heard, block=self._patient)
        except queue.Full:
            self.skipped += 1
            self._problems.report("recording", "the disk cannot keep up: utterances are not kept")

    def crashed(self) -> None:
        with self._lock:
            self._meter.crash()
            self._crashes += 1

    def missed(self, seconds: float) -> None:
        self.missed_s += seconds

    # What others ask.

    @property
    def running(self) -> Model | None:
        """The model in use."""
        return self._running

    def health(self) -> Health:
        """Of the model in use, since it came in use."""
        with self._lock:
            spread = self._squares / (self._utterances - 1) if self._utterances > 1 else 0.0
            return Health(
                utterances=self._utterances,
                confidence=self._mean,
                confidence_sd=math.sqrt(max(0.0, spread)),
                audio_s=self._audio_s,
                busy_s=self._busy_s,
                crashes=self._crashes,
                memory_bytes=round(memory_bytes() or 0),
            )

    def flush(self, stats: Stats | None, gauges: Mapping[str, float]) -> list[Telemetry]:
        """Reports since the last flush."""
        with self._lock:
            return self._meter.flush(
                now_ms=now_ms(),
                queued=stats.queued if stats else 0,
                queued_bytes=stats.queued_bytes if stats else 0,
                dead=stats.dead if stats else 0,
                gauges=gauges,
            )

    def totals(self) -> Window:
        """Everything since the start."""
        with self._lock:
            return self._meter.totals()
