"""Sound to words, whatever happens to the recogniser on the way.

    ear = Ear(models, sink, problems)
    for block in blocks:
        ear.push(block)                   # the sink hears of words, utterances, crashes
    ear.end()                             # of this stream; the next push begins another one

Every block goes to exactly one stream of one recogniser:

* Another model is put in use between two blocks, where nobody is speaking: no word is open and the
  last moments were as quiet as it gets. The stream before is finished by the old model, the next
  block is the first of the new one. Speech without a pause is cut after `SWAP_S`, first at the end
  of an utterance, in the end anywhere.
* A recogniser that fails is counted and begun anew; only the block it failed on is gone. One that
  fails again and again is opened again, and where none can be opened, sound is let pass and counted
  until one can.
"""

from __future__ import annotations

import hashlib
import time
from typing import Protocol

from edge_runtime.agent.clock import clock_is_set, now_ms
from edge_runtime.agent.models import Models
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.recorder import Heard
from edge_runtime.agent.ring import AudioRing, Samples
from edge_runtime.audio import SAMPLE_RATE
from edge_runtime.contract.bundle import MANIFEST_NAME
from edge_runtime.contract.records import Model
from edge_runtime.endpoint import EndpointConfig
from edge_runtime.errors import AudioError, BundleError, BundleIncompatible, EdgeError
from edge_runtime.events import Event, Final, Partial
from edge_runtime.precision import AUTO, choose, this_processor
from edge_runtime.recognizer import TAIL_S, Recognizer, Stream

RING_S = 60.0  # of sound to cut utterances from: two of the longest
FLOOR_S = 5.0  # over which the quietest moment is what counts as quiet
SWAP_S = 60.0  # of sound after which another model is put in use at the end of any utterance
QUIET = 2.0  # times the quietest moment
SILENCE = 1e-4  # root mean square that is quiet in any case
FAILURES = 3  # in FAILURES_S, after which a recogniser is opened again
FAILURES_S = 30.0
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0  # until the models are asked again


class Sink(Protocol):
    """Who listens to the ear; called on its thread."""

    def model(self, model: Model | None) -> None:
        """This one is in use from now on; None while there is none."""

    def audio(self, heard_s: float, busy_s: float) -> None:
        """So much sound was recognised, in so much time."""

    def event(self, event: Event, late_s: float) -> None:
        """A partial or final, so long after the end of its last word was heard."""

    def first_word(self, late_s: float) -> None:
        """The first word of an utterance was shown so long after it began."""

    def utterance(self, heard: Heard) -> None:
        """One is over."""

    def crashed(self) -> None:
        """The recogniser failed."""

    def missed(self, seconds: float) -> None:
        """Sound that no recogniser heard."""


class Ear:
    """See the module. One thread."""

    def __init__(
        self,
        models: Models,
        sink: Sink,
        problems: Problems,
        *,
        precision: str,
        margin_s: float,
        deletion_above: float,
    ) -> None:
        self._models = models
        self._sink = sink
        self._problems = problems
        self._precision = precision
        self._margin_s = margin_s
        self._deletion_above = deletion_above
        self._recognizer: Recognizer | None = None
        self._model: Model | None = None
        self._next: Recognizer | None = None
        self._waited_s = 0.0  # of sound since there is a next one
        self._retry_s = FIRST_RETRY_S
        self._retry_at = 0.0
        self._failures: list[float] = []
        self._stream: Stream | None = None
        self._forget()

    def _forget(self) -> None:
        """What one stream knows."""
        self._ring = AudioRing(RING_S, SAMPLE_RATE)
        self._open = False  # whether a word of the current utterance is known
        self._silent_s = 0.0  # when the last utterance ended

    @property
    def block_s(self) -> float:
        """How much sound a block should have."""
        return self._recognizer.chunk_ms / 1000 if self._recognizer else 0.16

    def start(self) -> None:
        """Opens the model now, rather than with the first sound."""
        self._started()

    def push(self, block: Samples) -> None:
        """f32 [n] at 16 kHz."""
        seconds = len(block) / SAMPLE_RATE
        stream = self._started()
        if stream is None:
            self._sink.missed(seconds)
            return
        begin = time.perf_counter()
        try:
            events = stream.push(block)
        except AudioError as error:
            self._problems.report("audio", error)
            self._sink.missed(seconds)
            return
        except Exception as error:
            self._crashed(error)
            self._sink.missed(seconds)
            return
        busy_s = time.perf_counter() - begin
        self._ring.push(block)
        self._sink.audio(seconds, busy_s)
        self._tell(events, busy_s)
        self._change(seconds)

    def end(self) -> None:
        """The sound is over, for now."""
        self._finish()
        if self._next is not None:
            self._use(self._next)

    def _finish(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and self._ring.end_s:
            begin = time.perf_counter()
            try:
                events = stream.finish()
            except Exception as error:
                self._crashed(error)
            else:
                busy_s = time.perf_counter() - begin
                self._sink.audio(0.0, busy_s)
                self._tell(events, busy_s)
        self._forget()

    # The recogniser: begun, changed, begun again.

    def _started(self) -> Stream | None:
        if self._stream is not None:
            return self._stream
        if self._recognizer is None and not self._opened():
            return None
        assert self._recognizer is not None
        try:
            self._stream = self._recognizer.stream()
        except Exception as error:
            self._crashed(error)
        return self._stream

    def _opened(self) -> bool:
        now = time.monotonic()
        if now < self._retry_at:
            return False
        try:
            self._use(self._models.start())
        except Exception as error:  # a bundle can be broken in ways that nobody foresaw
            self._problems.report("recogniser", error)
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
            return False
        self._retry_s = FIRST_RETRY_S
        self._problems.clear("recogniser")
        return True

    def _use(self, recognizer: Recognizer) -> None:
        self._next, self._waited_s = None, 0.0
        if recognizer.sample_rate != SAMPLE_RATE:
            raise BundleIncompatible(f"wants {recognizer.sample_rate} Hz", expected="16000 Hz")
        self._model = model_of(recognizer, self._precision)
        self._recognizer = recognizer
        self._sink.model(self._model)

    def _crashed(self, error: Exception) -> None:
        words = str(error) if isinstance(error, EdgeError) else repr(error)
        self._problems.report("recogniser", f"failed and was begun anew: {words}")
        self._sink.crashed()
        self._stream = None
        self._forget()
        now = time.monotonic()
        self._failures = [at for at in self._failures if now - at < FAILURES_S] + [now]
        if len(self._failures) >= FAILURES:
            self._failures.clear()
            self._recognizer = None
            self._retry_at = now + FIRST_RETRY_S
            self._sink.model(None)

    def _change(self, seconds: float) -> None:
        """Puts another model in use if there is one and this is a moment for it."""
        if self._next is None:
            self._next = self._models.changed()
            if self._next is None:
                return
        self._waited_s += seconds
        if self._between_words() or self._waited_s >= 2 * SWAP_S:
            following = self._next
            self._finish()
            self._use(following)

    def _between_words(self) -> bool:
        if self._open:
            return False
        if self._waited_s >= SWAP_S:
            return True
        # The engine hears words late, so the last moments must be quiet too, compared with the
        # pause that ended an utterance, or with a long time without words.
        if not self._silent_s and self._ring.end_s < EndpointConfig().silence_s:
            return False
        levels = self._ring.levels(TAIL_S, FLOOR_S)
        return levels[-1] <= max(SILENCE, QUIET * min(levels))

    # What was said.

    def _tell(self, events: list[Event], busy_s: float) -> None:
        for event, following in zip(events, [*events[1:], None], strict=False):
            late_s = max(0.0, self._ring.end_s - event.end) + busy_s
            self._sink.event(event, late_s)
            if isinstance(event, Partial):
                if event.words and not self._open:
                    self._sink.first_word(max(0.0, self._ring.end_s - event.start) + busy_s)
                self._open = self._open or bool(event.words)
            else:
                self._over(event, following)
                self._open = False

    def _over(self, final: Final, following: Event | None) -> None:
        suspicious = final.deletion_score > self._deletion_above
        start = max(self._silent_s, final.start - self._margin_s)
        end = final.end + self._margin_s
        if suspicious:  # what is missing is somewhere since the last utterance
            start = max(self._silent_s, end - RING_S / 2)
        if following is not None:
            end = max(final.end, min(end, following.start))
        before, self._silent_s = self._silent_s, final.end
        if self._model is None or not (final.text or suspicious) or end <= before:
            return
        audio, start_s = self._ring.cut(start, end)
        ago_ms = round((self._ring.end_s - start_s) * 1000)
        self._sink.utterance(
            Heard(
                final=final,
                audio=audio,
                start_s=start_s,
                captured_ms=max(0, now_ms() - ago_ms),
                clock_is_set=clock_is_set(),
                model=self._model,
            )
        )


def model_of(recognizer: Recognizer, precision: str) -> Model:
    """What the contract calls the model that this recogniser runs. Raises BundleError."""
    manifest = recognizer.bundle.manifest
    if precision == AUTO:
        precision, _ = choose(manifest.precisions, this_processor())
    file = recognizer.bundle.path / MANIFEST_NAME
    try:
        digest = hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", file=str(file)) from error
    return Model(
        name=manifest.name,
        version=manifest.version,
        release_counter=manifest.release_counter,
        manifest_sha256=digest,
        precision=precision,
    )
