"""CTC against brute force, and the consistency loss against its definition."""

from __future__ import annotations

import itertools

import torch

from training.losses import consistency, ctc, flat_start


def brute_force_nll(log_probs: torch.Tensor, target: list[int]) -> float:
    """-log of the summed probability of every alignment that collapses to `target`."""
    frames, size = log_probs.shape
    total = 0.0
    for path in itertools.product(range(size), repeat=frames):
        merged = [unit for unit, _ in itertools.groupby(path)]
        if [unit for unit in merged if unit != size - 1] == target:
            total += float(sum(log_probs[t, unit] for t, unit in enumerate(path)).exp())
    return -float(torch.tensor(total).log())


def test_ctc_is_the_negative_log_of_all_alignments_per_unit() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(2, 5, 4).log_softmax(-1)
    lengths, units = torch.tensor([5, 4]), torch.tensor([2, 3])
    targets = torch.tensor([[0, 0, 9], [1, 2, 1]])
    expected = brute_force_nll(log_probs[0], [0, 0]) + brute_force_nll(log_probs[1, :4], [1, 2, 1])
    torch.testing.assert_close(
        ctc(log_probs, lengths, targets, units), torch.tensor(expected / 5), atol=1e-5, rtol=0
    )


def test_silence_is_a_target_and_the_impossible_is_not() -> None:
    log_probs = torch.randn(2, 3, 4).log_softmax(-1)
    targets = torch.tensor([[0, 0, 0], [0, 1, 2]])
    silence = ctc(log_probs[:1], torch.tensor([3]), targets[:1], torch.tensor([0]))
    torch.testing.assert_close(silence, -log_probs[0, :, 3].sum())
    impossible = ctc(log_probs[1:], torch.tensor([2]), targets[1:], torch.tensor([3]))
    assert impossible == 0


def test_equal_views_are_consistent_and_padding_does_not_count() -> None:
    torch.manual_seed(1)
    view = torch.randn(2, 6, 5).log_softmax(-1)
    lengths, units = torch.tensor([6, 3]), torch.tensor([2, 2])
    assert consistency(view, view, lengths, units) == 0
    other = view.clone()
    other[1, 3:] = torch.randn(3, 5).log_softmax(-1)
    assert consistency(view, other, lengths, units) == 0
    other[1, 2] = torch.randn(5).log_softmax(-1)
    p, q = view[1, 2], other[1, 2]
    expected = 0.5 * ((q.exp() * (q - p)).sum() + (p.exp() * (p - q)).sum()) / 4
    torch.testing.assert_close(consistency(view, other, lengths, units), expected)


def test_the_flat_start_spreads_units_over_the_speech_by_their_letters() -> None:
    tokens = 10
    features = torch.full((1, 4 * tokens, 80), -16.0)
    features[:, 8:32] = -5.0  # speech in tokens 2 to 7
    targets = torch.tensor([[1, 0, 3]])  # of which the third is padding
    chars = torch.tensor([4, 2, 1, 1])
    expected = torch.tensor([4, 4, 1, 1, 0, 0, 0, 0, 4, 4])  # 2 letters, then 4; 4 is the blank
    certain = torch.full((1, tokens, 5), -100.0)
    certain[0, torch.arange(tokens), expected] = 0.0
    args = (torch.tensor([tokens]), features, targets, torch.tensor([2]), chars)
    assert flat_start(certain, *args) == 0
    for token in range(tokens):  # every single label counts
        wrong = certain.clone()
        wrong[0, token] = torch.tensor([-9.0, -9.0, 0.0, -9.0, -9.0])
        assert flat_start(wrong, *args) > 0.5


def test_the_flat_start_of_silence_is_blank() -> None:
    log_probs = torch.randn(1, 4, 5).log_softmax(-1)
    loss = flat_start(
        log_probs, torch.tensor([4]), torch.full((1, 16, 80), -16.0), torch.tensor([[0]]),
        torch.tensor([0]), torch.tensor([1, 1, 1, 1]),
    )  # fmt: skip
    torch.testing.assert_close(loss, -log_probs[0, :, 4].mean())
