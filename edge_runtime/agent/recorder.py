"""From an utterance to a segment in the outbox: decide, compress, seal, remember why.

The recogniser's thread only notes where an utterance lies in the sound (`Heard`); all that costs
time happens here, on another thread, and most utterances end with the decision not to keep them.
The day's budget is on the disk before the segment is, so no crash makes a day longer.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal, cast

import numpy as np

from edge_runtime.agent.clock import now_ms
from edge_runtime.agent.config import AgentSettings
from edge_runtime.agent.decisions import DecisionLog
from edge_runtime.agent.outbox import Item, Outbox, Put
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.ring import Samples
from edge_runtime.agent.sampling import (
    Budget,
    Candidate,
    Decision,
    Redactor,
    SamplingPolicy,
    decide,
    draw,
)
from edge_runtime.agent.state import load_budget, save_budget
from edge_runtime.audio import SAMPLE_RATE, compress
from edge_runtime.contract.codec import encode
from edge_runtime.contract.messages import Consent, Segment
from edge_runtime.contract.records import Alternative, Model, SpokenWord, new_id
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.events import Final, Hypothesis, Word

REDACTORS = "vitconformer.redactors"  # entry points: functions such as `sampling.Redactor`
DAY_MS = 86_400_000
# Bytes a second that a segment is expected to have; what it really had is booked afterwards.
_EXPECTED = {"opus": 3_300, "flac": 20_000}
_AROUND = 2_000  # bytes of a segment besides its sound

Codec = Literal["opus", "flac"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An utterance and its sound."""

    final: Final
    audio: list[Samples]  # f32, in pieces
    start_s: float  # of the audio, in the stream's time
    captured_ms: int  # the same, since 1970
    clock_is_set: bool
    model: Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an utterance."""

    decision: Decision
    put: Put | None  # None: not chosen, or it could not be kept


class Recorder:
    """One thread at a time."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        session: int,
        outbox: Callable[[], Outbox | None],  # None while there is none
        consent: Callable[[], Consent | None],
        problems: Problems,
        log: DecisionLog,
    ) -> None:
        """Raises ConfigError for a redactor that does not exist."""
        self._settings = settings
        self._session = session
        self._outbox = outbox
        self._consent = consent
        self._problems = problems
        self._log = log
        self._redactor = find_redactor(settings.recording.redactor)
        self._sequence = 0
        self._saved = load_budget(settings.device.state)
        self.budget = _all_spent(settings.sampling) if self._saved is None else self._saved

    def record(self, heard: Heard) -> Outcome:
        """Decides about an utterance and keeps it if it is worth it. Raises nothing on purpose."""
        settings = self._settings
        consent = self._consent()
        id = new_id(heard.captured_ms, secrets.token_bytes(10))
        seconds = sum(map(len, heard.audio)) / SAMPLE_RATE
        flac = draw(f"codec {settings.sampling.seed}", id) < settings.recording.flac_share
        codec: Codec = "flac" if flac else "opus"
        size = _AROUND + round(seconds * _EXPECTED[codec])
        candidate = Candidate(
            id=id,
            captured_ms=heard.captured_ms,
            speech_s=max(0.0, heard.final.end - heard.final.start),
            confidence=heard.final.confidence,
            deletion_score=heard.final.deletion_score,
            size=size,
            text=heard.final.text,
        )
        decision = decide(
            settings.sampling, consent, candidate, self.budget, redactor=self._redactor
        )
        put: Put | None = None
        if decision.upload and consent is not None and heard.audio:
            put = self._keep(heard, decision, consent, codec, size)
        elif not decision.upload:
            self.budget = decision.budget  # at most another day: nothing of it was spent
        self._log.add(decision, candidate, put)
        return Outcome(decision=decision, put=put)

    def _keep(
        self, heard: Heard, decision: Decision, consent: Consent, codec: Codec, expected: int
    ) -> Put | None:
        try:
            payload = encode(self._segment(heard, decision, consent, codec))
            self.budget = _corrected(decision, len(payload) - expected)
            if self.budget != self._saved:
                save_budget(self._settings.device.state, self.budget)
                self._saved = self.budget
            outbox = self._outbox()
            if outbox is None:
                raise StorageError("there is no outbox: an utterance was not kept")
            self._check_disk()
            days = min(self._settings.outbox.retention_days, consent.retention_days)
            item = Item(
                id=decision.id,
                consent=consent.id,
                value=decision.value,
                inclusion_probability=decision.inclusion_probability,
                expires_ms=heard.captured_ms + days * DAY_MS,
                payload=payload,
            )
            put = outbox.put(item, now_ms=now_ms())
        except Exception as error:  # whatever it is, the next utterance is recognised and recorded
            self._problems.report("recording", error)
            return None
        self._sequence += 1
        self._problems.clear("recording")
        return put

    def _check_disk(self) -> None:
        reserve = self._settings.outbox.reserve_mb
        free = shutil.disk_usage(self._settings.device.state).free // 1_000_000
        if free < reserve:
            raise StorageError(
                f"{self._settings.device.state}: {free} MB of disk are free, {reserve} MB stay so:"
                " an utterance was not kept"
            )

    def _segment(self, heard: Heard, decision: Decision, consent: Consent, codec: Codec) -> Segment:
        samples = np.concatenate(heard.audio)
        audio = compress(samples, codec)
        final = heard.final
        return Segment(
            id=decision.id,
            session=self._session,
            sequence=self._sequence,
            captured_ms=heard.captured_ms,
            clock_is_set=heard.clock_is_set,
            duration_s=len(samples) / SAMPLE_RATE,
            sample_rate=SAMPLE_RATE,
            codec=codec,
            audio=audio,
            audio_sha256=hashlib.sha256(audio).digest(),
            model=heard.model,
            text=final.text,
            words=tuple(_spoken(word, heard.start_s) for word in final.words),
            alternatives=tuple(map(_alternative, final.nbest[1:])),
            confidence=_unit(final.confidence),
            deletion_score=_unit(final.deletion_score),
            language=self._settings.recognizer.language,
            reasons=decision.reasons,
            inclusion_probability=decision.inclusion_probability,
            random_probability=decision.random_probability,
            consent=consent.id,
        )


def find_redactor(name: str) -> Redactor | None:
    """The function that is asked before anything is kept; one that fails keeps everything back.

    Raises ConfigError where there is none of that name.
    """
    if not name:
        return None
    try:
        module, colon, function = name.partition(":")
        if colon:
            found = getattr(import_module(module), function)
        else:
            from importlib.metadata import entry_points  # 30 ms that few agents need

            (point,) = entry_points(group=REDACTORS, name=name)
            found = point.load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"recording: redactor: {name!r} cannot be loaded ({error}): give"
            f" package.module:function or the name of an entry point in {REDACTORS}"
        ) from error
    redactor = cast(Redactor, found)

    def ask(candidate: Candidate) -> str | None:
        try:
            return redactor(candidate)
        except Exception as error:
            return f"the redactor failed: {error}"

    return ask


def _corrected(decision: Decision, more: int) -> Budget:
    """The budget after a segment that took `more` bytes than it was expected to."""
    budget = decision.budget
    if "random" in decision.reasons:
        return replace(budget, random_bytes=max(0, budget.random_bytes + more))
    return replace(budget, bytes=max(0, budget.bytes + more))


def _all_spent(policy: SamplingPolicy) -> Budget:
    """Nobody knows what was spent today."""
    from datetime import datetime

    return Budget(
        day=datetime.now(policy.zone()).date().isoformat(),
        segments=policy.daily_segments,
        bytes=policy.daily_bytes,
        random_segments=policy.daily_segments,
        random_bytes=policy.daily_bytes,
    )


def _spoken(word: Word, start_s: float) -> SpokenWord:
    start = max(0.0, word.start - start_s)
    return SpokenWord(
        word=word.word,
        start_s=start,
        end_s=max(start, word.end - start_s),
        confidence=_unit(word.confidence),
    )


def _alternative(reading: Hypothesis) -> Alternative:
    return Alternative(text=reading.text, score=reading.score)


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
