from __future__ import annotations

import pytest
import torch

from training.specaugment import SpecAugment

LARGE = SpecAugment.for_parameters(100_000_000)


def batch(rows: int = 4, frames: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, frames, 80, generator=generator)
    return features, torch.linspace(frames // 3, frames, rows).long()


def share_hidden(policy: SpecAugment) -> float:
    features, lengths = batch(rows=40)
    masked = policy(features, lengths, seed=1)
    return float((masked != features).float().mean())


def test_what_is_hidden_is_whole_bands_and_whole_stretches() -> None:
    features, lengths = batch()
    hidden = LARGE(features, lengths, seed=3) != features
    times, bins = hidden.all(2), hidden.all(1)
    assert times.any()
    assert bins.any()
    assert torch.equal(hidden, times[:, :, None] | bins[:, None, :])


def test_what_is_hidden_takes_the_mean_of_its_bin() -> None:
    features, lengths = batch()
    masked = LARGE(features, lengths, seed=3)
    for row, length in enumerate(lengths.tolist()):
        mean = features[row, :length].mean(0).expand_as(features[row])
        hidden = masked[row] != features[row]
        torch.testing.assert_close(masked[row][hidden], mean[hidden])


def test_masks_in_time_fall_on_speech_and_not_on_padding() -> None:
    features, lengths = batch(rows=50)
    hidden = (LARGE(features, lengths, seed=0) != features).all(2)
    beyond = torch.arange(features.shape[1]) >= lengths[:, None]
    assert not (hidden & beyond).any()


def test_masks_are_a_function_of_the_seed() -> None:
    features, lengths = batch()
    before = features.clone()
    first = LARGE(features, lengths, seed=3)
    torch.manual_seed(99)
    assert torch.equal(first, LARGE(features, lengths, seed=3))
    assert not torch.equal(first, LARGE(features, lengths, seed=4))
    assert torch.equal(features, before)


def test_two_views_of_an_utterance_are_masked_apart_and_more() -> None:
    features, lengths = batch()
    views = LARGE(features.repeat(2, 1, 1), lengths.repeat(2), seed=3, views=2)
    first, second = views.chunk(2)
    assert not torch.equal(first, second)
    one = (LARGE(features, lengths, seed=3) != features).all(2).float().mean()
    two = (views != features.repeat(2, 1, 1)).all(2).float().mean()
    assert two > 1.5 * one


def test_small_models_are_spared() -> None:
    shares = [share_hidden(SpecAugment.for_parameters(n)) for n in (2_000_000, 6_000_000, 10**8)]
    assert shares[0] < 0.08
    assert shares[0] < shares[1] < shares[2]
    assert 0.3 < shares[2] < 0.7
    assert SpecAugment.for_parameters(10**8) == SpecAugment(
        frequency_masks=2, frequency_width=27, time_masks=10, time_width=pytest.approx(0.05)
    )
    assert SpecAugment.for_parameters(1) == SpecAugment.for_parameters(2_500_000)
