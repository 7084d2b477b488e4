"""The shape of an encoder: one dial (`size`), one arm, and what follows from them.

An *arm* says which token mixer sits in each of the two slots of every block: ``conv`` (causal
depthwise convolution) or ``msa`` (multi-head self-attention).  All arms share depth, width,
feed-forward layers, norms and head, and a convolution slot has as many weights as an attention
slot (inner width 4d/3, so 4d² each), so that arms differ in *where they mix*, not in size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Mixer = Literal["conv", "msa"]
Block = tuple[Mixer, Mixer]

N_MELS = 80
PATCH_FRAMES = 4  # feature frames per patch: 10 ms frames -> 40 ms tokens, 25 Hz
PATCH_CONTEXT = (
    4  # feature frames before the patch that its embedding also sees (overlapping patches)
)

_C: Block = ("conv", "conv")
_A: Block = ("msa", "msa")
_CA: Block = ("conv", "msa")
_AC: Block = ("msa", "conv")

ARMS: Mapping[str, tuple[Block, ...]] = {
    # Gulati et al. 2020, arXiv:2005.08100: attention, then convolution, in every block.
    "conformer": (_AC,) * 12,
    # The AlterNet build-up rule of Park & Kim 2022, arXiv:2202.06709: convolution first, attention
    # only at the ends of the stages, more in later stages: (0, 1, 3) over three stages of four.
    "vit_conformer": (*((_C,) * 7), _CA, _C, *((_CA,) * 3)),
    "transformer": (_A,) * 12,
    "cnn": (_C,) * 12,
}

# width, heads
SIZES: Mapping[str, tuple[int, int]] = {
    "XS": (96, 4),
    "S": (144, 4),
    "M": (192, 6),
    "L": (256, 8),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything needed to rebuild an encoder from its weights."""

    d_model: int
    n_heads: int
    mixers: tuple[Block, ...]
    vocab_size: int = 257  # SentencePiece units + blank; blank is the last id
    ffn_mult: int = 4
    conv_kernel: int = 15  # tokens of 40 ms: 0.6 s of left context a layer
    left_context: int = 64  # tokens of attention cache: 2.56 s
    rope_period: int = (
        4096  # tokens after which rotary angles repeat exactly (see model.rope_cycles)
    )
    dropout: float = 0.1
    inter_ctc_block: int | None = None  # after which block (1-based) an intermediate CTC head reads

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"d_model={self.d_model} must split into n_heads={self.n_heads} heads of even width"
            )
        if not self.mixers:
            raise ValueError("mixers must name at least one block")
        for block in self.mixers:
            if len(block) != 2 or any(m not in ("conv", "msa") for m in block):
                raise ValueError(f"a block is two of 'conv'/'msa', not {block!r}")
        if self.n_conv and (self.conv_width < N_MELS or self.conv_kernel <= PATCH_CONTEXT):
            # One cache tensor holds the patch embedding's context and every convolution's.
            raise ValueError(
                f"convolution slots need an inner width of {N_MELS} (d_model >= 60) and a kernel "
                f"of {PATCH_CONTEXT + 1} tokens, not {self.conv_width} and {self.conv_kernel}"
            )
        if self.inter_ctc_block is not None and not 1 <= self.inter_ctc_block < len(self.mixers):
            raise ValueError(f"inter_ctc_block must lie within 1..{len(self.mixers) - 1}")

    @property
    def conv_width(self) -> int:
        """Inner width of a convolution slot: 4d/3 to the nearest 8, for 4d² weights."""
        return max(8, round(4 * self.d_model / 3 / 8) * 8)

    @property
    def n_msa(self) -> int:
        return sum(mixer == "msa" for block in self.mixers for mixer in block)

    @property
    def n_conv(self) -> int:
        return sum(mixer == "conv" for block in self.mixers for mixer in block)

    @property
    def channel_cache_shape(self) -> tuple[int, int, int]:
        """(heads, left tokens, head width): the key heads, then the value heads, of every slot.

        A stub where an arm has no attention.
        """
        if not self.n_msa:
            return (1, 1, 1)
        return (self.n_msa * 2 * self.n_heads, self.left_context, self.d_model // self.n_heads)

    @property
    def time_cache_shape(self) -> tuple[int, int, int]:
        """(1 + convolution slots, rows, width); slot 0 is the patch embedding's left context."""
        if not self.n_conv:
            return (1, PATCH_CONTEXT, N_MELS)
        return (1 + self.n_conv, self.conv_kernel - 1, self.conv_width)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EncoderConfig:
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(fields) - known:
            raise ValueError(f"unknown encoder fields: {', '.join(sorted(unknown))}")
        mixers = tuple((block[0], block[1]) for block in fields["mixers"])
        return cls(**{**fields, "mixers": mixers})


def encoder_config(size: str, arm: str, **overrides: Any) -> EncoderConfig:
    """The encoder of a named size and arm, e.g. ``encoder_config("XS", "vit_conformer")``."""
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}: choose one of {', '.join(ARMS)}")
    d_model, n_heads = SIZES[size]
    return EncoderConfig(
        **{"d_model": d_model, "n_heads": n_heads, "mixers": ARMS[arm], **overrides}
    )
