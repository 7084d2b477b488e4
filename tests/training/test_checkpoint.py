"""Checkpoints: whole or absent, safe to open, averaged like with like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_runtime.errors import ConfigError
from training import checkpoint
from training.config import encoder_config
from training.model import Encoder


def save_encoder(path: Path, encoder: Encoder, prefix: str = "model") -> None:
    tensors = {f"{prefix}.{n}": p for n, p in encoder.state_dict().items()}
    checkpoint.save(path, tensors, {"step": 1, "encoder": encoder.config.to_json()})


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    encoder = Encoder(encoder_config("XS", "cnn"))
    save_encoder(tmp_path / "a.safetensors", encoder)
    loaded, facts = checkpoint.load_encoder(tmp_path / "a.safetensors")
    assert facts["step"] == 1
    assert loaded.config == encoder.config
    for one, other in zip(loaded.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]  # no temporary file left


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\xff" * 64])
def test_anything_else_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.safetensors"):
        checkpoint.load(path)
    with pytest.raises(ConfigError, match="gone"):
        checkpoint.load(tmp_path / "gone.safetensors")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_encoder(path, Encoder(encoder_config("XS", "cnn")))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=r"a\.safetensors"):
        checkpoint.load_encoder(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_the_average_is_the_mean_of_the_weights(tmp_path: Path) -> None:
    encoders = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        encoders.append(Encoder(encoder_config("XS", "cnn")))
        save_encoder(tmp_path / f"{seed}.safetensors", encoders[-1])
    mean, _ = checkpoint.average(sorted(tmp_path.iterdir()))
    expected = sum(encoder.head.weight for encoder in encoders) / 3
    torch.testing.assert_close(mean.head.weight, expected)


def test_only_like_is_averaged_with_like(tmp_path: Path) -> None:
    save_encoder(tmp_path / "1.safetensors", Encoder(encoder_config("XS", "cnn")))
    save_encoder(tmp_path / "2.safetensors", Encoder(encoder_config("XS", "conformer")))
    with pytest.raises(ConfigError, match="different encoder"):
        checkpoint.average(sorted(tmp_path.iterdir()))
