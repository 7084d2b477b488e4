"""What an encoder is trained to minimise: CTC, and a regulariser that reads the same posteriors."""

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
