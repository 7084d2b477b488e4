"""Encoders in which every weight matters.

A fresh encoder's branches are silent (see `training.model.Encoder`), so with it any mistake in
caches or masks would go unnoticed.
"""

from __future__ import annotations

import torch
from torch import nn

from training.config import ARMS, EncoderConfig
from training.model import Encoder


@torch.no_grad()
def random_encoder(config: EncoderConfig, *, seed: int = 0) -> Encoder:
    """An encoder of random weights, all branches as loud as the stream they join; in eval mode."""
    torch.manual_seed(seed)
    encoder = Encoder(config)
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.normal_(module.bias, std=0.1)
    encoder.head.weight.mul_(0.5)  # log-probabilities of an ordinary range
    return encoder.eval()


def small_config(arm: str, **overrides: object) -> EncoderConfig:
    """Four blocks that end as the arm does, 64 wide, 33 classes."""
    fields = {"d_model": 64, "n_heads": 4, "mixers": ARMS[arm][-4:], "left_context": 12}
    return EncoderConfig(**{**fields, "vocab_size": 33, **overrides})


def small(arm: str, **overrides: object) -> Encoder:
    return random_encoder(small_config(arm, **overrides))
