"""From an utterance to the outbox: what is sent is what was said, and the budget outlives kills."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_runtime.agent import recorder as recorders
from edge_runtime.agent.config import (
    AgentSettings,
    DeviceSettings,
    OutboxSettings,
    RecognizerSettings,
    RecordingSettings,
)
from edge_runtime.agent.decisions import DecisionLog, explain
from edge_runtime.agent.outbox import Outbox
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.recorder import Heard, Recorder, find_redactor
from edge_runtime.agent.sampling import Candidate, SamplingPolicy
from edge_runtime.audio import SAMPLE_RATE
from edge_runtime.contract.codec import decode
from edge_runtime.contract.messages import Consent, Segment
from edge_runtime.contract.records import Model
from edge_runtime.errors import ConfigError
from edge_runtime.events import Final, Hypothesis, Word

MODEL = Model(
    name="en-demo", version="1", release_counter=1, manifest_sha256=bytes(32), precision="float32"
)
CONSENT = Consent(id="c-1", version=1, granted=True, from_ms=0, retention_days=3)
DAY = 1_790_000_000_000


def heard(confidence: float = 0.3, seconds: float = 2.0, at_ms: int = DAY) -> Heard:
    tone = np.sin(np.arange(round(seconds * SAMPLE_RATE)) / 9).astype(np.float32) / 3
    words = (Word("hello", 10.5, 11.0, 0.2), Word("there", 11.2, 11.7, 0.4))
    final = Final(
        "hello there", 10.5, 11.7, confidence, words, 0.1,
        (Hypothesis("hello there", -1.0, words), Hypothesis("yellow there", -2.0, words)),
    )  # fmt: skip
    return Heard(
        final=final, audio=[tone[:1000], tone[1000:]], start_s=10.2, captured_ms=at_ms,
        clock_is_set=True, model=MODEL,
    )  # fmt: skip


class Bench:
    """A recorder with its outbox."""

    def __init__(self, state: Path, **recording: object) -> None:
        self.settings = AgentSettings(
            device=DeviceSettings(state=state),
            recognizer=RecognizerSettings(bundle=Path("b"), language="en"),
            sampling=SamplingPolicy(random_share=0.0),
            recording=RecordingSettings(**recording),  # type: ignore[arg-type]
            outbox=OutboxSettings(reserve_mb=0),
        )
        self.state = state
        self.outbox: Outbox | None = Outbox.open(state, quota_bytes=10_000_000)
        self.problems = Problems()
        self.consent: Consent | None = CONSENT
        self.log = DecisionLog(state, 50)
        self.recorder = self.new()

    def new(self, settings: AgentSettings | None = None) -> Recorder:
        self.settings = settings or self.settings
        return Recorder(
            self.settings, session=7, outbox=lambda: self.outbox, consent=lambda: self.consent,
            problems=self.problems, log=self.log,
        )  # fmt: skip

    def segments(self) -> list[Segment]:
        assert self.outbox is not None
        found = [decode(item.payload) for item in self.outbox.peek(100, now_ms=0)]
        return sorted(
            (each for each in found if isinstance(each, Segment)), key=lambda each: each.sequence
        )

    def close(self) -> None:
        self.log.close()
        if self.outbox is not None:
            self.outbox.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, flac_share=0.0)
    yield made
    made.close()


def test_a_segment_is_what_was_said(bench: Bench) -> None:
    outcome = bench.recorder.record(heard())
    assert outcome.put == "kept"
    [segment] = bench.segments()
    assert (segment.text, segment.codec, segment.consent) == ("hello there", "opus", "c-1")
    assert (segment.session, segment.sequence, segment.language) == (7, 0, "en")
    assert segment.audio_sha256 == hashlib.sha256(segment.audio).digest()
    assert [round(word.start_s, 3) for word in segment.words] == [0.3, 1.0]
    assert [each.text for each in segment.alternatives] == ["yellow there"]
    assert segment.reasons == ("unsure",)
    samples, rate = soundfile.read(io.BytesIO(segment.audio))
    assert rate == SAMPLE_RATE
    assert abs(len(samples) - 2 * SAMPLE_RATE) < SAMPLE_RATE / 50
    assert len(segment.audio) < 2 * 24_000 / 8 * 1.6
    said = np.concatenate(heard().audio)
    assert np.corrcoef(samples[: len(said)], said[: len(samples)])[0, 1] > 0.95


def test_a_share_keeps_every_bit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, flac_share=1.0)
    bench.recorder.record(heard())
    [segment] = bench.segments()
    assert segment.codec == "flac"
    samples, _ = soundfile.read(io.BytesIO(segment.audio), dtype="float32")
    assert np.abs(samples - np.concatenate(heard().audio)).max() <= 1 / 32768
    bench.close()


def test_the_share_without_loss_is_about_as_large_as_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, flac_share=0.3)
    for _ in range(60):
        bench.recorder.record(heard(seconds=0.2))
    codecs = [segment.codec for segment in bench.segments()]
    assert 6 <= codecs.count("flac") <= 32
    assert [segment.sequence for segment in bench.segments()] == list(range(60))
    bench.close()


def test_nothing_is_kept_without_consent_and_every_decision_can_be_explained(
    bench: Bench, tmp_path: Path
) -> None:
    bench.consent = None
    refused = bench.recorder.record(heard())
    bench.consent = CONSENT
    kept = bench.recorder.record(heard())
    sure = bench.recorder.record(heard(confidence=0.9))
    assert [each.put for each in (refused, kept, sure)] == [None, "kept", None]
    bench.log.write()
    found = explain(tmp_path, last=10)
    assert [each.id for each in found] == [each.decision.id for each in (refused, kept, sure)]
    assert "consent: there is none" in found[0].line
    assert [each.facts["outcome"] for each in found] == [None, "kept", None]
    [one] = explain(tmp_path, id=kept.decision.id[:20])[-1:]
    assert one.captured_ms == DAY
    everything = (tmp_path / "decisions.db").read_bytes() + b"".join(
        path.read_bytes() for path in tmp_path.glob("decisions.db-*")
    )
    assert b"hello" not in everything


def test_the_decision_log_is_bounded_and_begins_anew_when_damaged(bench: Bench) -> None:
    for _ in range(230):
        bench.recorder.record(heard(confidence=0.9, seconds=0.01))
    assert 50 <= len(explain(bench.state, last=1000)) < 160
    bench.log.close()
    for path in bench.state.glob("decisions.db*"):
        path.write_bytes(b"not a database, although it is long enough to look at" * 100)
    for _ in range(2):
        assert bench.recorder.record(heard()).put == "kept"
    assert explain(bench.state, last=1000)


def test_what_was_spent_stays_spent_after_a_restart_and_real_sizes_are_booked(
    bench: Bench,
) -> None:
    bench.recorder.record(heard())
    [segment] = bench.segments()
    budget = bench.new().budget
    assert (budget.day, budget.segments) == ("2026-09-21", 1)
    assert budget == bench.recorder.budget
    assert bench.outbox is not None
    [item] = bench.outbox.peek(1, now_ms=0)
    assert budget.bytes == len(item.payload)
    assert item.expires_ms == segment.captured_ms + 3 * 86_400_000  # the consent's, not ours


def test_a_damaged_budget_counts_as_spent_until_tomorrow(bench: Bench) -> None:
    (bench.state / "budget.json").write_text('{"day": 7}')
    recorder = bench.new()
    now = round(datetime.now(timezone.utc).timestamp() * 1000)
    assert recorder.record(heard(at_ms=now)).put is None
    assert recorder.record(heard(at_ms=now + 86_400_000)).put == "kept"


def test_a_disk_without_room_costs_recordings_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.outbox, outbox = None, bench.outbox
    assert bench.recorder.record(heard()).put is None
    assert "there is no outbox" in bench.problems.current()["recording"]
    bench.outbox = outbox
    monkeypatch.setattr(recorders.shutil, "disk_usage", lambda path: type("", (), {"free": -1}))
    assert bench.recorder.record(heard()).put is None
    assert "MB of disk are free" in bench.problems.current()["recording"]
    monkeypatch.undo()
    assert bench.recorder.record(heard()).put == "kept"
    assert bench.problems.current() == {}


def redact(candidate: Candidate) -> str | None:
    if "boom" in candidate.text:
        raise RuntimeError("boom")
    return "a name" if "hello" in candidate.text else None


def test_a_redactor_keeps_back_what_it_names_and_one_that_fails_keeps_everything_back() -> None:
    redactor = find_redactor(f"{__name__}:redact")
    assert redactor is not None

    def asked(text: str) -> str | None:
        return redactor(
            Candidate(
                id="0" * 32, captured_ms=0, speech_s=1, confidence=1, deletion_score=0, size=1,
                text=text,
            )
        )  # fmt: skip

    assert asked("hello") == "a name"
    assert asked("good morning") is None
    assert asked("boom") == "the redactor failed: boom"
    for name in ("nobody:knows", f"{__name__}:nothing", "no-entry-point"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            find_redactor(name)
