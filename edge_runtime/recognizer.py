"""Audio in, words out: the composition of features, engine, decoder, confidence and end-pointing.

    recognizer = Recognizer.open("bundles/en-demo", chunk_ms=160)   # immutable, shared
    stream = recognizer.stream()                                    # mutable, one audio stream
    for samples in blocks:                                          # f32 [n] in [-1, 1], any n
        for event in stream.push(samples):
            ...                                                     # Partial | Final
    stream.finish()                                                 # the finals that are left

Rules:

* An endpoint cuts only the decoder's output, inside silence or between two words. Features and the
  encoder's state run on, so nothing has to warm up again and no neighbouring word is lost or bent.
* `finish` feeds `TAIL_S` of silence first: a causal model says a word up to that long after it
  ended, and without the tail the last word would be missing.
* How the audio is cut into pushes never changes the words. Everything kept is bounded by the
  window, the model's left context and the longest utterance, so a stream may run for days.
* The rows of a batch are independent streams that share runs of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle
from edge_runtime.confidence import (
    ConfidenceMap,
    WordConfidence,
    deletion_score,
    utterance_confidence,
)
from edge_runtime.decoding import Decoder, DecoderConfig, GreedyConfig, Token, decoder_factory
from edge_runtime.decoding.hotwords import parse_hotword
from edge_runtime.decoding.words import WordAssembler
from edge_runtime.endpoint import Endpoint, EndpointConfig, cut_frame, endpoint
from edge_runtime.engine import Engine, Session
from edge_runtime.errors import BundleError
from edge_runtime.events import Event, Final, Hypothesis, Partial, Word
from edge_runtime.features import Frontend, checked, open_frontend
from edge_runtime.frame_stats import FrameStats
from edge_runtime.lexicon import Lexicon
from edge_runtime.precision import AUTO, choose, this_processor
from edge_runtime.tokens import Vocabulary

Samples = NDArray[np.float32]

TAIL_S = 0.4  # digital silence after the end; longer than the model's delay, shorter than a pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognizer:
    """Model, vocabulary and settings: immutable and shared by its streams."""

    bundle: Bundle
    engine: Engine
    vocabulary: Vocabulary
    frontend: Frontend
    confidence: ConfidenceMap | None
    lexicon: Lexicon | None
    chunk_ms: int
    endpoint: EndpointConfig | None  # None: an utterance ends only with its stream
    pad_start: bool
    nbest: int
    new_decoder: Callable[[], Decoder]

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        chunk_ms: int | None = None,
        decoder: DecoderConfig | None = None,
        endpoint: EndpointConfig | None = EndpointConfig(),  # noqa: B008  frozen
        pad_start: bool = True,
        precision: str = AUTO,
        backend: str = "onnxruntime",
        threads: int = 1,
    ) -> Recognizer:
        """Opens a bundle; `chunk_ms` is one of `chunk_variants_ms`, by default the bundle's.

        `precision` is one of the bundle's models ("float32", "int8-x86", ...), or "auto": INT8
        where the bundle has it and the processor is fast at it (`edge_runtime.precision`).

        `pad_start` matters to models whose windows overlap, which are NeMo's: it gives the first
        window zeros to look back on, as NeMo does. Without it, as in sherpa-onnx, the first 90 ms
        are context and nothing said in them is heard.

        Raises BundleError if the bundle must not be used, ConfigError for an option that it does
        not have, BackendError if the engine cannot be started.
        """
        decoder = decoder or GreedyConfig()
        bundle = Bundle.open(path)
        if precision == AUTO:
            precision, _ = choose(bundle.manifest.precisions, this_processor())
        vocabulary = bundle.vocabulary()
        confidence, lexicon = _judges(bundle, decoder)
        engine = Engine.from_bundle(bundle, precision=precision, backend=backend, threads=threads)
        return cls(
            bundle=bundle,
            engine=engine,
            vocabulary=vocabulary,
            frontend=open_frontend(engine.spec.frontend),
            confidence=confidence,
            lexicon=lexicon,
            chunk_ms=engine.window(chunk_ms).chunk_ms,
            endpoint=endpoint,
            pad_start=pad_start,
            nbest=getattr(decoder, "nbest", 1),
            new_decoder=decoder_factory(decoder, vocabulary),
        )

    @property
    def sample_rate(self) -> int:
        """Hz that streams expect."""
        return self.engine.spec.sample_rate

    @property
    def chunk_variants_ms(self) -> tuple[int, ...]:
        """The chunk sizes this model can be opened with."""
        return tuple(window.chunk_ms for window in self.engine.spec.windows)

    def stream(self) -> Stream:
        """A fresh stream of audio."""
        return Stream(self.batch(1))

    def batch(self, size: int) -> Batch:
        """`size` streams that share runs of the graph."""
        window = self.engine.window(self.chunk_ms)
        session = self.engine.session(
            size, chunk_frames=window.shift, pad_start=self.pad_start and window.overlap > 0
        )
        return Batch(self, session)


def _judges(bundle: Bundle, decoder: DecoderConfig) -> tuple[ConfidenceMap | None, Lexicon | None]:
    """What says how sure a word is. Words of hotwords exist, whatever the lexicon says."""
    of_map, of_words = bundle.confidence_file(), bundle.lexicon_file()
    lexicon = None
    if of_words is not None:
        phrases = getattr(decoder, "hotwords", ())
        known = [parse_hotword(text, default_boost=0.0).phrase.split() for text in phrases]
        lexicon = Lexicon.load(of_words).knowing(word for words in known for word in words)
    confidence = None if of_map is None else ConfidenceMap.load(of_map)
    if confidence is not None and lexicon is None and (needs := confidence.lexical):
        raise BundleError(
            "the bundle has no lexicon", file=str(of_map), field="features",
            expected=f"none of {', '.join(needs)}", remedy="export the bundle again",
        )  # fmt: skip
    return confidence, lexicon


class Stream:
    """One stream of audio; after `finish` or `reset` it is ready for the next one."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def push(self, samples: Samples) -> list[Event]:
        """Takes f32 [n] in [-1, 1], any n; returns what became known.

        Raises AudioError for NaN or infinite samples, ValueError for another shape or type; the
        stream is unchanged then.
        """
        return self._batch.push([samples])[0]

    def finish(self) -> list[Event]:
        """The end of the audio: the finals that are left, at least one per stream; then as new."""
        (events,) = self._batch.finish([0])
        self._batch.reset(0)
        return events

    def reset(self) -> None:
        """Forgets everything; the next push starts a fresh stream."""
        self._batch.reset(0)


class Batch:
    """Streams stepped together; each has a window when it has heard enough, whatever the others."""

    def __init__(self, recognizer: Recognizer, session: Session) -> None:
        self._recognizer = recognizer
        self._session = session
        self._features = [recognizer.frontend.stream() for _ in range(session.batch)]
        self._samples = [0] * session.batch  # heard per row
        self._rows = [_Row(recognizer, session.frame_time) for _ in range(session.batch)]

    def push(self, samples: Sequence[Samples | None]) -> list[list[Event]]:
        """Samples per row, None for a row that has nothing now; returns events per row.

        Raises as `Stream.push`; no row has taken anything then.
        """
        if len(samples) != len(self._rows):
            raise ValueError(f"{len(self._rows)} rows, but samples for {len(samples)}")
        if len(samples) > 1:  # one row's bad block must not leave the others half done
            for block in samples:
                if block is not None:
                    checked(block)
        for row, block in enumerate(samples):
            if block is not None:
                frames = self._features[row].push(block)
                self._samples[row] += len(block)
                if len(frames):
                    self._session.push(frames, row)
        return self._step()

    def finish(self, rows: Sequence[int]) -> list[list[Event]]:
        """The end of the audio of some rows: what is left of each. Other rows lose nothing."""
        tail = np.zeros(round(TAIL_S * self._recognizer.sample_rate), np.float32)
        for row in rows:
            self._rows[row].end_of_audio(self._samples[row] / self._recognizer.sample_rate)
            for frames in (self._features[row].push(tail), self._features[row].finish()):
                if len(frames):
                    self._session.push(frames, row)
            self._session.finish(row)
        events = self._step()
        for row, found in enumerate(events):
            if row not in rows:
                self._rows[row].waiting += found  # the next push returns them
        return [events[row] + self._rows[row].finish() for row in rows]

    def reset(self, row: int) -> None:
        """Makes `row` a fresh stream."""
        self._session.reset(row)
        self._features[row] = self._recognizer.frontend.stream()
        self._samples[row] = 0
        self._rows[row] = _Row(self._recognizer, self._session.frame_time)

    def _step(self) -> list[list[Event]]:
        events: list[list[Event]] = []
        for row in self._rows:
            events.append(row.waiting)
            row.waiting = []
        while outputs := self._session.step():
            for output in outputs:
                row = self._rows[output.row]
                events[output.row] += row.advance(output.logprobs, output.stats)
        return events


class _Row:
    """From log-probabilities to events: the utterances of one stream. Knows no audio, no engine."""

    def __init__(self, recognizer: Recognizer, frame_time: Callable[[int], float]) -> None:
        self._endpoint = recognizer.endpoint
        self._nbest = recognizer.nbest
        self._starts_word = recognizer.vocabulary.word_starts
        self._vocabulary = recognizer.vocabulary
        self._frame_s = recognizer.engine.spec.frame_s
        self._frame_time = frame_time
        self._decoder = recognizer.new_decoder()
        self._stats = FrameStats()
        self._words = WordAssembler(
            recognizer.vocabulary,
            self._time,
            WordConfidence(self._stats, self._frame_s, recognizer.confidence, recognizer.lexicon),
        )
        self._first = 0  # frame at which the utterance starts
        self._silent_since = 0  # frame up to which finals were passed on
        self._missing = 0.0  # deletion score of what was ended since then without text
        self._audio_s = float("inf")  # length of the stream, once it is known
        self._has_final = False
        self.waiting: list[Event] = []  # found while another row was finished

    def end_of_audio(self, seconds: float) -> None:
        """The stream was this long: no word may end later, although silence follows."""
        self._audio_s = seconds

    def advance(
        self, logprobs: NDArray[np.float32], stats: list[list[float]] | None = None
    ) -> list[Event]:
        """The next block, [T', V], and its statistics where the graph has computed them."""
        decoder = self._decoder
        self._stats.push(logprobs, stats)
        events: list[Event] = []
        if decoder.advance(logprobs, stats):
            events.append(self._partial(decoder.tokens()))
        if self._endpoint is not None and (reason := self._endpointed(self._endpoint)):
            events += self._end(reason)
        return events

    def finish(self) -> list[Event]:
        """The last utterance; an empty final if the stream never had one."""
        final = self._final(self._decoder.frames, ended=True)
        if not final.text and self._has_final:
            return []
        return [final]

    def _endpointed(self, config: EndpointConfig) -> Endpoint | None:
        decoder = self._decoder
        length = decoder.frames - self._first
        return endpoint(
            config,
            decoded=bool(decoder.tokens()),
            trailing_silence_s=min(decoder.trailing_blank_frames, length) * self._frame_s,
            utterance_s=length * self._frame_s,
        )

    def _end(self, reason: Endpoint) -> list[Event]:
        decoder, config = self._decoder, self._endpoint
        silence = min(decoder.trailing_blank_frames, decoder.frames - self._first)
        # In the middle of the silence: what a search half hears at either end of it stays whole.
        cut = decoder.frames - silence // 2
        if reason is Endpoint.TOO_LONG and config is not None and decoder.tokens():
            cut = cut_frame(
                decoder.tokens(),
                self._starts_word,
                now=decoder.frames,
                recent_frames=round(config.recent_s / self._frame_s),
            )
        final = self._final(cut, ended=reason is not Endpoint.TOO_LONG)
        events: list[Event] = [final] if final.text else []
        if decoder.tokens():  # what was said after the cut is the new utterance's beginning
            events.append(self._partial(decoder.tokens()))
        return events

    def _partial(self, tokens: Sequence[Token]) -> Partial:
        words = self._words.words(tokens)
        return Partial(
            _text(words),
            words[0].start if words else self._time(self._first),
            words[-1].end if words else self._time(self._first),
            utterance_confidence(words),
            words,
        )

    def _final(self, cut: int, *, ended: bool) -> Final:
        """Ends the utterance at frame `cut`."""
        decoder, assemble = self._decoder, self._words.assemble
        nbest = decoder.nbest(self._nbest, before=cut, ended=ended) if self._nbest > 1 else []
        readings = [(candidate.score, assemble(candidate.tokens)) for candidate in nbest]
        tokens = decoder.split(cut, ended=ended)
        # Not built anew: the statistics may no longer reach back to the first words.
        words = self._words.words(tokens)
        missing = max(
            self._missing,
            deletion_score(self._stats, tokens, self._first, min(cut, self._stats.end)),
        )
        final = Final(
            _text(words),
            words[0].start if words else self._time(self._silent_since),
            words[-1].end if words else self._time(cut),
            utterance_confidence(words, missing),
            words,
            missing,
            tuple(Hypothesis(_text(reading), score, reading) for score, reading in readings),
        )
        self._first = cut
        self._stats.drop(cut)
        if final.text:  # one without is not passed on, but for the last
            self._has_final, self._silent_since, self._missing = True, cut, 0.0
        else:
            self._missing = missing
        return final

    def _time(self, frame: int) -> float:
        return min(self._frame_time(frame), self._audio_s)


def _text(words: Sequence[Word]) -> str:
    return " ".join([word.word for word in words])
