"""A fine-tuned model as its parent and a few steps for every weight, so that sending it is cheap.

Fine-tuning makes every low bit of every weight new, and new bits cannot be compressed away.  They
say nothing either: how far a weight was moved matters to a few bits.  `round_update` moves each
weight by a whole number of steps, so the entropy of the update is chosen, not found.  What comes
out is a model like any other: exported, judged, signed, and given byte for byte by a delta.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edge_runtime.errors import ConfigError
from edge_runtime.ota import delta
from training.export import streaming_onnx
from training.model import Encoder

FINEST = -24  # exponent of two of the smallest step: what float16 can hold
STEP = 0.25  # of an update's size; docs/updates.md has what others cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What an update is counted from, and how finely."""

    weights: Path  # the checkpoint that the parent bundle was exported from
    encoder: Path  # that bundle's model, float
    step: float = STEP


@torch.no_grad()
def round_update(encoder: Encoder, parent: Encoder, step: float, *, half: bool) -> float:
    """Rounds, in place, what every parameter is more than the parent's; -> signal to noise, dB.

    Each parameter has a step of its own, a power of two of at most `step` times the root mean
    square of its update: a power of two, because then the sums are exact where the format holds
    them, and a delta finds the step without being told.  Signal and noise are update and rounding,
    each relative to the update of its parameter.

    Args:
        parent: as it was exported: matrices hold what float16 can, where `half` is set.
        half: matrices are stored as float16.

    Raises:
        ConfigError: the two have not the same shape.
    """
    if encoder.config != parent.config:
        raise ConfigError(
            f"the parent's weights are of another encoder: {parent.config} and {encoder.config}; "
            "an update leads from a model to its own fine-tuned successor"
        )
    signal = noise = 0.0
    before = dict(parent.named_parameters())
    for name, parameter in encoder.named_parameters():
        old, new = (each.double().numpy() for each in (before[name], parameter))
        moved = new - old
        size = float(np.sqrt(np.mean(moved**2)))
        if not size:
            continue
        length = 2.0 ** max(FINEST, math.floor(math.log2(step * size)))
        stored = np.float16 if half and parameter.ndim > 1 else np.float32
        rounded = (old + length * np.rint(moved / length)).astype(stored)
        parameter.copy_(torch.from_numpy(rounded.astype(np.float32)))
        signal += moved.size
        noise += float(np.sum((rounded - new) ** 2)) / size**2
    return 10 * math.log10(signal / noise) if noise else math.inf


def check_parent(parent: Encoder, file: Path, *, half: bool) -> None:
    """Raises ConfigError unless `file`, a bundle's encoder, was exported from these weights.

    Steps from other weights are no steps from what devices have: every delta would be a large one.
    """
    exported = streaming_onnx(parent, {}, half=half).SerializeToString()
    if dict(_constants(exported)) != dict(_constants(file.read_bytes())):
        raise ConfigError(
            f"--parent-weights: {file} was not made from them: give the file that `vitconformer "
            "export --checkpoint-out` wrote when it made that bundle, and the same --weights"
        )


def _constants(model: bytes) -> Iterator[tuple[str, bytes]]:
    for tensor in delta.tensors(model):
        yield tensor.name, model[tensor.offset : tensor.offset + tensor.length]
