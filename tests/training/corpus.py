"""A tiny corpus of tones and the words for them, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

WORDS = (
    "the cat sat on a mat while seven quick brown foxes jumped over it and a lazy dog's bone "
    "was hidden by two grey owls who never knew why they'd come x z"
).split()


def sentence(index: int) -> str:
    rng = np.random.default_rng(index)
    return " ".join(rng.choice(WORDS, int(rng.integers(1, 8))))


def make_corpus(folder: Path, *, count: int = 12, seed: int = 0) -> Path:
    """`count` recordings of 0.3 to 2 s and their manifest; -> its path."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        seconds = float(rng.uniform(0.3, 2.0))
        time = np.arange(int(seconds * 16_000)) / 16_000
        tone = 0.1 * np.sin(2 * np.pi * rng.uniform(100, 3000) * time) * (1 + np.sin(20 * time))
        name = f"{index:03d}.wav"
        soundfile.write(folder / name, tone + 0.001 * rng.standard_normal(len(time)), 16_000)
        entry = {
            "audio_filepath": name,
            "duration": len(time) / 16_000,
            "text": sentence(1000 * seed + index),
            "speaker": f"tone-{index % 3}",
        }
        lines.append(json.dumps(entry) + "\n")
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(lines))
    return manifest
