"""Checkpoints: one safetensors file of weights and moments, facts as JSON in its header.

Nothing is pickled, so opening a checkpoint from a stranger runs none of their code.  A file is
written beside its final name, fsynced and renamed: a killed training leaves the previous one whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edge_runtime.errors import ConfigError
from edge_runtime.files import sync_directory
from training.config import EncoderConfig
from training.model import Encoder


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write `tensors` and JSON-able `facts` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
        part,
        metadata={"vitconformer": json.dumps(facts, sort_keys=True)},
    )
    part.chmod(0o644)  # safetensors makes 0600
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)  # the rename itself must survive a power cut


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        ConfigError: the file is missing, is no safetensors file, or was not written by `save`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {}).get("vitconformer")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: not a readable checkpoint ({error})") from error
    if facts is None:
        raise ConfigError(
            f"{path}: a safetensors file, but not a checkpoint of `vitconformer train`"
        )
    return tensors, json.loads(facts)


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under ``prefix.``, without it."""
    return {
        k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")
    }


def load_encoder(path: Path, *, weights: str | None = None) -> tuple[Encoder, dict[str, Any]]:
    """The encoder in a checkpoint, in eval mode: its moving average, or what `weights` names."""
    tensors, facts = load(path)
    chosen = weights or ("ema" if any(name.startswith("ema.") for name in tensors) else "model")
    state = prefixed(tensors, chosen)
    encoder = Encoder(EncoderConfig.from_json(facts["encoder"]))
    try:
        encoder.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        raise ConfigError(f"{path}: weights {chosen!r} do not fit the encoder: {error}") from error
    return encoder.eval(), facts


@torch.no_grad()
def average(paths: list[Path]) -> tuple[Encoder, dict[str, Any]]:
    """The encoder whose weights are the mean over several checkpoints of one run."""
    encoder, facts = load_encoder(paths[-1])
    sums = {
        name: torch.zeros_like(p, dtype=torch.float64) for name, p in encoder.named_parameters()
    }
    for path in paths:
        other, other_facts = load_encoder(path)
        if other_facts["encoder"] != facts["encoder"]:
            raise ConfigError(
                f"{path}: a different encoder than {paths[-1]}; only like averages with like"
            )
        for name, parameter in other.named_parameters():
            sums[name] += parameter.double()
    for name, parameter in encoder.named_parameters():
        parameter.copy_(sums[name] / len(paths))
    return encoder, facts
