"""A bundle of our own as a teacher: float32, beam search with its language model, no hurry.

It is of the student's family, so it confirms Whisper or Pocketsphinx, but never a device that runs
a relative of it.  As a champion's voice it also says what a fleet would hear today.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotrain_cloud.segments import HeardWord, Samples
from autotrain_cloud.teacher import (
    Provenance,
    TeacherSettings,
    Transcript,
    checked,
    compression_ratio,
)
from autotrain_cloud.teacher.digests import file_digest
from edge_runtime.bundle import Bundle
from edge_runtime.contract.bundle import MANIFEST_NAME
from edge_runtime.decoding import BeamConfig
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.events import Final
from edge_runtime.recognizer import Recognizer

BEAM = 48  # hypotheses; a device keeps fewer


@dataclass(frozen=True, slots=True)
class BundleTeacher:
    """One recogniser, one stream per segment."""

    provenance: Provenance
    batch_size: int
    _recognizer: Recognizer

    @classmethod
    def open(cls, settings: TeacherSettings) -> BundleTeacher:
        """`model`: the bundle's folder.  Raises ConfigError."""
        if not settings.model:
            raise ConfigError("teacher bundle: name a bundle's folder as model")
        try:
            bundle = Bundle.open(settings.model)
            beam = BeamConfig(beam=settings.beam_size or BEAM, **bundle.decoding())
            recognizer = Recognizer.open(
                settings.model, decoder=beam, precision="float32", threads=settings.threads
            )
        except BundleError as error:
            raise ConfigError(f"teacher bundle: {settings.model}: {error}") from error
        chunk_ms = max(recognizer.chunk_variants_ms)  # nobody waits for these words
        recognizer = replace(recognizer, chunk_ms=chunk_ms)
        about = Provenance(
            family="vitconformer",
            model=bundle.manifest.name,
            version=bundle.manifest.version,
            checkpoint_sha256=file_digest(bundle.path / MANIFEST_NAME),
            settings=json.dumps({"beam": beam.beam, "chunk_ms": chunk_ms, "lm": bool(beam.lm)}),
        )
        return cls(about, settings.batch_size, recognizer)

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        found = []
        for samples in checked(batch):
            stream = self._recognizer.stream()
            events = [*stream.push(samples), *stream.finish()]
            finals = [event for event in events if isinstance(event, Final) and event.text]
            words = tuple(
                HeardWord(
                    word=word.word, start_s=word.start, end_s=word.end, confidence=word.confidence
                )
                for final in finals
                for word in final.words
            )
            text = " ".join(final.text for final in finals)
            letters = sum(len(final.text) for final in finals)
            found.append(
                Transcript(
                    text=text,
                    words=words,
                    confidence=sum(f.confidence * len(f.text) for f in finals) / max(1, letters),
                    compression_ratio=compression_ratio(text),
                    provenance=self.provenance,
                )
            )
        return found
