"""On the line between two models: its ends, its middle, and where to stop."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.manifest import read_manifest, write_manifest
from tests.training.commands.test_data_commands import run
from tests.training.corpus import make_corpus, sentence
from tests.training.encoders import random_encoder, small_config
from training import checkpoint
from training.commands import interpolate as verb
from training.evaluate import decode_features, greedy_ids
from training.interpolate import (
    CHUNK,
    Point,
    choose,
    hard_under_noise,
    interpolate,
    under_noise,
    walk,
    word_error_rate,
)
from training.model import Encoder
from training.store import FeatureStore, build_store
from training.tokenizer import Tokenizer, train_tokenizer

CONFIG = small_config("vit_conformer", vocab_size=41)


def test_the_ends_are_the_two_models_and_the_middle_is_their_mean() -> None:
    old, new = random_encoder(CONFIG, seed=1), random_encoder(CONFIG, seed=2)
    between = {
        alpha: dict(interpolate(old, new, alpha).named_parameters()) for alpha in (0, 0.5, 1)
    }
    theirs = dict(new.named_parameters())
    for name, mine in old.named_parameters():
        assert torch.equal(between[0][name], mine)
        assert torch.equal(between[1][name], theirs[name])
        torch.testing.assert_close(between[0.5][name], (mine + theirs[name]) / 2)


def test_models_of_different_shape_have_no_line_between_them() -> None:
    other = random_encoder(small_config("cnn", vocab_size=41))
    with pytest.raises(ConfigError, match="different encoders"):
        interpolate(random_encoder(CONFIG), other, 0.5)


RATE = st.floats(0.01, 1.0)


@given(st.lists(st.tuples(RATE, RATE, RATE), min_size=1, max_size=6), st.floats(0, 0.1))
def test_the_choice_gains_most_of_all_that_lose_little(
    rates: list[tuple[float, float, float]], tolerance: float
) -> None:
    points = [
        Point(
            alpha=number / len(rates),
            target={"t": target},
            guard={"a": a, "b": b},
            words={"t": 1000},
        )
        for number, (target, a, b) in enumerate(rates)
    ]
    old, best = points[0], choose(points, tolerance=tolerance)
    for name in ("a", "b"):
        assert best.guard[name] <= old.guard[name] * (1 + tolerance) * (1 + 1e-9)
    assert best.target["t"] <= old.target["t"]
    for point in points:
        if point.worst_loss(old) <= tolerance:
            assert best.gain(old) >= point.gain(old)


def test_a_target_of_few_words_does_not_outvote_one_of_many() -> None:
    words = {"many": 5000, "some": 400, "three": 22}
    old = Point(alpha=0.0, target=dict.fromkeys(words, 0.5), guard={}, words=words)
    lucky = Point(
        alpha=0.5, target={"many": 0.45, "some": 0.45, "three": 0.1}, guard={}, words=words
    )
    better = Point(
        alpha=1.0, target={"many": 0.4, "some": 0.4, "three": 0.4}, guard={}, words=words
    )
    assert choose([old, lucky, better], tolerance=0.0) == better
    assert better.gain(old) == pytest.approx(0.2)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and what each of them says to the same sounds as a store: old/, new/."""
    root = tmp_path_factory.mktemp("work")
    utterances = read_manifest(make_corpus(root))
    train_tokenizer([sentence(i) for i in range(60)], root / "tokenizer", vocab_size=40)
    tokenizer = Tokenizer.load(root / "tokenizer")
    sounds = build_store([root / "manifest.jsonl"], root / "sounds")
    features = [frames for frames, _ in sounds]
    for seed, name in enumerate(("old", "new")):
        encoder = random_encoder(CONFIG, seed=seed)
        checkpoint.save(
            root / f"{name}.safetensors",
            {f"ema.{n}": tensor for n, tensor in encoder.state_dict().items()},
            {"step": 7, "encoder": encoder.config.to_json(), "recipe": {"is": name}},
        )
        texts = [""] * len(sounds)
        for index, log_probs in decode_features(encoder, features, CHUNK):
            texts[index] = tokenizer.decode(greedy_ids(log_probs)) or "x"
        said = {Path(audio).name: text for audio, text in zip(sounds.audio, texts, strict=True)}
        write_manifest(
            root / f"{name}.jsonl",
            [dataclasses.replace(u, text=said[u.audio_filepath.name]) for u in utterances],
        )
        build_store([root / f"{name}.jsonl"], root / name)
    return root


def load(path: Path) -> Encoder:
    return checkpoint.load_encoder(path)[0]


def test_each_model_makes_no_error_on_what_it_said_itself_and_many_on_the_other(work: Path) -> None:
    tokenizer = Tokenizer.load(work / "tokenizer")
    old, new = load(work / "old.safetensors"), load(work / "new.safetensors")
    stores = {name: FeatureStore.open(work / name) for name in ("old", "new")}
    points = walk(
        old, new, [1.0], target={"new": stores["new"]}, guard={"old": stores["old"]},
        tokenizer=tokenizer,
    )  # fmt: skip
    assert [point.alpha for point in points] == [0.0, 1.0]
    assert points[0].guard["old"] < 0.1 and points[1].target["new"] < 0.1  # "x" for silence
    assert points[1].guard["old"] > 0.5 and points[0].target["new"] > 0.5
    assert word_error_rate(new, stores["new"], tokenizer) == points[1].target["new"]


def test_what_guards_say_in_the_noise_of_a_fleet_is_a_target_too(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = FeatureStore.open(work / "old")
    loud = guard.altered([frames + np.float16(3) for frames, _ in guard])
    noisy = under_noise(guard, [frames for frames, _ in loud])
    assert noisy.texts == guard.texts and noisy.seconds == guard.seconds
    for (before, _), (after, _) in zip(guard, noisy, strict=True):
        assert after.shape == before.shape and (after >= before - 0.02).all()
        assert (after - before).max() > 1
    common = ["--old", work / "old.safetensors", "--new", work / "new.safetensors", "--json",
              "--tokenizer", work / "tokenizer", "--target", work / "new", "--guard", work / "old",
              "--alphas", "1", "--tolerance", 1e6, "--out", tmp_path / "x"]  # fmt: skip
    assert run(verb, *common, "--noise", work / "sounds") == 0
    with_noise = json.loads(capsys.readouterr().out)["points"][0]["target"]
    (manifest := tmp_path / "none.jsonl").touch()
    build_store([manifest], tmp_path / "none", allow_empty=True)
    assert run(verb, *common, "--noise", tmp_path / "none") == 0
    without = json.loads(capsys.readouterr().out)["points"][0]["target"]
    assert set(with_noise) - set(without) == {f"{work / 'old'} in noise"}


def test_noise_that_the_old_model_hears_through_is_no_target(work: Path) -> None:
    guards = {"old": FeatureStore.open(work / "old")}
    tokenizer, old = Tokenizer.load(work / "tokenizer"), load(work / "old.safetensors")
    loud = [frames for frames, _ in FeatureStore.open(work / "sounds")]
    faint = [np.full_like(frames, -40) for frames in loud]
    assert set(hard_under_noise(old, guards, loud, tokenizer)) == {"old in noise"}
    assert hard_under_noise(old, guards, faint, tokenizer) == {}


def test_the_verb_writes_the_mixture_it_chose(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--old", work / "old.safetensors", "--new", work / "new.safetensors",
                 "--tokenizer", work / "tokenizer", "--target", work / "new",
                 "--guard", work / "old", "--alphas", "0.5,1",
                 "--out", work / "mixed.safetensors"]  # fmt: skip
    assert run(verb, *arguments, "--tolerance", 1e6, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["alpha"] == 1 and [point["alpha"] for point in found["points"]] == [0, 0.5, 1]
    mixed, facts = checkpoint.load_encoder(work / "mixed.safetensors")
    assert facts["interpolated"] == found and facts["recipe"] == {"is": "new"}
    for one, other in zip(
        mixed.parameters(), load(work / "new.safetensors").parameters(), strict=True
    ):
        assert torch.equal(one, other)
    (work / "mixed.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no share of the new weights .* within 1\.0%"):
        run(verb, *arguments)
    assert not (work / "mixed.safetensors").exists()


def test_the_verb_refuses_what_it_cannot_use(work: Path, tmp_path: Path) -> None:
    def go(**changed: object) -> None:
        usual = {"old": work / "old.safetensors", "new": work / "new.safetensors",
                 "tokenizer": work / "tokenizer", "target": work / "new", "guard": work / "old",
                 "out": tmp_path / "x"}  # fmt: skip
        words = [word for name, value in (usual | changed).items() for word in (f"--{name}", value)]
        run(verb, *words)

    with pytest.raises(ConfigError, match=r"expected numbers from 0 to 1"):
        go(alphas="0.5,2")
    with pytest.raises(ConfigError, match=r"holds no checkpoint step-\*\.safetensors; train first"):
        go(new=tmp_path)
    with pytest.raises(ConfigError, match=r"gone.safetensors: not a readable checkpoint"):
        go(old=work / "gone.safetensors")
    with pytest.raises(ConfigError, match=r"no share .* makes fewer errors in the \d+ words"):
        go(new=work / "old.safetensors")
    with pytest.raises(ConfigError, match="feature store is not there"):
        go(guard=work / "nowhere")
    assert not (tmp_path / "x").exists()
