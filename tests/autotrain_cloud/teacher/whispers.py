"""Tiny Whisper checkpoints, made when the tests run: real format, real code, no download.

The encoder stays random.  The decoder of a taught one has learned a few texts by heart, one for
each sound, which is enough to tell a teacher that works from one that does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

Samples = NDArray[np.float32]
with warnings.catch_warnings():  # it never closes the file it reads, once per process
    warnings.simplefilter("ignore", ResourceWarning)
    get_tokenizer(multilingual=True, language="en", task="transcribe")

DIMS = ModelDimensions(
    n_mels=80, n_audio_ctx=1500, n_audio_state=48, n_audio_head=2, n_audio_layer=1,
    n_vocab=51865, n_text_ctx=448, n_text_state=48, n_text_head=2, n_text_layer=2,
)  # fmt: skip


def sound(seed: int, seconds: float = 2.0) -> Samples:
    """Noise through a filter of its own."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(round(16_000 * seconds)))
    band = np.exp(-np.square(np.linspace(0, 8, len(spectrum)) - 1 - 1.5 * seed))
    filtered = np.fft.irfft(spectrum * band)
    return (0.3 * filtered / np.abs(filtered).max()).astype(np.float32)


def save(path: Path, model: Whisper) -> Path:
    torch.save({"dims": vars(model.dims), "model_state_dict": model.state_dict()}, path)
    return path


def untaught(seed: int = 0) -> Whisper:
    torch.manual_seed(seed)
    model = Whisper(DIMS)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)
    # Untrained, the encoder would say where it is and hardly what it hears.
    model.encoder.positional_embedding.mul_(0.02)
    with torch.no_grad():
        for convolution in (model.encoder.conv1, model.encoder.conv2):
            convolution.weight.mul_(4)
    return model


def taught(lessons: Mapping[str, tuple[str, Samples]], steps: int = 45) -> Whisper:
    """`lessons`: text -> language and sound."""
    model = untaught()
    tokenizer = get_tokenizer(multilingual=True, language="en", task="transcribe")
    eot, none = tokenizer.eot, tokenizer.no_timestamps
    rows = []
    for text, (language, _) in lessons.items():
        own = get_tokenizer(multilingual=True, language=language, task="transcribe")
        rows.append([*own.sot_sequence, none, *own.encode(" " + text), eot])
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [eot] * (longest - len(row)) for row in rows])
    mels = [log_mel_spectrogram(pad_or_trim(samples)) for _, samples in lessons.values()]
    with torch.no_grad():
        features = model.encoder(torch.stack(mels))
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=5e-3)
    for _ in range(steps):
        logits = model.decoder(tokens[:, :-1], features)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
