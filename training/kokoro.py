"""Kokoro-82M as a voice: a StyleTTS 2 model (arXiv:2306.07691), Apache-2.0, run by onnxruntime.

A speaker is a style vector, so speakers can be mixed: `Voice.id` is one name, or two with a "+"
between, which speaks with the mean of both.  `folder()` holds what `make kokoro` puts there::

    model.onnx      tokens int64 [1, n], style f32 [1, 256], speed f32 [1] -> f32 [samples], 24 kHz
    vocab.json      phoneme (IPA letters of espeak-ng, punctuation) -> token
    voices/*.bin    f32 [510, 1, 256], the style of a speaker for each length in phonemes

It takes two fifths of real time on one core, three fifths of that in convolutions
(`training.integer_conv`): several times what the statistical voices take.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.integer_conv import convolutions_as_products

Array = npt.NDArray[np.float32]

RATE = 24_000  # Hz
_ENDS = ".!?"


def folder() -> Path:
    """Where the model lies: $VITCONFORMER_KOKORO, or in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VITCONFORMER_KOKORO") or Path(cache, "vitconformer", "kokoro"))


def has(voice: str) -> bool:
    """Whether the model and every speaker of `voice` are there."""
    files = ["model.onnx", "vocab.json", *(f"voices/{name}.bin" for name in voice.split("+"))]
    return all(folder().joinpath(file).is_file() for file in files)


def phonemes(spoken: str, british: bool) -> str:
    """IPA with stress marks; commas and the end mark of `spoken` stay."""
    accent = "en-gb" if british else "en-us"
    command = ["espeak-ng", "-q", "--ipa", "-v", accent, "--", spoken]
    # A line of output is a clause: the commas of the input are where lines end.
    clauses = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split("\n")
    ipa = ", ".join(filter(None, (" ".join(clause.split()) for clause in clauses)))
    return ipa + (spoken[-1] if spoken[-1] in _ENDS else ".")


def read(voice: str, spoken: str, speed: float) -> Array | None:
    """Samples f32 [n] at `RATE`; None for a line longer than a style knows."""
    vocabulary = _vocabulary()
    ipa = phonemes(spoken, british=voice.startswith("b"))
    tokens = [vocabulary[letter] for letter in ipa if letter in vocabulary]
    style = _style(voice)
    if not 0 < len(tokens) < len(style):
        return None
    feed = {
        "tokens": np.array([[0, *tokens, 0]], np.int64),
        "style": style[len(tokens)],
        "speed": np.array([speed], np.float32),
    }
    samples: Array = _session().run(None, feed)[0].reshape(-1)
    return samples


@functools.cache
def _vocabulary() -> dict[str, int]:
    vocabulary: dict[str, int] = json.loads(folder().joinpath("vocab.json").read_text("utf-8"))
    return vocabulary


@functools.cache
def _style(voice: str) -> Array:
    """f32 [510, 1, 256]"""
    styles = [
        np.fromfile(folder() / "voices" / f"{name}.bin", "<f4").reshape(-1, 1, 256)
        for name in voice.split("+")
    ]
    mean: Array = np.mean(styles, axis=0)
    return mean


@functools.cache
def _session() -> Any:
    import onnx
    import onnxruntime

    model = onnx.load(folder() / "model.onnx")
    convolutions_as_products(model)
    options = onnxruntime.SessionOptions()
    # Without VNNI the fast products of bytes overflow (edge_runtime.precision).
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = 1  # `synth --jobs` is what uses more cores
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)
