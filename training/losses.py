"""What an encoder is trained to minimise: CTC, its flat start, and a regulariser."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ctc(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC (Graves et al. 2006) in nats per target unit, over the whole batch.

    Normalising by units rather than by utterances keeps the gradient scale of a batch of short
    clips and a batch of long ones alike.  An utterance that cannot be aligned (more units than
    tokens) contributes nothing.

    Args:
        log_probs: (B, T, V), blank last.
        lengths: (B,) valid tokens.
        targets: (B, U) unit ids, padded with anything.
        target_lengths: (B,) units, 0 for noise and silence.
    """
    nll = F.ctc_loss(
        log_probs.transpose(0, 1),
        targets,
        lengths,
        target_lengths,
        blank=log_probs.shape[-1] - 1,
        reduction="none",
        zero_infinity=True,
    )  # (B,)
    return nll.sum() / target_lengths.sum().clamp(min=1)


def consistency(log_probs: Tensor, other: Tensor, lengths: Tensor, units: Tensor) -> Tensor:
    """CR-CTC (arXiv:2410.05101): symmetric KL between the posteriors of two views, per target unit.

    Each view learns from the other's posterior as from a fixed teacher, hence the `detach`.
    """
    valid = torch.arange(log_probs.shape[1], device=lengths.device) < lengths[:, None]  # (B, T)
    forth = F.kl_div(log_probs, other.detach(), reduction="none", log_target=True).sum(-1)
    back = F.kl_div(other, log_probs.detach(), reduction="none", log_target=True).sum(-1)
    return 0.5 * ((forth + back) * valid).sum() / units.sum().clamp(min=1)


def flat_start(
    log_probs: Tensor,
    lengths: Tensor,
    features: Tensor,
    targets: Tensor,
    target_lengths: Tensor,
    unit_chars: Tensor,
) -> Tensor:
    """Cross entropy of a guessed alignment, per token: the units evenly spread over the speech.

    CTC starts on a plateau because nothing says yet where anything is.  HMM systems have always
    begun with a linear alignment instead; that every unit lasts as long as it has letters is nearly
    true of short clean utterances, and wrong guesses cancel out over many.

    Args:
        log_probs: (B, T, V), blank last.
        lengths: (B,) valid tokens.
        features: (B, F, 80) clean log-mel, F >= 4 T - 3; they show where the speech is.
        targets: (B, U) unit ids.
        target_lengths: (B,) units.
        unit_chars: (V - 1,) letters of each unit.
    """
    batch, tokens, size = log_probs.shape
    loudness = features[:, ::4].amax(-1)[:, :tokens]  # (B, T)
    index = torch.arange(tokens, device=lengths.device)
    valid = index < lengths[:, None]  # (B, T)
    loudness = loudness.masked_fill(~valid, -1e9)
    # Speech is what lies between the first and the last frame within 26 dB of the loudest.
    loud = (loudness > loudness.amax(1, keepdim=True) - 6.0) & valid
    first = loud.int().argmax(1)  # (B,)
    last = tokens - loud.flip(1).int().argmax(1)
    position = (index - first[:, None] + 0.5) / (last - first).clamp(min=1)[:, None]  # (B, T)

    units = torch.arange(targets.shape[1], device=targets.device) < target_lengths[:, None]
    ends = (unit_chars[targets] * units).cumsum(1)  # (B, U) letters up to and with each unit
    ends = ends / ends[:, -1:].clamp(min=1)
    unit = torch.searchsorted(ends.contiguous(), position.contiguous(), right=True)  # (B, T)
    label = targets.gather(1, unit.clamp(max=targets.shape[1] - 1))
    spoken = (position >= 0) & (position < 1) & (target_lengths > 0)[:, None]
    label = label.masked_fill(~spoken, size - 1)
    loss = F.nll_loss(log_probs.flatten(0, 1), label.flatten(), reduction="none")
    return (loss.view(batch, tokens) * valid).sum() / valid.sum()
