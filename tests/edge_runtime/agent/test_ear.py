"""Sound to words while models change and fail: every sample is heard once, and no word is bent."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.agent import ear as ears
from edge_runtime.agent.ear import Ear
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.recorder import Heard
from edge_runtime.audio import SAMPLE_RATE, open_audio
from edge_runtime.contract.records import Model
from edge_runtime.errors import BackendError, BundleError, EdgeError
from edge_runtime.events import Event
from edge_runtime.ota.health import Health
from edge_runtime.recognizer import Recognizer

ROOT = Path(__file__).parents[3]
BLOCK = SAMPLE_RATE * 160 // 1000
Samples = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> Recognizer:
    return Recognizer.open(ROOT / "bundles" / "en-demo", chunk_ms=160)


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Three sentences, each with a pause after it."""
    pieces = []
    for path in sorted((ROOT / "samples").glob("f*.flac"))[:3]:
        with open_audio(path) as source:
            pieces += [*source.blocks(), np.zeros(SAMPLE_RATE * 3 // 2, np.float32)]
    return np.concatenate(pieces)


class Taped:
    """A recogniser that keeps what its streams were fed; `fails` are pushes, counted over all."""

    def __init__(self, model: Recognizer, fails: tuple[int, ...] = ()) -> None:
        self.model = model
        self.fails = fails
        self.pushes = 0
        self.tapes: list[list[Samples]] = []
        self.words: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def stream(self) -> Any:
        tape: list[Samples] = []
        self.tapes.append(tape)
        stream, outer = self.model.stream(), self

        class Stream:
            def push(self, samples: Samples) -> list[Event]:
                outer.pushes += 1
                if outer.pushes in outer.fails:
                    raise BackendError("the engine is gone")
                tape.append(samples)
                return stream.push(samples)

            def finish(self) -> list[Event]:
                return stream.finish()

        return Stream()

    def heard(self) -> Samples:
        return np.concatenate([block for tape in self.tapes for block in tape])


class Script:
    """Models of which the next one comes when told, and starting fails as often as told."""

    def __init__(self, *recognizers: Any, failures: int = 0) -> None:
        self.recognizers = list(recognizers)
        self.failures = failures
        self.ready = False
        self.starts = 0

    def start(self) -> Any:
        self.starts += 1
        if self.starts <= self.failures:
            raise BundleError("is damaged", file="encoder.onnx")
        return self.recognizers[0]

    def changed(self) -> Any:
        if not self.ready:
            return None
        self.ready = False
        del self.recognizers[0]
        return self.recognizers[0]

    def observe(self, health: Health) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


class Notes:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.finals: list[str] = []
        self.heard: list[Heard] = []
        self.models: list[Model | None] = []
        self.audio_s = self.missed_s = 0.0
        self.crashes = 0
        self.first_words: list[float] = []
        self.late: list[float] = []

    def model(self, model: Model | None) -> None:
        self.models.append(model)

    def audio(self, heard_s: float, busy_s: float) -> None:
        self.audio_s += heard_s

    def event(self, event: Event, late_s: float) -> None:
        if event.type == "final" and event.text:
            self.finals.append(event.text)
            self.late.append(late_s)

    def first_word(self, late_s: float) -> None:
        self.first_words.append(late_s)

    def utterance(self, heard: Heard) -> None:
        self.heard.append(heard)

    def crashed(self) -> None:
        self.crashes += 1

    def missed(self, seconds: float) -> None:
        self.missed_s += seconds


def listening(script: Script) -> tuple[Ear, Notes]:
    notes = Notes()
    ear = Ear(script, notes, Problems(), precision="float32", margin_s=0.3, deletion_above=0.5)
    return ear, notes


def transcribed(model: Recognizer, samples: Samples) -> list[str]:
    stream = model.stream()
    events = [*stream.push(samples), *stream.finish()]
    return [event.text for event in events if event.type == "final" and event.text]


@pytest.mark.parametrize("at", [1, 33])
def test_a_model_changes_between_two_words_and_no_sample_is_lost(
    at: int, model: Recognizer, speech: Samples
) -> None:
    old, new = Taped(model), Taped(model)
    script = Script(old, new)
    ear, notes = listening(script)
    for number, start in enumerate(range(0, len(speech), BLOCK)):
        script.ready = number == at
        ear.push(speech[start : start + BLOCK])
    ear.end()
    before, after = old.heard(), new.heard()
    assert np.array_equal(np.concatenate([before, after]), speech)
    assert len(before) > 0
    assert len(after) > 0
    assert notes.finals == transcribed(model, before) + transcribed(model, after)
    # The second half begins without the context of the first, so a letter may differ, but no word.
    whole = " ".join(transcribed(model, speech))
    assert SequenceMatcher(None, " ".join(notes.finals), whole).ratio() > 0.95
    assert notes.audio_s == pytest.approx(len(speech) / SAMPLE_RATE)
    assert notes.missed_s == 0


def test_speech_without_a_pause_does_not_keep_a_model_from_changing(
    model: Recognizer, speech: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears, "SWAP_S", 2.0)
    noise = np.random.default_rng(1).normal(0, 0.01, len(speech)).astype(np.float32)
    loud = np.where(np.arange(len(speech)) % 3, speech, speech + noise)[: 10 * SAMPLE_RATE]
    monkeypatch.setattr(Ear, "_between_words", lambda self: False)  # nobody ever pauses
    old, new = Taped(model), Taped(model)
    script = Script(old, new)
    ear, notes = listening(script)
    for number, start in enumerate(range(0, len(loud), BLOCK)):
        script.ready = number == 10
        ear.push(loud[start : start + BLOCK])
    ear.end()
    assert np.array_equal(np.concatenate([old.heard(), new.heard()]), loud)
    blocks_until = len(old.heard()) / BLOCK
    assert 10 + 4 / 0.16 <= blocks_until <= 10 + 4 / 0.16 + 2
    assert notes.finals == transcribed(model, old.heard()) + transcribed(model, new.heard())


def test_a_file_that_ends_is_a_moment_for_another_model(model: Recognizer, speech: Samples) -> None:
    old, new = Taped(model), Taped(model)
    script = Script(old, new)
    ear, notes = listening(script)
    ear.push(speech[:BLOCK])
    script.ready = True
    ear.push(speech[BLOCK : 2 * BLOCK])
    ear.end()
    ear.push(speech[2 * BLOCK : 3 * BLOCK])
    ear.end()
    assert np.array_equal(old.heard(), speech[: 2 * BLOCK])
    assert np.array_equal(new.heard(), speech[2 * BLOCK : 3 * BLOCK])
    assert len(notes.models) == 2


def test_a_failing_engine_costs_the_block_it_failed_on_and_the_rest_is_heard(
    model: Recognizer, speech: Samples
) -> None:
    taped = Taped(model, fails=(3,))
    ear, notes = listening(Script(taped))
    for start in range(0, len(speech), BLOCK):
        ear.push(speech[start : start + BLOCK])
    ear.end()
    lost = speech[2 * BLOCK : 3 * BLOCK]
    assert notes.crashes == 1
    assert notes.missed_s == pytest.approx(len(lost) / SAMPLE_RATE)
    assert np.array_equal(taped.heard(), np.concatenate([speech[: 2 * BLOCK], speech[3 * BLOCK :]]))
    assert notes.finals == transcribed(model, speech[3 * BLOCK :])


def test_an_engine_that_fails_again_and_again_is_opened_anew(
    model: Recognizer, speech: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(ears.time, "monotonic", lambda: now[0])
    taped = Taped(model, fails=(1, 2, 3))
    script = Script(taped)
    ear, notes = listening(script)
    for start in range(0, 6 * BLOCK, BLOCK):
        ear.push(speech[start : start + BLOCK])
        now[0] += 0.16
    assert notes.crashes == 3
    assert notes.models[-1] is None
    assert script.starts == 1
    now[0] += 1.0
    ear.push(speech[:BLOCK])
    assert script.starts == 2
    assert notes.models[-1] is not None


def test_without_a_usable_model_sound_is_let_pass_and_the_models_are_asked_ever_less_often(
    model: Recognizer, speech: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(ears.time, "monotonic", lambda: now[0])
    script = Script(model, failures=5)
    ear, notes = listening(script)
    blocks = 0
    while not notes.models and blocks < 1000:
        ear.push(speech[:BLOCK])
        now[0] += 0.16
        blocks += 1
    assert script.starts == 6
    assert now[0] - 1000 == pytest.approx(1 + 2 + 4 + 8 + 16, abs=2)
    assert notes.missed_s == pytest.approx((blocks - 1) * 0.16)


def test_damaged_samples_are_dropped_and_the_stream_goes_on(
    model: Recognizer, speech: Samples
) -> None:
    ear, notes = listening(Script(model))
    ear.push(np.full(BLOCK, np.nan, np.float32))
    for start in range(0, len(speech), BLOCK):
        ear.push(speech[start : start + BLOCK])
    ear.end()
    assert notes.finals == transcribed(model, speech)
    assert (notes.crashes, notes.missed_s) == (0, 0.16)


def test_an_utterance_comes_with_the_sound_it_was_said_in(
    model: Recognizer, speech: Samples
) -> None:
    ear, notes = listening(Script(model))
    for start in range(0, len(speech), BLOCK):
        ear.push(speech[start : start + BLOCK])
    ear.end()
    assert [each.final.text for each in notes.heard] == notes.finals
    for each in notes.heard:
        audio = np.concatenate(each.audio)
        first = round(each.start_s * SAMPLE_RATE)
        assert np.array_equal(audio, speech[first : first + len(audio)])
        assert each.start_s <= each.final.start
        assert each.start_s + len(audio) / SAMPLE_RATE >= each.final.end
        alone = " ".join(transcribed(model, audio))
        assert SequenceMatcher(None, alone, each.final.text).ratio() > 0.7
    assert len(notes.first_words) == len(notes.finals)
    assert all(0 < late < 2 for late in notes.first_words)


def test_nothing_is_said_about_silence(model: Recognizer) -> None:
    ear, notes = listening(Script(model))
    for _ in range(100):
        ear.push(np.zeros(BLOCK, np.float32))
    ear.end()
    assert notes.heard == []
    assert notes.finals == []


def test_errors_of_the_model_are_edge_errors_in_words() -> None:
    problems = Problems()
    ear = Ear(
        Script(failures=9), Notes(), problems,
        precision="auto", margin_s=0.3, deletion_above=0.5,
    )  # fmt: skip
    ear.start()
    assert "encoder.onnx: is damaged" in problems.current()["recogniser"]
    assert issubclass(BundleError, EdgeError)
