"""Counting what the recogniser does, so that the cloud can see how it does everywhere.

    meter.model(model, now_ms=now)               # in use from now on
    meter.final(final, late_s=0.6)
    reports = meter.flush(...)                   # one for each model that did something

Full histograms, because means hide exactly the utterances that matter. A report never covers two
models: what becomes known about an utterance later counts for the model that heard it. Reports
carry session and sequence, so that one that was lost, also by a crash, can be seen. Pure; the lock
is the caller's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_runtime.agent.sampling import Decision
from edge_runtime.contract.messages import Telemetry
from edge_runtime.contract.records import Histogram, Model
from edge_runtime.events import Final

UNIT = tuple(number / 20 for number in range(1, 20))  # bounds of what is between 0 and 1
LATENCY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 10.0, 30.0)


class Tally:
    """A histogram that grows."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: Tally) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def histogram(self) -> Histogram:
        return Histogram(bounds=self.bounds, counts=tuple(self.counts), total=self.total)


def _unit() -> Tally:
    return Tally(UNIT)


def _latency() -> Tally:
    return Tally(LATENCY)


@dataclass(slots=True, kw_only=True)
class Window:
    """What one model did in a stretch of time."""

    start_ms: int
    utterances: int = 0
    speech_s: float = 0.0
    confidence: Tally = field(default_factory=_unit)
    word_confidence: Tally = field(default_factory=_unit)
    deletion_score: Tally = field(default_factory=_unit)
    first_word_s: Tally = field(default_factory=_latency)
    final_s: Tally = field(default_factory=_latency)
    audio_s: float = 0.0
    busy_s: float = 0.0
    selected: Counter[str] = field(default_factory=Counter)
    vetoed: Counter[str] = field(default_factory=Counter)
    unsampled: int = 0
    crashes: int = 0

    @property
    def idle(self) -> bool:
        """Nothing happened."""
        return not (self.audio_s or self.utterances or self.crashes or self.unsampled)

    def merge(self, other: Window) -> None:
        """Adds another stretch."""
        for name in ("utterances", "speech_s", "audio_s", "busy_s", "unsampled", "crashes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("confidence", "word_confidence", "deletion_score", "first_word_s", "final_s"):
            getattr(self, name).merge(getattr(other, name))
        self.selected += other.selected
        self.vetoed += other.vetoed


Key = tuple[str, str, int, bytes, str]


class Meter:
    """See the module. `session` is the agent's."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._sequence = 0
        self._windows: dict[Key, tuple[Model, Window]] = {}
        self._current: Window | None = None
        self._model: Model | None = None
        self._total = Window(start_ms=0)  # of what was flushed

    def model(self, model: Model | None, *, now_ms: int) -> None:
        """This one is in use from now on."""
        self._model = model
        self._current = None if model is None else self._window(model, now_ms)

    def _window(self, model: Model, now_ms: int) -> Window:
        key = (
            model.name,
            model.version,
            model.release_counter,
            model.manifest_sha256,
            model.precision,
        )
        if key not in self._windows:
            self._windows[key] = model, Window(start_ms=now_ms)
        return self._windows[key][1]

    def audio(self, heard_s: float, busy_s: float) -> None:
        if self._current is not None:
            self._current.audio_s += heard_s
            self._current.busy_s += busy_s

    def first_word(self, late_s: float) -> None:
        if self._current is not None:
            self._current.first_word_s.add(late_s)

    def final(self, late_s: float) -> None:
        if self._current is not None:
            self._current.final_s.add(late_s)

    def crash(self) -> None:
        if self._current is not None:
            self._current.crashes += 1

    def utterance(self, model: Model, final: Final, *, now_ms: int) -> None:
        window = self._window(model, now_ms)
        window.utterances += 1
        window.speech_s += max(0.0, final.end - final.start)
        window.confidence.add(final.confidence)
        window.deletion_score.add(final.deletion_score)
        for word in final.words:
            window.word_confidence.add(word.confidence)

    def decided(self, model: Model, decision: Decision, *, now_ms: int) -> None:
        """What the sampling made of an utterance."""
        window = self._window(model, now_ms)
        window.selected.update(decision.reasons)
        window.unsampled += decision.unsampled
        if not decision.upload and any(rule.outcome == "selects" for rule in decision.rules):
            window.vetoed.update(rule.name for rule in decision.rules if rule.outcome == "vetoes")

    def flush(
        self,
        *,
        now_ms: int,
        queued: int,
        queued_bytes: int,
        dead: int,
        gauges: Mapping[str, float],
    ) -> list[Telemetry]:
        """The reports of what happened since the last flush."""
        reports = []
        for model, window in self._windows.values():
            self._total.merge(window)
            if window.idle:
                continue
            factor = window.busy_s / window.audio_s if window.audio_s else 0.0
            reports.append(
                Telemetry(
                    session=self._session,
                    sequence=self._sequence,
                    start_ms=min(window.start_ms, now_ms),
                    end_ms=now_ms,
                    model=model,
                    utterances=window.utterances,
                    speech_s=window.speech_s,
                    confidence=window.confidence.histogram(),
                    word_confidence=window.word_confidence.histogram(),
                    deletion_score=window.deletion_score.histogram(),
                    first_word_s=window.first_word_s.histogram(),
                    final_s=window.final_s.histogram(),
                    real_time_factor=min(factor, 1e6),
                    selected=_tokens(window.selected),
                    vetoed=_tokens(window.vetoed),
                    unsampled=window.unsampled,
                    queued=queued,
                    queued_bytes=queued_bytes,
                    dead=dead,
                    crashes=window.crashes,
                    gauges={name: float(value) for name, value in gauges.items()},
                )
            )
            self._sequence += 1
        self._windows.clear()
        self.model(self._model, now_ms=now_ms)
        return reports

    def totals(self) -> Window:
        """Everything since the start of the agent, over all models."""
        total = Window(start_ms=0)
        total.merge(self._total)
        for _, window in self._windows.values():
            total.merge(window)
        return total


def _tokens(counts: Mapping[str, int]) -> dict[str, int]:
    """`quiet hours` is a rule for people, `quiet-hours` a token."""
    return {name.replace(" ", "-"): count for name, count in sorted(counts.items())}
