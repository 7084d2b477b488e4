"""A language of tones, and a bundle that understands it.

Word `tK` is a tone at the centre of mel bin K; the model of `tests.models.nemo_model` says which
bin is loudest. So sound with known words and times can be made, without a trained network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.contract.bundle import Manifest
from tests import models

RATE = 16_000
WORD_S, GAP_S = 0.4, 0.24


def write_tone_bundle(
    path: Path,
    *,
    lm: str | None = None,
    lexicon: bytes | None = None,
    confidence: str | None = None,
) -> Bundle:
    """A bundle of one chunk size, 160 ms; `lm` is ARPA text, `confidence` JSON."""
    manifest = Manifest(
        name="tones",
        version="1.0",
        release_counter=1,
        created="2026-01-02T03:04:05+00:00",
        frontend="nemo_exact",
        sample_rate=RATE,
        chunk_frames=(16,),
        default_chunk_ms=160,
        precisions={"float32": "encoder.onnx"},
        metrics={"wer": {"160": 0.0}},
        licence="Apache-2.0",
        training_data={"sounds": "none"},
        runtime={"onnxruntime": ">=1.17"},
        lm=None if lm is None else "lm.arpa",
        lexicon=None if lexicon is None else "lexicon.bin",
        confidence=None if confidence is None else "confidence.json",
        decoding={} if lm is None else {"lm_weight": 0.25, "word_bonus": 2.0},
    )
    tokens = models.write_tokens(path.parent / "tokens.txt", models.NEMO_TOKENS)
    model = models.nemo_model().SerializeToString()
    files: dict[str, Path | bytes] = {"encoder.onnx": model, "tokens.txt": tokens}
    if lm is not None:
        files["lm.arpa"] = lm.encode()
    if lexicon is not None:
        files["lexicon.bin"] = lexicon
    if confidence is not None:
        files["confidence.json"] = confidence.encode()
    return write_bundle(path, manifest, files)


def say(text: str, *, lead_s: float = 0.3, tail_s: float = 0.5) -> NDArray[np.float32]:
    """The sound of words such as "t20 t35"; a comma after a word is a pause of 1.5 s."""
    parts = [silence(lead_s)]
    for word in text.split():
        parts += [tone(int(word.strip("t,"))), silence(1.5 if word.endswith(",") else GAP_S)]
    return np.concatenate([*parts[:-1], silence(tail_s)])


def word_starts(text: str, *, lead_s: float = 0.3) -> list[float]:
    """Seconds at which each word of `say(text)` begins."""
    starts, now = [], lead_s
    for word in text.split():
        starts.append(now)
        now += WORD_S + (1.5 if word.endswith(",") else GAP_S)
    return starts


def silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(round(seconds * RATE), np.float32)


def tone(mel_bin: int) -> NDArray[np.float32]:
    times = np.arange(round(WORD_S * RATE)) / RATE
    fade = np.minimum(1, np.minimum(times, times[::-1]) / 0.01)  # clicks are loud in every bin
    return (0.3 * fade * np.sin(2 * np.pi * centre_hz(mel_bin) * times)).astype(np.float32)


def centre_hz(mel_bin: int) -> float:
    """Centre of a bin of Slaney's scale, 80 bins over 0 to 8000 Hz."""
    top = 15 + 27 * np.log(8000 / 1000) / np.log(6.4)
    mel = (mel_bin + 1) * top / 81
    return float(mel * 200 / 3 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
