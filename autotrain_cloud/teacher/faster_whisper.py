"""faster-whisper (CTranslate2): the same family, several times faster, and no torch.

Only the mapping of its results is tested here, against a stand-in for the package: nothing in this
project needs it to be installed.  Its batched pipeline is left alone: it was seen to drop whole
segments (SYSTRAN/faster-whisper issue 1179), and segments are short.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotrain_cloud.segments import HeardWord, Samples
from autotrain_cloud.teacher import (
    Provenance,
    TeacherSettings,
    Transcript,
    checked,
    compression_ratio,
    mean_confidence,
)
from autotrain_cloud.teacher.checkpoint import DEFAULT_SIZE
from autotrain_cloud.teacher.digests import file_digest
from edge_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class FasterWhisper:
    """A CTranslate2 Whisper model."""

    provenance: Provenance
    batch_size: int
    _model: Any
    _options: dict[str, Any]

    @classmethod
    def open(cls, settings: TeacherSettings) -> FasterWhisper:
        """`model`: a size that is cached, or a model's folder.  Raises ConfigError."""
        try:
            import faster_whisper
        except ImportError as error:
            raise ConfigError(
                "teacher faster-whisper: the package is not installed: pip install faster-whisper"
            ) from error
        name = settings.model or DEFAULT_SIZE
        folder = Path(name)
        if not folder.is_dir():
            try:
                folder = Path(faster_whisper.download_model(name, local_files_only=True))
            except Exception as error:  # huggingface_hub's, or a ValueError for an unknown size
                raise ConfigError(
                    f"teacher faster-whisper: {name}: no such folder, and no cached size: "
                    "labelling downloads nothing by itself; run once where there is a network: "
                    f"python -c \"import faster_whisper; faster_whisper.download_model('{name}')\""
                ) from error
        weights = folder / "model.bin"
        if not weights.is_file():
            raise ConfigError(f"teacher faster-whisper: {weights}: no such file")
        try:
            model = faster_whisper.WhisperModel(
                str(folder), device=settings.device, cpu_threads=settings.threads,
                local_files_only=True,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"teacher faster-whisper: {folder}: {error}") from error
        options = {
            "language": settings.language.partition("-")[0] or None,
            "beam_size": settings.beam_size or 1,
            "temperature": list(settings.temperatures),
            "compression_ratio_threshold": settings.max_compression_ratio,
            "log_prob_threshold": settings.min_avg_logprob,
            "max_new_tokens": settings.max_tokens,
            "condition_on_previous_text": False,  # how loops start
            "word_timestamps": settings.words,
            "vad_filter": False,  # the gate comes before, and keeps its own record
        }
        about = Provenance(
            family="whisper",
            model=folder.name,
            version=faster_whisper.__version__,
            checkpoint_sha256=file_digest(weights),
            settings=json.dumps(options, sort_keys=True),
        )
        return cls(about, settings.batch_size, model, options)

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        return [self._transcript(samples) for samples in checked(batch)]

    def _transcript(self, samples: Samples) -> Transcript:
        pieces, info = self._model.transcribe(samples, **self._options)
        pieces = list(pieces)  # a generator: it decodes as it is read
        words = tuple(
            HeardWord(
                word=word.word.strip(),
                start_s=word.start,
                end_s=word.end,
                confidence=word.probability,
            )
            for piece in pieces
            for word in piece.words or ()
        )
        text = " ".join(piece.text.strip() for piece in pieces if piece.text.strip())
        tokens = [len(piece.tokens) + 1 for piece in pieces]
        logprobs = [piece.avg_logprob for piece in pieces]
        return Transcript(
            text=text,
            words=words,
            confidence=mean_confidence(words),
            avg_logprob=float(np.average(logprobs, weights=tokens)) if pieces else None,
            no_speech_prob=min((piece.no_speech_prob for piece in pieces), default=None),
            compression_ratio=compression_ratio(text),
            language=info.language,
            language_prob=info.language_probability,
            temperature=max((piece.temperature for piece in pieces), default=None),
            provenance=self.provenance,
        )
