"""SpecAugment (arXiv:1904.08779): hide bands of frequency and stretches of time.

Small models underfit already and lose by hiding much, so the policy follows the size: next to
nothing below 3 M parameters, F=27 twice and ten times 5 % of the time for large ones, in between by
the logarithm of the size.  What is hidden takes the mean of its bin over the utterance, which says
nothing but the colour of the channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALL, _LARGE = 2.5e6, 20e6  # parameters where the policy starts and stops growing
_TWO_VIEWS = 2.5  # more time masking for CR-CTC's two views (arXiv:2410.05101, section 3.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecAugment:
    """A masking policy; call it on a batch."""

    frequency_masks: int
    frequency_width: int  # bins, at most
    time_masks: int
    time_width: float  # share of the utterance, at most

    @classmethod
    def for_parameters(cls, parameters: int) -> SpecAugment:
        """The policy for a model of that many parameters."""
        grown = math.log(max(parameters, 1) / _SMALL) / math.log(_LARGE / _SMALL)
        strength = min(1.0, max(0.0, grown))
        return cls(
            frequency_masks=1 if strength < 0.25 else 2,
            frequency_width=round(8 + 19 * strength),
            time_masks=round(1 + 9 * strength),
            time_width=0.02 + 0.03 * strength,
        )

    def __call__(self, features: Tensor, lengths: Tensor, *, seed: int, views: int = 1) -> Tensor:
        """A masked copy of (B, T, 80).

        Args:
            features: log-mel; with `views` = 2, the same utterances twice, view after view.
            lengths: (B,) valid frames.
            seed: the masks are a function of it and of the shape, on every device.
            views: every row gets masks of its own in any case; 2 makes those in time 2.5 times as
                many, as consistency between the views asks for.
        """
        batch, frames, bins = features.shape
        draw = torch.Generator().manual_seed(seed)
        share = lengths.to("cpu", torch.float32)[:, None]  # (B, 1)
        time_masks = round(self.time_masks * (_TWO_VIEWS if views == 2 else 1.0))
        width = torch.rand(batch, time_masks, generator=draw) * self.time_width * share
        start = torch.rand(batch, time_masks, generator=draw) * (share - width)
        hidden = _spans(start, width, frames)[:, :, None]  # (B, T, 1)
        width = torch.rand(batch, self.frequency_masks, generator=draw) * self.frequency_width
        start = torch.rand(batch, self.frequency_masks, generator=draw) * (bins - width)
        hidden = hidden | _spans(start, width, bins)[:, None, :]  # (B, T, 80)
        valid = torch.arange(frames, device=features.device) < lengths[:, None].to(features.device)
        total = (features * valid[..., None]).sum(1, keepdim=True)
        mean = total / lengths.to(features.device).clamp(min=1)[:, None, None]  # (B, 1, 80)
        return torch.where(hidden.to(features.device), mean, features)


def _spans(start: Tensor, width: Tensor, size: int) -> Tensor:
    """(B, N) starts and widths -> (B, size) bool, True inside any span, rounded to whole steps."""
    at = torch.arange(size)
    begin, end = start.round()[..., None], (start + width).round()[..., None]
    return ((at >= begin) & (at < end)).any(1)
