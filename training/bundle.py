"""From checkpoint to bundle: round, write the graph, prove it equal to torch, publish."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx
import torch

from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.contract.bundle import MANIFEST_NAME, TOKENS_NAME, Manifest
from edge_runtime.decoding.ngram import unigrams
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.lexicon import Lexicon
from training import checkpoint
from training.config import PATCH_FRAMES
from training.export import contract_metadata, parity, streaming_onnx
from training.model import Encoder
from training.update import Parent, check_parent, round_update

log = logging.getLogger(__name__)

CHUNKS_MS = (80, 160, 320, 640)
ENCODER_NAME = "encoder.onnx"
CARD_NAME = "model-card.md"
CONFIDENCE_NAME = "confidence.json"
LM_NAME = "lm.arpa"
LEXICON_NAME = "lexicon.bin"
TOLERANCE = 1e-4  # log-probabilities, streaming ONNX against offline torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a bundle says of itself."""

    name: str = "en-demo"
    version: str = "0.1.0"
    release_counter: int = 1
    default_chunk_ms: int = 320
    licence: str = "Apache-2.0"
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training_data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decoding: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parent: str | None = None  # SHA-256 of the manifest of the bundle it succeeds

    def trained_on(self, data: Sequence[Path]) -> Release:
        """The same, with the digests of these files after those of what was trained on before."""
        sets = [{"file": path.name, "sha256": _sha256(path)} for path in data]
        before = self.training_data.get("datasets", [])
        return dataclasses.replace(
            self, training_data={**self.training_data, "datasets": [*before, *sets]}
        )


def _sha256(path: Path) -> str:
    """Raises ConfigError for a file that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def successor(parent: Path) -> tuple[Release, Path | None]:
    """What a bundle made from the one at `parent` says of itself, and its language model.

    Raises BundleError for a parent that does not verify.
    """
    bundle = Bundle.open(parent)
    before = bundle.manifest
    release = Release(
        name=before.name,
        version=_above(before.version),
        release_counter=before.release_counter + 1,
        default_chunk_ms=before.default_chunk_ms,
        licence=before.licence,
        training_data=before.training_data,
        decoding=before.decoding,
        parent=_sha256(parent / MANIFEST_NAME),
    )
    return release, bundle.file(before.lm) if before.lm is not None else None


def _above(version: str) -> str:
    """0.4.0 -> 0.5.0; a version that is no three numbers gets one more at its end."""
    numbers = version.split(".")
    if len(numbers) == 3 and all(number.isdigit() for number in numbers):
        return f"{numbers[0]}.{int(numbers[1]) + 1}.0"
    return f"{version}.1"


@torch.no_grad()
def round_to_half(encoder: Encoder) -> None:
    """Round every matrix to what float16 can hold, so that torch and the stored graph agree."""
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half().float())


def encoder_onnx(encoder: Encoder, *, window: int, half: bool) -> onnx.ModelProto:
    """The graph, proved equal to torch.

    Raises:
        BundleError: the two differ by more than `TOLERANCE`.
    """
    model = streaming_onnx(encoder, contract_metadata(encoder, window=window), half=half)
    difference = parity(model, encoder)
    log.info("streaming ONNX against offline torch: largest difference %.1e", difference)
    if not difference <= TOLERANCE:
        raise BundleError(
            f"the graph differs from torch by {difference:.1e}",
            file=ENCODER_NAME,
            expected=f"at most {TOLERANCE:.0e}",
            remedy="this is a bug in the export, not in your data: please report it",
        )
    return model


def export_bundle(
    checkpoints: Sequence[Path],
    tokens: Path,
    out: Path,
    release: Release,
    *,
    half: bool = True,
    confidence: Path | None = None,
    lm: Path | None = None,
    card: Path | None = None,
    weights_out: Path | None = None,
    parent: Parent | None = None,
) -> Bundle:
    """Average `checkpoints`, export, and write the bundle at `out`.

    Args:
        checkpoints: one file, or several of one run to average.
        tokens: `tokens.txt` of the tokenizer.
        lm: a word language model, as ARPA text; its words become the bundle's lexicon.
        weights_out: where to write the very weights that were exported, for fine-tuning.
        parent: weights are rounded to a few steps from its, which makes the delta small.

    Raises:
        ConfigError: a checkpoint cannot be read or they differ in shape; the parent's weights are
            not those of its bundle.
        BundleError: the graph is not equal to torch, or the bundle does not verify.
    """
    encoder, facts = (
        checkpoint.average(list(checkpoints))
        if len(checkpoints) > 1
        else checkpoint.load_encoder(checkpoints[0])
    )
    if parent is not None:
        before, _ = checkpoint.load_encoder(parent.weights)
        if half:
            round_to_half(before)
        check_parent(before, parent.encoder, half=half)
        ratio = round_update(encoder, before, parent.step, half=half)
        log.info("update rounded to steps from the parent: %.1f dB of signal to noise", ratio)
    elif half:
        round_to_half(encoder)
    window = release.default_chunk_ms // 10
    model = encoder_onnx(encoder, window=window, half=half)
    files: dict[str, Path | bytes] = {
        ENCODER_NAME: model.SerializeToString(),
        TOKENS_NAME: tokens,
    }
    if confidence is not None:
        files[CONFIDENCE_NAME] = confidence
    words = {} if lm is None else dict(unigrams(lm))
    if lm is not None:
        files[LM_NAME] = lm
    if words:  # KenLM's binary files do not say theirs
        files[LEXICON_NAME] = Lexicon.of(words).to_bytes()
    if card is not None:
        files[CARD_NAME] = card
    if weights_out is not None:
        checkpoint.save(
            weights_out,
            {
                f"model.{name}": tensor.half() if half and tensor.ndim > 1 else tensor
                for name, tensor in encoder.state_dict().items()
            },
            {"step": facts["step"], "encoder": encoder.config.to_json(), "recipe": facts["recipe"]},
        )
    manifest = Manifest(
        name=release.name,
        version=release.version,
        release_counter=release.release_counter,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        frontend="knf_nemo",
        sample_rate=16_000,
        chunk_frames=tuple(ms // 10 for ms in CHUNKS_MS),
        default_chunk_ms=release.default_chunk_ms,
        precisions={"float32": ENCODER_NAME},
        runtime={"onnxruntime": ">=1.20"},
        metrics=release.metrics,
        parent=release.parent,
        licence=release.licence,
        training_data=release.training_data,
        confidence=CONFIDENCE_NAME if confidence is not None else None,
        lm=LM_NAME if lm is not None else None,
        lexicon=LEXICON_NAME if words else None,
        decoding=release.decoding,
    )
    assert window % PATCH_FRAMES == 0
    return write_bundle(out, manifest, files)
