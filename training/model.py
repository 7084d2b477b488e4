"""The ViT-Conformer encoder: offline-masked and streaming in one file.

Decisions:

* patch embedding as in ViT, over 4 frames x 80 mels plus 4 frames of left context -> 25 Hz tokens;
* pre-norm macaron blocks, x + ½FFN, x + slot 1, x + slot 2, x + ½FFN, LayerNorm; each slot is a
  causal depthwise convolution or rotary self-attention (`config.ARMS`);
* attention sees its own chunk and `left_context` tokens before it ("chunk-aware look-ahead"),
  so latency is the chunk and does not add up over layers;
* LayerNorm everywhere: no batch statistics, so streaming and training compute the same function.

The one invariant: feeding chunks through `Encoder.step` gives what `Encoder.forward` gives under
the mask of the same chunk size.  Both call the same `mix` methods; they differ in where the left
context comes from (`State`, or the same tensor) and in the mask.

    encoder = Encoder(encoder_config("XS", "vit_conformer"))
    offline = encoder(features, lengths, chunk=8, left=64)     # (B, T, 80) -> (B, T/4, V)
    state = encoder.initial_state(batch=1)
    for window in windows:                                     # (B, 4*chunk, 80)
        logprobs, state = encoder.step(window, window_lengths, state)
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import N_MELS, PATCH_CONTEXT, PATCH_FRAMES, EncoderConfig

# Global log-mel statistics of speech under the `knf_nemo` front end: they only set the scale of the
# input, so they are constants of the architecture rather than of a data set.
FEATURE_MEAN = -8.0
FEATURE_STD = 4.0


@dataclasses.dataclass(frozen=True)
class State:
    """What a stream carries from window to window.  All zeros is a fresh stream."""

    channel: Tensor  # (B, attention slots · 2H, left tokens, D): K heads, V heads of each slot
    time: Tensor  # (B, 1 + convolution slots, rows, width)
    position: Tensor  # (B,) int64, tokens seen so far


def rope_cycles(head_dim: int, period: int, base: float = 1000.0) -> Tensor:
    """Rotary frequencies as whole cycles per `period` tokens, int64 of shape (head_dim / 2,).

    RoPE (arXiv:2104.09864) with each frequency rounded so that `period` tokens are a whole number
    of turns.  The turn of a position is then an integer, ``position * cycles % period``, and a
    stream that runs for days has angles as exact as a fresh one.
    """
    radians = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return (radians * period / (2 * math.pi)).round().clamp(min=1).long()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (B, H, T, D) by angles (B|1, 1, T, D), first half of `sin` negative."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([high, low], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention of q (B, H, T, D) over k, v (B, H, L+T, D)."""
    if q.device.type == "cpu":
        # In bfloat16 the backward pass of torch's CPU kernel takes eight times as long.
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class FeedForward(nn.Module):
    def __init__(self, d_model: int, mult: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, mult * d_model)
        self.down = nn.Linear(mult * d_model, d_model)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(F.silu(self.up(self.norm(x))), self.dropout, self.training)
        return F.dropout(self.down(h), self.dropout, self.training)


class ConvMixer(nn.Module):
    """LN -> pointwise GLU -> causal depthwise convolution -> LN -> SiLU -> pointwise."""

    def __init__(self, d_model: int, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.inner_norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, d_model)
        self.width = width
        self.kernel = kernel
        self.dropout = dropout

    def mix(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, T, d), past (B, kernel-1, width) or None at a start -> (B, T, d), next past."""
        h = F.glu(self.up(self.norm(x)), dim=-1)  # (B, T, width)
        if past is None:
            h = F.pad(h, (0, 0, self.kernel - 1, 0))
        else:
            h = torch.cat([past, h], dim=1)  # (B, kernel-1+T, width)
        past = h[:, h.shape[1] - (self.kernel - 1) :]
        # As a two-dimensional convolution of height 1, which has much the faster CPU kernels.
        h = F.conv2d(
            h.transpose(1, 2).unsqueeze(2),  # (B, width, 1, kernel-1+T)
            self.depthwise.weight.unsqueeze(2),
            self.depthwise.bias,
            groups=self.width,
        )
        h = h.squeeze(2).transpose(1, 2)  # (B, T, width)
        h = self.down(F.silu(self.inner_norm(h)))
        return F.dropout(h, self.dropout, self.training), past


class AttentionMixer(nn.Module):
    """LN -> rotary multi-head self-attention.  Keys are rotated when written: a cache is final."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.n_heads = n_heads
        self.dropout = dropout

    def mix(
        self, x: Tensor, past: Tensor | None, angles: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, d), past (B, 2H, L, D) or None, mask (B|1, 1, T|1, L+T) True where seen."""
        batch, tokens, d = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, tokens, 3 * self.n_heads, -1).transpose(1, 2)
        qk, v = qkv.split([2 * self.n_heads, self.n_heads], dim=1)
        q, k = rotate(qk, *angles).chunk(2, dim=1)  # each (B, H, T, D)
        kv = torch.cat([k, v], dim=1)  # (B, 2H, T, D)
        if past is not None:
            kv = torch.cat([past, kv], dim=2)  # (B, 2H, L+T, D)
        k, v = kv.chunk(2, dim=1)
        h = attend(q, k, v, mask)  # (B, H, T, D)
        h = self.out(h.transpose(1, 2).reshape(batch, tokens, d))
        return F.dropout(h, self.dropout, self.training), kv


class Block(nn.Module):
    """A macaron block (arXiv:2005.08100) whose two mixer slots are named by the configuration."""

    def __init__(self, config: EncoderConfig, mixers: tuple[str, str]) -> None:
        super().__init__()
        d, dropout = config.d_model, config.dropout
        self.ffn1 = FeedForward(d, config.ffn_mult, dropout)
        self.slots = nn.ModuleList(
            ConvMixer(d, config.conv_width, config.conv_kernel, dropout)
            if mixer == "conv"
            else AttentionMixer(d, config.n_heads, dropout)
            for mixer in mixers
        )
        self.ffn2 = FeedForward(d, config.ffn_mult, dropout)
        self.norm = nn.LayerNorm(d)


class PatchEmbedding(nn.Module):
    """Overlapping patches of log-mel frames -> tokens; the overlap lies wholly in the past."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.proj = nn.Linear((PATCH_CONTEXT + PATCH_FRAMES) * N_MELS, d_model)
        self.norm = nn.LayerNorm(d_model)

    def mix(self, features: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """features (B, 4T, 80), past (B, 4, 80) raw or None -> tokens (B, T, d), next past."""
        batch, frames, _ = features.shape
        if past is None:
            past = features.new_zeros(batch, PATCH_CONTEXT, N_MELS)
        padded = torch.cat([past, features], dim=1)
        own = features.reshape(batch, frames // PATCH_FRAMES, -1)  # (B, T, 320)
        before = padded[:, :frames].reshape(batch, frames // PATCH_FRAMES, -1)
        x = (torch.cat([before, own], dim=-1) - FEATURE_MEAN) / FEATURE_STD
        return self.norm(self.proj(x)), padded[:, frames:]


class Encoder(nn.Module):
    """Log-mel features -> CTC log-probabilities at 25 Hz; see the module's docstring."""

    rope: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = PatchEmbedding(config.d_model)
        self.blocks = nn.ModuleList(Block(config, mixers) for mixers in config.mixers)
        self.head = nn.Linear(config.d_model, config.vocab_size)
        self.inter_head = (
            nn.Linear(config.d_model, config.vocab_size) if config.inter_ctc_block else None
        )
        cycles = rope_cycles(config.d_model // config.n_heads, config.rope_period)
        self.register_buffer("rope", cycles, persistent=False)
        # Every branch starts silent, so the encoder starts as a linear layer on patches, which
        # learns what sounds like what at once; depth joins in as branches find something to add
        # (Zhang et al. 2019, arXiv:1901.09321).  Initialised as usual, 48 random branches bury
        # the input, and CTC stays on its plateau for thousands of steps.
        for module in self.modules():
            if isinstance(module, FeedForward | ConvMixer):
                nn.init.zeros_(module.down.weight)
                nn.init.zeros_(module.down.bias)
            elif isinstance(module, AttentionMixer):
                nn.init.zeros_(module.out.weight)
                nn.init.zeros_(module.out.bias)

    # -- the parts both paths share ------------------------------------------------------------

    def angles(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Token positions (B, T) int64 -> cos and signed sin (B, 1, T, D)."""
        period = self.config.rope_period
        turns = (position[:, None, :, None] * self.rope) % period  # (B, 1, T, D/2), exact
        theta = turns.float() * (2 * math.pi / period)
        cos, sin = theta.cos(), theta.sin()
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    # -- offline -------------------------------------------------------------------------------

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        chunk: int | None = None,
        left: int | None = None,
    ) -> Tensor:
        """Whole utterances under the mask of a chunk size.

        Args:
            features: (B, T, 80) log-mel; frames at and after `lengths` are ignored.
            lengths: (B,) valid feature frames.
            chunk: tokens per chunk (40 ms each); None sees the whole utterance.
            left: tokens seen before the chunk; None sees all of them.

        Returns:
            Log-probabilities (B, ceil(T/4), V).
        """
        return self.log_probs(self.encode(features, lengths, chunk=chunk, left=left)[0])

    def log_probs(self, x: Tensor) -> Tensor:
        return self.head(x).float().log_softmax(-1)

    def encode(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        chunk: int | None = None,
        left: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`, but the last hidden layer and the one the intermediate head reads."""
        frames = features.shape[1]
        features = F.pad(features, (0, 0, 0, -frames % PATCH_FRAMES))
        index = torch.arange(features.shape[1], device=features.device)
        features = features.masked_fill((index >= lengths[:, None])[..., None], 0.0)
        x, _ = self.patch.mix(features, None)  # (B, T, 80) -> (B, T/4, d)

        token = torch.arange(x.shape[1], device=x.device)
        valid = token < token_lengths(lengths)[:, None]  # (B, T)
        mask = chunk_mask(token, chunk, left)[None, None] & valid[:, None, None]  # (B, 1, T, T)
        angles = self.angles(token[None])
        inter = None
        for number, block in enumerate(self.blocks, 1):
            x = x + 0.5 * block.ffn1(x)
            for slot in block.slots:
                if isinstance(slot, ConvMixer):
                    x = x + slot.mix(x, None)[0]
                else:
                    x = x + slot.mix(x, None, angles, mask)[0]
            x = block.norm(x + 0.5 * block.ffn2(x))
            if number == self.config.inter_ctc_block:
                inter = x
        return x, inter

    # -- streaming -----------------------------------------------------------------------------

    def initial_state(self, batch: int = 1) -> State:
        config = self.config
        zeros = self.head.weight.new_zeros
        return State(
            channel=zeros(batch, *config.channel_cache_shape),
            time=zeros(batch, *config.time_cache_shape),
            position=torch.zeros(batch, dtype=torch.int64, device=self.head.weight.device),
        )

    def step(self, features: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """One window (B, 4T, 80) with `lengths` (B,) valid frames -> log-probs (B, T, V), state.

        Frames after `lengths` must be zero: only a stream's last window has any.
        """
        config = self.config
        x, past = self.patch.mix(features, state.time[:, 0, :PATCH_CONTEXT, :N_MELS])
        _, rows, width = config.time_cache_shape
        times = [F.pad(past, (0, width - N_MELS, 0, rows - PATCH_CONTEXT))]
        channels: list[Tensor] = []
        pasts = state.channel.split(2 * config.n_heads, dim=1)
        tokens = token_lengths(lengths)
        token = torch.arange(x.shape[1], device=x.device)
        angles = self.angles(state.position[:, None] + token)
        cached = torch.arange(config.left_context, device=x.device)
        seen = torch.cat(
            [
                cached >= config.left_context - state.position[:, None],  # slots that hold a token
                token < tokens[:, None],
            ],
            dim=1,
        )
        mask = seen[:, None, None]  # (B, 1, 1, L+T)
        for block in self.blocks:
            x = x + 0.5 * block.ffn1(x)
            for slot in block.slots:
                if isinstance(slot, ConvMixer):
                    h, past = slot.mix(x, state.time[:, len(times)])
                    times.append(past)
                else:
                    h, kv = slot.mix(x, pasts[len(channels)], angles, mask)
                    channels.append(kv[:, :, kv.shape[2] - config.left_context :])
                x = x + h
            x = block.norm(x + 0.5 * block.ffn2(x))
        channel = torch.cat(channels, 1) if channels else state.channel
        state = State(channel, torch.stack(times, 1), state.position + tokens)
        return self.log_probs(x), state


def token_lengths(lengths: Tensor) -> Tensor:
    """Feature frames -> tokens, rounding a partial patch up."""
    return (lengths + PATCH_FRAMES - 1) // PATCH_FRAMES


def chunk_mask(token: Tensor, chunk: int | None, left: int | None) -> Tensor:
    """(T, T) bool, True where query (row) sees key (column): own chunk and `left` tokens before."""
    if chunk is None:
        return torch.ones(len(token), len(token), dtype=torch.bool, device=token.device)
    start = token // chunk * chunk  # first token of the query's chunk
    mask = token[None] < (start + chunk)[:, None]
    if left is not None:
        mask &= token[None] >= (start - left)[:, None]
    return mask
