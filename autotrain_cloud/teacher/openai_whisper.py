"""openai-whisper, batched: `whisper.decode` over stacks of segments, never `transcribe`.

`transcribe` takes one recording at a time, feeds its own text back to itself, which is how loops
start, and calls ffmpeg.  Here a segment is an array, at most 30 s a piece, and no piece knows
another's text.  Audio is encoded once; language, decoding, fallback to higher temperatures (only
of the pieces that failed), word times and scores all read the same features.

Robust Speech Recognition via Large-Scale Weak Supervision, arXiv:2212.04356, section 4.5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotrain_cloud.segments import HeardWord, Samples
from autotrain_cloud.teacher import (
    SAMPLE_RATE,
    Provenance,
    Score,
    TeacherSettings,
    Transcript,
    checked,
    compression_ratio,
    mean_confidence,
)
from autotrain_cloud.teacher.checkpoint import DEFAULT_SIZE, load_whisper
from autotrain_cloud.teacher.forced import force, timed_words
from edge_runtime.errors import ConfigError

WINDOW = 30 * SAMPLE_RATE  # samples; what the encoder takes
_CUT = 5 * SAMPLE_RATE  # longer audio is cut at the quietest place of the last 5 s of a window
_HOP = 320  # samples per encoder frame


@dataclass(frozen=True, slots=True)
class _Piece:
    """At most 30 s of one segment."""

    owner: int  # index of the segment in the batch
    start: int  # sample
    samples: Samples


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was heard in one piece."""

    result: Any  # whisper.DecodingResult
    language_prob: float | None
    words: tuple[HeardWord, ...]


@dataclass(frozen=True, slots=True)
class OpenAIWhisper:
    """A Whisper model; use it from one thread."""

    provenance: Provenance
    batch_size: int
    _model: Any
    _settings: TeacherSettings

    @classmethod
    def open(cls, settings: TeacherSettings) -> OpenAIWhisper:
        """`model`: a size whose weights are cached, or a checkpoint's path.  Raises ConfigError."""
        name = settings.model or DEFAULT_SIZE
        model, digest = load_whisper(name, settings.device)
        import torch
        from whisper.tokenizer import LANGUAGES
        from whisper.version import __version__

        torch.set_num_threads(settings.threads)
        language = settings.language.partition("-")[0]
        if language and language not in LANGUAGES:
            raise ConfigError(f"teacher openai-whisper: language {language!r}: not one it knows")
        if not model.is_multilingual and language not in ("", "en"):
            raise ConfigError(
                f"teacher openai-whisper: {name} knows English only, not {language!r}; "
                "use a model without .en"
            )
        if not settings.temperatures:
            raise ConfigError("teacher openai-whisper: temperatures: at least one, such as 0.0")
        decoding = {
            "language": language,
            "beam_size": settings.beam_size,
            "temperatures": settings.temperatures,
            "max_compression_ratio": settings.max_compression_ratio,
            "min_avg_logprob": settings.min_avg_logprob,
            "max_tokens": settings.max_tokens,
            "words": settings.words,
            "seed": settings.seed,
        }
        about = Provenance(
            family="whisper",
            model=name if "/" not in name else Path(name).name,
            version=__version__,
            checkpoint_sha256=digest,
            settings=json.dumps(decoding, sort_keys=True),
        )
        return cls(about, settings.batch_size, model, settings)

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        pieces = [
            piece
            for owner, samples in enumerate(checked(batch))
            for piece in _pieces(samples, owner)
        ]
        heard: list[list[_Heard]] = [[] for _ in batch]
        if pieces:
            features = self._encode([piece.samples for piece in pieces])
            languages = self._languages(features)
            results = self._decode(pieces, features)
            words = self._words(pieces, features, results) if self._settings.words else None
            for index, piece in enumerate(pieces):
                one = _Heard(results[index], languages[index][1], words[index] if words else ())
                heard[piece.owner].append(one)
        return [self._joined(parts) for parts in heard]

    def score(self, batch: Sequence[Samples], texts: Sequence[str]) -> list[Score]:
        """As `Scorer.score`; of audio longer than 30 s only the first 30 s are heard."""
        features = self._encode([samples[:WINDOW] for samples in checked(batch)])
        tokenizers = [self._tokenizer(language) for language, _ in self._languages(features)]
        limit = self._model.dims.n_text_ctx - 6
        tokens = [
            tokenizer.encode(" " + text.strip())[:limit] if text.strip() else []
            for tokenizer, text in zip(tokenizers, texts, strict=True)
        ]
        starts = [tokenizer.sot_sequence_including_notimestamps for tokenizer in tokenizers]
        scores = []
        for forced in force(self._model, features, tokens, starts, tokenizers[0].eot):
            scores.append(
                Score(
                    avg_logprob=float(forced.logprobs.mean()),
                    sum_logprob=float(forced.logprobs.sum()),
                    tokens=len(forced.logprobs),
                    worst_logprob=float(forced.logprobs.min()),
                )
            )
        return scores

    # --- steps ------------------------------------------------------------------------------------

    def _encode(self, batch: Sequence[Samples]) -> Any:
        """[B, 1500, D].  Each spectrogram by itself: its scale depends on its own maximum."""
        import torch
        from whisper.audio import log_mel_spectrogram, pad_or_trim

        mels = [
            log_mel_spectrogram(pad_or_trim(samples), n_mels=self._model.dims.n_mels)
            for samples in batch
        ]
        with torch.no_grad():
            return self._model.encoder(torch.stack(mels).to(self._model.device))

    def _languages(self, features: Any) -> list[tuple[str, float | None]]:
        if language := self._settings.language.partition("-")[0]:
            return [(language, None)] * len(features)
        if not self._model.is_multilingual:
            return [("en", None)] * len(features)
        _, found = self._model.detect_language(features)
        return [max(probs.items(), key=lambda item: item[1]) for probs in found]

    def _tokenizer(self, language: str) -> Any:
        from whisper.tokenizer import get_tokenizer

        return get_tokenizer(
            self._model.is_multilingual,
            num_languages=self._model.num_languages,
            language=language,
            task="transcribe",
        )

    def _decode(self, pieces: Sequence[_Piece], features: Any) -> list[Any]:
        """Whisper's result per piece, decoded again at rising temperatures while it is no good."""
        best: dict[int, Any] = {}
        waiting = list(range(len(pieces)))
        for temperature in self._settings.temperatures:
            # Sampled one by one, each from a seed of its own: what else is in the batch, and which
            # of it failed, must not change a label.
            groups = [waiting] if temperature == 0 else [[index] for index in waiting]
            for rows in groups:
                results = self._attempt(pieces, features, rows, temperature)
                for row, result in zip(rows, results, strict=True):
                    if row not in best or self._rank(result) > self._rank(best[row]):
                        best[row] = result
            waiting = [index for index in waiting if self._rank(best[index])[0] < 0]
            if not waiting:
                break
        return [best[index] for index in range(len(pieces))]

    def _attempt(
        self, pieces: Sequence[_Piece], features: Any, rows: Sequence[int], temperature: float
    ) -> list[Any]:
        import torch
        import whisper

        settings = self._settings
        options = whisper.DecodingOptions(
            language=settings.language.partition("-")[0] or self._only_language(),
            temperature=temperature,
            beam_size=settings.beam_size or None if temperature == 0 else None,
            sample_len=settings.max_tokens,
            without_timestamps=True,
            fp16=False,
        )
        digest = hashlib.sha256(f"{settings.seed}/{temperature}/".encode())
        digest.update(pieces[rows[0]].samples.tobytes())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest.digest()[:7], "big"))
            found: list[Any] = whisper.decode(self._model, features[list(rows)], options)
        return found

    def _only_language(self) -> str | None:
        return None if self._model.is_multilingual else "en"

    def _rank(self, result: Any) -> tuple[int, float]:
        """Minus the limits broken, then the probability: greater is better."""
        broken = (result.compression_ratio > self._settings.max_compression_ratio) + (
            result.avg_logprob < self._settings.min_avg_logprob
        )
        return -int(broken), float(result.avg_logprob)

    def _words(
        self, pieces: Sequence[_Piece], features: Any, results: Sequence[Any]
    ) -> list[tuple[HeardWord, ...]]:
        tokenizers = [self._tokenizer(result.language) for result in results]
        eot = tokenizers[0].eot
        texts = [[token for token in result.tokens if token < eot] for result in results]
        forced = force(
            self._model,
            features,
            texts,
            [tokenizer.sot_sequence_including_notimestamps for tokenizer in tokenizers],
            eot,
            frames=[-(-len(piece.samples) // _HOP) for piece in pieces],
        )
        found = []
        for piece, tokenizer, text, one in zip(pieces, tokenizers, texts, forced, strict=True):
            words, word_tokens = tokenizer.split_to_word_tokens([*text, eot])
            found.append(timed_words(one, words, word_tokens, piece.start / SAMPLE_RATE))
        return found

    def _joined(self, parts: Sequence[_Heard]) -> Transcript:
        """The pieces of one segment as one transcript."""
        words = tuple(word for part in parts for word in part.words)
        text = " ".join(part.result.text for part in parts if part.result.text)
        tokens = [len(part.result.tokens) + 1 for part in parts]
        logprobs = [part.result.avg_logprob for part in parts]
        return Transcript(
            text=text,
            words=words,
            confidence=mean_confidence(words),
            avg_logprob=float(np.average(logprobs, weights=tokens)) if parts else None,
            # The least: a segment with speech in one piece has speech.
            no_speech_prob=min((part.result.no_speech_prob for part in parts), default=None),
            compression_ratio=compression_ratio(text),
            language=parts[0].result.language if parts else "",
            language_prob=parts[0].language_prob if parts else None,
            temperature=max((part.result.temperature for part in parts), default=None),
            provenance=self.provenance,
        )


def _pieces(samples: Samples, owner: int) -> Iterator[_Piece]:
    """At most 30 s each, cut where it is quietest; none of nothing."""
    start = 0
    while start < len(samples):
        stop = min(start + WINDOW, len(samples))
        if stop < len(samples):
            tail = samples[stop - _CUT : stop].reshape(-1, _HOP)
            stop -= _CUT - int(np.argmin(np.square(tail).sum(1))) * _HOP - _HOP // 2
        yield _Piece(owner, start, samples[start:stop])
        start = stop
