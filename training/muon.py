"""Muon: momentum whose update is made orthogonal, for the matrices inside a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Quintic Newton-Schulz coefficients of Jordan et al. 2024 (kellerjordan.github.io/posts/muon):
# steep at zero, so that five steps bring singular values of 1e-3 near one.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(
    matrices: Tensor, steps: int = 5, precision: torch.dtype = torch.float32
) -> Tensor:
    """(N, rows, columns) -> the same singular vectors with singular values of 0.7 to 1.2.

    The iteration forgives rounding, so bfloat16 will do where a processor is faster at it.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = (wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)).to(precision)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    x = x.to(matrices.dtype)
    return x if wide is matrices else x.mT


def _shared_orthogonalise(matrices: Tensor, precision: torch.dtype) -> Tensor:
    """`orthogonalise`, each process of a data-parallel run doing its share of the matrices."""
    if not dist.is_initialized():
        return orthogonalise(matrices, precision=precision)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    result = torch.zeros_like(matrices)
    if len(matrices[mine]):
        result[mine] = orthogonalise(matrices[mine], precision=precision)
    dist.all_reduce(result)  # a sum with zeros: the same bits everywhere
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    Updates are scaled to a root mean square of 0.2, that of AdamW (Liu et al. 2025,
    arXiv:2502.16982), so both optimisers share one learning rate.  Matrices of one shape are
    orthogonalised together.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        precision: torch.dtype = torch.float32,  # of the orthogonalisation
    ) -> None:
        self._precision = precision
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                alike[p.shape].append(p)
            for shape, params in alike.items():
                update = _shared_orthogonalise(
                    torch.stack([self._look_ahead(p, group["momentum"]) for p in params]),
                    self._precision,
                )
                scale = 0.2 * max(shape) ** 0.5
                for p, u in zip(params, update, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(u, alpha=-group["lr"] * scale)

    def _look_ahead(self, p: Tensor, momentum: float) -> Tensor:
        """The gradient's running mean, moved on in place, as Nesterov sees it from one step on."""
        if p.grad is None:
            raise ValueError("every matrix given to Muon must take part in the loss")
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)
