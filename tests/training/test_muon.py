"""Orthogonalised momentum: what an update is, whatever the shape, the scale and the neighbours."""

from __future__ import annotations

import pytest
import torch

from training.muon import Muon, orthogonalise


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 96, 384), (3, 384, 96), (2, 96, 96), (1, 8, 300)])
def test_singular_vectors_stay_and_singular_values_become_nearly_one(
    shape: tuple[int, ...], precision: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrices = u @ torch.diag(torch.logspace(-1.5, 0, u.shape[-1])) @ vh
    result = orthogonalise(matrices, precision=precision)
    assert result.dtype == torch.float32
    for before, after in zip(matrices, result, strict=True):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        inside = u.mT @ after @ vh.mT  # diagonal exactly where the singular vectors are the same
        values = inside.diagonal()
        assert values.min() > 0.5 and values.max() < 1.3
        assert (inside - torch.diag(values)).abs().max() < 0.02


def test_neither_scale_nor_neighbours_change_an_update() -> None:
    generator = torch.Generator().manual_seed(2)
    matrices = torch.randn(4, 32, 64, generator=generator)
    together = orthogonalise(matrices * torch.tensor([1e-6, 1.0, 3.0, 1e4])[:, None, None])
    for alone, other in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalise(alone[None])[0], other, atol=1e-4, rtol=0)


def test_a_zero_gradient_moves_nothing_but_by_decay() -> None:
    p = torch.nn.Parameter(torch.ones(4, 6))
    p.grad = torch.zeros(4, 6)
    Muon([p], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((4, 6), 0.95))


def test_a_step_has_the_size_of_one_of_adamw() -> None:
    generator = torch.Generator().manual_seed(3)
    p = torch.nn.Parameter(torch.zeros(96, 384))
    p.grad = torch.randn(96, 384, generator=generator)
    Muon([p], lr=0.01).step()
    assert float(p.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.2)
