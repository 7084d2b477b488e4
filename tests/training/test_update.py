"""A rounded update is nearly the update, and its delta is small: of the float model and of INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from calibration.emit import emit
from edge_runtime.errors import ConfigError
from edge_runtime.ota import delta
from tests.calibration.graphs import features, logprobs, ranges_of, spec_of
from tests.training.encoders import random_encoder, small_config
from training.bundle import encoder_onnx, round_to_half
from training.model import Encoder
from training.update import STEP, check_parent, round_update

SOUND = features(2.0)


def parent(d_model: int = 64) -> Encoder:
    encoder = random_encoder(small_config("vit_conformer", d_model=d_model))
    round_to_half(encoder)
    return encoder


@torch.no_grad()
def tuned(encoder: Encoder, size: float = 0.02, seed: int = 1) -> Encoder:
    """Every weight moved, as fine-tuning moves them: all new bits."""
    found = Encoder(encoder.config).eval()
    found.load_state_dict(encoder.state_dict())
    torch.manual_seed(seed)
    for parameter in found.parameters():
        spread = size * float(parameter.std()) or size
        parameter.add_(spread * torch.randn_like(parameter))
    return found


def graph(encoder: Encoder, *, half: bool = True) -> bytes:
    """Raises BundleError unless it is equal to torch."""
    return encoder_onnx(encoder, window=32, half=half).SerializeToString()


def share(base: bytes, new: bytes) -> float:
    made = delta.make(base, new)
    assert delta.apply(base, made, limit=len(new)) == new
    return len(made) / len(new)


@pytest.mark.parametrize("half", [True, False])
def test_every_weight_is_whole_steps_from_its_parents_and_near_what_was_learnt(half: bool) -> None:
    before = parent()
    wanted, after = tuned(before), tuned(before)
    ratio = round_update(after, before, STEP, half=half)
    # An error spread evenly over a step has a twelfth of its square; steps are halved at most.
    assert 10 * np.log10(12 / STEP**2) - 0.5 < ratio < 10 * np.log10(48 / STEP**2) + 0.5
    old, aim = dict(before.named_parameters()), dict(wanted.named_parameters())
    for name, parameter in after.named_parameters():
        moved = (parameter - old[name]).detach().double().numpy()
        learnt = (aim[name] - old[name]).detach().double().numpy()
        size = np.sqrt(np.mean(learnt**2))
        step = 2.0 ** np.floor(np.log2(STEP * size))
        values = parameter.detach().double().numpy()
        spacing = np.spacing(np.abs(values).astype(np.float16 if half else np.float32))
        # Where numbers of this width are no multiples of a step, the nearest one is taken.
        room = spacing if half and parameter.ndim > 1 else np.spacing(np.float32(np.abs(values)))
        assert np.all(np.abs(moved - step * np.rint(moved / step)) <= room / 2 + 1e-12), name
        assert np.all(np.abs(moved - learnt) <= step / 2 + room / 2 + 1e-9), name


def test_the_delta_of_a_rounded_model_and_of_its_int8_file_is_below_two_fifths(
    tmp_path: Path,
) -> None:
    before = parent(d_model=96)  # of smaller ones much is not weights
    old = graph(before)
    whole, rounded = tuned(before), tuned(before)
    round_update(rounded, before, STEP, half=True)
    round_to_half(whole)
    exact, near = graph(whole), graph(rounded)
    assert share(old, near) <= 0.4 < 0.5 < share(old, exact)
    files, int8 = {"old": old, "exact": exact, "near": near}, {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        int8[name] = emit(*ranges_of(tmp_path / name, SOUND), "dynamic")
    assert share(int8["old"], int8["near"]) <= 0.4
    spec = spec_of(tmp_path / "exact")
    said, meant, fine = (
        logprobs(onnx.load_from_string(model), spec, SOUND)
        for model in (near, exact, int8["exact"])
    )
    noise, quantised = ((each - meant) ** 2 for each in (said, fine))
    assert noise.sum() < 0.2 * quantised.sum()  # far less than what INT8 adds; 20 dB in real ones


def test_a_child_of_a_child_is_a_small_delta_from_its_grandparent_too() -> None:
    first = parent()
    second = tuned(first)
    round_update(second, first, STEP, half=True)
    third = tuned(second, seed=2)
    round_update(third, second, STEP, half=True)
    assert share(graph(first), graph(third)) <= 0.4


def test_an_update_of_nothing_rounds_nothing() -> None:
    before, after = parent(), parent()
    assert round_update(after, before, STEP, half=True) == np.inf
    assert graph(before) == graph(after)


def test_steps_are_only_counted_from_what_devices_have(tmp_path: Path) -> None:
    before = parent()
    (tmp_path / "encoder.onnx").write_bytes(graph(before))
    check_parent(before, tmp_path / "encoder.onnx", half=True)
    with pytest.raises(ConfigError, match="was not made from them"):
        check_parent(tuned(before), tmp_path / "encoder.onnx", half=True)
    with pytest.raises(ConfigError, match="same --weights"):
        check_parent(before, tmp_path / "encoder.onnx", half=False)
    other = random_encoder(small_config("vit_conformer", d_model=96))
    with pytest.raises(ConfigError, match="another encoder"):
        round_update(other, before, STEP, half=True)
