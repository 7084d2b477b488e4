"""CMU Pocketsphinx: its wheel carries an American English model, so it labels without a network.

A segment is decoded whole (`full_utt`), not as a stream: the cepstral mean is then the segment's
own.  On read speech that is worth ten points of word error rate against the live mean, and it is
what makes a transcript independent of the segments before it.  Confidences are posteriors of the
words in the lattice of the third pass.
"""

from __future__ import annotations

import json
import re
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
from autotrain_cloud.teacher.digests import tree_digest
from edge_runtime.errors import ConfigError

_FRAME_S = 0.01
_MIN_SAMPLES = 1600  # 100 ms; the decoder returns nothing sensible for less
_VARIANT = re.compile(r"\(\d+\)$")  # which pronunciation: "the(2)"


@dataclass(frozen=True, slots=True)
class Sphinx:
    """One decoder; use it from one thread."""

    provenance: Provenance
    batch_size: int
    _decoder: Any

    @classmethod
    def open(cls, settings: TeacherSettings) -> Sphinx:
        """`model`: a folder like the wheel's `model/en-us`.  Raises ConfigError."""
        try:
            import pocketsphinx
        except ImportError as error:
            raise ConfigError(
                "teacher pocketsphinx: the package is not installed: pip install pocketsphinx"
            ) from error
        from importlib.metadata import version

        if settings.language.partition("-")[0] not in ("", "en") and not settings.model:
            raise ConfigError(
                f"teacher pocketsphinx: its own model is English, not {settings.language!r}; "
                "name a folder with another as model"
            )
        folder = Path(settings.model or Path(pocketsphinx.get_model_path()) / "en-us")
        files = {"hmm": "en-us", "lm": "en-us.lm.bin", "dict": "cmudict-en-us.dict"}
        if settings.model:
            files = _found(folder)
        options = {name: str(folder / file) for name, file in files.items()}
        for name, path in options.items():
            if not Path(path).exists():
                raise ConfigError(f"teacher pocketsphinx: {path}: no such file ({name})")
        try:
            decoder = pocketsphinx.Decoder(loglevel="FATAL", **options)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"teacher pocketsphinx: {folder}: not a model: {error}") from error
        about = Provenance(
            family="sphinx",
            model=folder.name,
            version=version("pocketsphinx"),
            checkpoint_sha256=tree_digest(folder),
            settings=json.dumps({"front_end": "fresh", "full_utt": True}),
        )
        return cls(about, settings.batch_size, decoder)

    def transcribe(self, batch: Sequence[Samples]) -> list[Transcript]:
        return [self._transcript(samples) for samples in checked(batch)]

    def _transcript(self, samples: Samples) -> Transcript:
        words: list[HeardWord] = []
        if len(samples) >= _MIN_SAMPLES and samples.any():
            pcm = (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes()
            self._decoder.reinit_feat()  # else noise tracking goes on from the segment before
            self._decoder.start_utt()
            self._decoder.process_raw(pcm, full_utt=True)
            self._decoder.end_utt()
            if self._decoder.hyp() is not None:
                words = [
                    HeardWord(
                        word=_VARIANT.sub("", found.word),
                        start_s=found.start_frame * _FRAME_S,
                        end_s=(found.end_frame + 1) * _FRAME_S,  # inclusive there
                        confidence=min(1.0, max(0.0, found.prob)),
                    )
                    for found in self._decoder.seg()
                    if found.word[0] not in "<["  # <s>, <sil>, [NOISE]
                ]
        text = " ".join(word.word for word in words)
        return Transcript(
            text=text,
            words=tuple(words),
            confidence=mean_confidence(words),
            compression_ratio=compression_ratio(text),
            language="en",
            provenance=self.provenance,
        )


def _found(folder: Path) -> dict[str, str]:
    """Acoustic model, language model and dictionary of a folder, by what they are called."""
    if not folder.is_dir():
        raise ConfigError(f"teacher pocketsphinx: {folder}: no such folder")
    kinds = {
        "hmm": [path.parent for path in folder.rglob("mdef")],
        "lm": sorted(folder.glob("*.lm.bin")),
        "dict": sorted(folder.glob("*.dict")),
    }
    for name, paths in kinds.items():
        if not paths:
            raise ConfigError(
                f"teacher pocketsphinx: {folder}: has no {name} (expected a folder with mdef, "
                "a *.lm.bin and a *.dict)"
            )
    return {name: str(paths[0].relative_to(folder)) for name, paths in kinds.items()}
