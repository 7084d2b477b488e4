"""The encoder's invariants: chunked equals masked-offline, and nothing sees the future."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.encoders import random_encoder, small, small_config
from training.config import ARMS, EncoderConfig, encoder_config
from training.model import Encoder, State, chunk_mask, rope_cycles, token_lengths

CHUNKS = (2, 4, 8, 16)  # 80, 160, 320, 640 ms


def speech(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 4 - 8


def stream(
    encoder: Encoder, features: Tensor, lengths: Tensor, chunks: list[int]
) -> tuple[Tensor, State]:
    """Log-probs of a batch fed window by window, the chunk sizes taken from `chunks` in turn."""
    state, outputs, start = encoder.initial_state(len(features)), [], 0
    for chunk in itertools.cycle(chunks):
        if start >= features.shape[1]:
            return torch.cat(outputs, 1), state
        window = features[:, start : start + 4 * chunk]
        window = F.pad(window, (0, 0, 0, 4 * chunk - window.shape[1]))
        valid = (lengths - start).clamp(0, 4 * chunk)
        window = window.masked_fill((torch.arange(4 * chunk) >= valid[:, None])[..., None], 0.0)
        output, state = encoder.step(window, valid, state)
        outputs.append(output)
        start += 4 * chunk
    raise AssertionError


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("chunk", CHUNKS)
@torch.no_grad()
def test_streaming_equals_the_offline_pass_under_the_mask(arm: str, chunk: int) -> None:
    encoder = small(arm)
    for frames, shorter in ((1, 1), (3, 2), (4 * chunk, 7), (133, 90), (201, 200)):
        features, lengths = speech(2, frames, 80), torch.tensor([frames, min(shorter, frames)])
        offline = encoder(features, lengths, chunk=chunk, left=12)
        online, _ = stream(encoder, features, lengths, [chunk])
        for row, tokens in enumerate(token_lengths(lengths)):
            torch.testing.assert_close(
                online[row, :tokens], offline[row, :tokens], atol=2e-5, rtol=0
            )


@pytest.mark.parametrize("arm", ARMS)
@torch.no_grad()
def test_the_shipped_sizes_stream_exactly_too(arm: str) -> None:
    encoder = random_encoder(encoder_config("XS", arm))
    features, lengths = speech(1, 700, 80), torch.tensor([700])
    offline = encoder(features, lengths, chunk=8, left=64)
    online, _ = stream(encoder, features, lengths, [8])
    torch.testing.assert_close(online[:, :175], offline, atol=2e-5, rtol=0)


@torch.no_grad()
def test_one_chunk_of_everything_is_the_unmasked_pass() -> None:
    encoder = small("conformer", left_context=64)
    features, lengths = speech(1, 160, 80), torch.tensor([160])
    online, _ = stream(encoder, features, lengths, [40])
    torch.testing.assert_close(online, encoder(features, lengths), atol=2e-5, rtol=0)


@pytest.mark.parametrize("arm", ARMS)
@torch.no_grad()
def test_later_audio_never_changes_an_earlier_chunk(arm: str) -> None:
    encoder, chunk = small(arm), 4
    features, lengths = speech(1, 128, 80), torch.tensor([128])
    before = encoder(features, lengths, chunk=chunk, left=12)
    features[:, 64:] = speech(1, 64, 80, seed=2)  # from token 16 = chunk 4 on
    after = encoder(features, lengths, chunk=chunk, left=12)
    assert torch.equal(before[:, :16], after[:, :16])
    assert not torch.allclose(before[:, 16:], after[:, 16:])


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    encoder = small("vit_conformer")
    features, lengths = speech(3, 96, 80), torch.tensor([96, 50, 96])
    batch, _ = stream(encoder, features, lengths, [8])
    features[1:] = speech(2, 96, 80, seed=3)
    other, _ = stream(encoder, features, lengths, [8])
    assert torch.equal(batch[0], other[0])


@torch.no_grad()
def test_a_stream_days_old_computes_what_a_young_one_computes() -> None:
    encoder = small("conformer")
    features, lengths = speech(1, 256, 80), torch.tensor([256])
    _, state = stream(encoder, features, lengths, [8])
    old = State(state.channel, state.time, state.position + 4096 * 10_000)  # 19 days on
    window, valid = speech(1, 32, 80, seed=5), torch.tensor([32])
    young_logprobs, _ = encoder.step(window, valid, state)
    old_logprobs, _ = encoder.step(window, valid, old)
    assert torch.equal(young_logprobs, old_logprobs)


def test_rotary_frequencies_are_whole_distinct_turns() -> None:
    cycles = rope_cycles(24, 4096)
    assert cycles.dtype == torch.int64
    assert cycles[0] == round(4096 / (2 * torch.pi))
    assert cycles.min() >= 1
    assert len(set(cycles.tolist())) == 12


@torch.no_grad()
def test_attention_depends_on_distance_and_not_on_position() -> None:
    encoder = small("transformer")
    q = torch.randn(1, 1, 1, 16)
    k = torch.randn(1, 1, 1, 16)

    def score(at: int, distance: int) -> Tensor:
        from training.model import rotate

        turned_q = rotate(q, *encoder.angles(torch.tensor([[at]])))
        turned_k = rotate(k, *encoder.angles(torch.tensor([[at - distance]])))
        return (turned_q * turned_k).sum()

    torch.testing.assert_close(score(10, 3), score(4000, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(score(4097, 3), score(10, 3), atol=1e-5, rtol=0)  # across the period
    assert not torch.isclose(score(10, 3), score(10, 4))


def test_the_chunk_mask_shows_own_chunk_and_left_context() -> None:
    mask = chunk_mask(torch.arange(8), 2, 3)
    assert mask.long().tolist()[4] == [0, 1, 1, 1, 1, 1, 0, 0]  # chunk {4, 5}, tokens 1-3 before it
    assert torch.equal(mask[4], mask[5])


@pytest.mark.parametrize("size", ["XS", "S", "M", "L"])
def test_all_arms_have_the_same_size(size: str) -> None:
    counts = [
        sum(p.numel() for p in Encoder(encoder_config(size, arm)).parameters()) for arm in ARMS
    ]
    assert max(counts) / min(counts) < 1.025


def test_a_configuration_survives_json() -> None:
    import json

    config = encoder_config("S", "vit_conformer", inter_ctc_block=8)
    assert EncoderConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"n_heads": 5}, "heads"),
        ({"mixers": (("conv", "gru"),)}, "gru"),
        ({"mixers": ()}, "at least one block"),
        ({"inter_ctc_block": 12}, "inter_ctc_block"),
    ],
)
def test_an_impossible_configuration_cannot_be_made(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encoder_config("XS", "conformer", **fields)


@pytest.mark.parametrize("arm", ARMS)
@torch.no_grad()
def test_a_fresh_encoder_is_a_linear_layer_on_patches(arm: str) -> None:
    encoder = Encoder(small_config(arm)).eval()
    features, lengths = speech(1, 64, 80), torch.tensor([64])
    tokens, _ = encoder.patch.mix(features, None)
    for block in encoder.blocks:
        tokens = block.norm(tokens)
    torch.testing.assert_close(encoder(features, lengths, chunk=4), encoder.log_probs(tokens))


@pytest.mark.parametrize("arm", ["conformer", "vit_conformer"])
@torch.no_grad()
def test_the_state_matters(arm: str) -> None:
    """What makes the equalities above say something."""
    encoder = small(arm)
    features, lengths = speech(1, 128, 80), torch.tensor([128])
    _, state = stream(encoder, features, lengths, [8])
    window, valid = speech(1, 32, 80, seed=2), torch.tensor([32])
    here, _ = encoder.step(window, valid, state)
    fresh = encoder.initial_state()
    for name in ("channel", "time", "position"):
        changed = State(**{**vars(state), name: getattr(fresh, name)})
        assert (encoder.step(window, valid, changed)[0] - here).abs().max() > 0.01
