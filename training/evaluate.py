"""Word and character error rates, of a checkpoint under masks or of a bundle as devices run it.

The two agree because chunked equals masked; the first is batched and quick, the second also runs
the decoder, the end-pointing and the tail flush that a user meets.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_runtime.audio import open_audio
from edge_runtime.bundle import Bundle
from edge_runtime.decoding import BeamConfig, GreedyConfig
from edge_runtime.features import open_frontend
from edge_runtime.judging import recognise
from edge_runtime.manifest import Utterance
from edge_runtime.metrics import ErrorCounts, char_errors, word_errors
from edge_runtime.recognizer import Recognizer
from training.checkpoint import load_encoder
from training.model import Encoder, token_lengths
from training.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One utterance, recognised."""

    utterance: Utterance
    hypothesis: str

    @property
    def words(self) -> ErrorCounts:
        return word_errors(self.utterance.text, self.hypothesis)

    @property
    def characters(self) -> ErrorCounts:
        return char_errors(self.utterance.text, self.hypothesis)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Error rates of one system at one chunk size; None is the whole utterance at once."""

    chunk_ms: int | None
    results: tuple[Result, ...]

    @property
    def words(self) -> ErrorCounts:
        return sum((result.words for result in self.results), ErrorCounts())

    @property
    def characters(self) -> ErrorCounts:
        return sum((result.characters for result in self.results), ErrorCounts())

    def by_speaker(self) -> dict[str, ErrorCounts]:
        groups: dict[str, ErrorCounts] = defaultdict(ErrorCounts)
        for result in self.results:
            groups[result.utterance.speaker or "unknown"] += result.words
        return dict(sorted(groups.items()))

    def worst(self, count: int) -> list[Result]:
        """Most word errors first: the utterances that cost the most, not the shortest ones."""
        return sorted(self.results, key=lambda r: -r.words.errors)[:count]

    def to_json(self, *, worst: int = 0) -> dict[str, Any]:
        return {
            "chunk_ms": self.chunk_ms,
            "utterances": len(self.results),
            "wer": self.words.rate,
            "cer": self.characters.rate,
            "words": dataclasses.asdict(self.words),
            "speakers": {name: counts.rate for name, counts in self.by_speaker().items()},
            "worst": [
                {
                    "audio_filepath": str(r.utterance.audio_filepath),
                    "reference": r.utterance.text,
                    "hypothesis": r.hypothesis,
                }
                for r in self.worst(worst)
            ],
        }

    def to_text(self, *, worst: int = 0) -> str:
        name = "offline" if self.chunk_ms is None else f"{self.chunk_ms} ms"
        counts = self.words
        lines = [
            f"{name}: WER {counts.rate:.2%}, CER {self.characters.rate:.2%} "
            f"({counts.reference_length} words in {len(self.results)} utterances; "
            f"{counts.substitutions} substituted, {counts.deletions} deleted, "
            f"{counts.insertions} inserted)"
        ]
        speakers = self.by_speaker()
        if len(speakers) > 1:
            lines += [f"  {speaker:24} {c.rate:8.2%}" for speaker, c in speakers.items()]
        for r in self.worst(worst):
            lines += [f"  {r.utterance.audio_filepath}", f"    ref: {r.utterance.text}",
                      f"    hyp: {r.hypothesis}"]  # fmt: skip
        return "\n".join(lines)


def greedy_ids(log_probs: torch.Tensor) -> list[int]:
    """Best path (T, V) -> unit ids: repeats merged, blanks dropped."""
    best = torch.unique_consecutive(log_probs.argmax(-1)).tolist()
    return [unit for unit in best if unit != log_probs.shape[-1] - 1]


@torch.inference_mode()
def decode_features(
    encoder: Encoder,
    features: Sequence[NDArray[Any]],
    chunk: int | None,
    *,
    batch_frames: int = 12_000,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Log-probabilities (T, V) of each feature matrix (frames, 80), with its index; in batches."""
    order = sorted(range(len(features)), key=lambda i: len(features[i]))
    left = encoder.config.left_context if chunk else None
    while order:
        longest = max(1, len(features[order[-1]]))
        batch = [order.pop() for _ in range(min(len(order), max(1, batch_frames // longest)))]
        x = np.zeros((len(batch), longest, 80), np.float32)
        for row, index in enumerate(batch):
            x[row, : len(features[index])] = features[index]
        lengths = torch.tensor([len(features[index]) for index in batch])
        log_probs = encoder(torch.from_numpy(x), lengths, chunk=chunk, left=left)
        for row, (index, tokens) in enumerate(
            zip(batch, token_lengths(lengths).tolist(), strict=True)
        ):
            yield index, log_probs[row, :tokens]


def load_features(
    utterances: Iterable[Utterance], *, tail_s: float = 0.4
) -> list[NDArray[np.float32]]:
    """Log-mel features of audio files and of the silence with which the recogniser flushes."""
    frontend = open_frontend("knf_nemo")
    tail = np.zeros(round(16_000 * tail_s), np.float32)
    found = []
    for utterance in utterances:
        with open_audio(utterance.audio_filepath) as source:
            found.append(frontend.compute(np.concatenate([*source.blocks(), tail])))
    return found


def evaluate_checkpoint(
    checkpoint: Path, tokenizer: Path, utterances: Sequence[Utterance], chunk_ms: int | None
) -> Report:
    """Greedy decoding of audio files under the mask of a chunk size."""
    encoder, _ = load_encoder(checkpoint)
    units = Tokenizer.load(tokenizer)
    chunk = None if chunk_ms is None else chunk_ms // 40
    texts = [""] * len(utterances)
    for index, log_probs in decode_features(encoder, load_features(utterances), chunk):
        texts[index] = units.decode(greedy_ids(log_probs))
    return Report(chunk_ms, tuple(Result(u, t) for u, t in zip(utterances, texts, strict=True)))


def evaluate_bundle(
    bundle: Path,
    utterances: Sequence[Utterance],
    chunk_ms: int,
    *,
    beam: int = 0,
    precision: str = "float32",
) -> Report:
    """The recogniser itself over audio files: finals of each file joined.

    With `beam` hypotheses it searches, with the bundle's language model if it has one.
    """
    decoder = BeamConfig(beam=beam, **Bundle.open(bundle).decoding()) if beam else GreedyConfig()
    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, decoder=decoder, precision=precision)
    results = []
    for utterance in utterances:
        with open_audio(utterance.audio_filepath) as source:
            finals = recognise(recognizer, source.blocks())
        text = " ".join(final.text for final in finals if final.text)
        results.append(Result(utterance, text))
    return Report(chunk_ms, tuple(results))
