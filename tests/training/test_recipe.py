"""Recipes: the shipped ones load, and every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from training.model import Encoder
from training.recipe import SHIPPED, load_recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_every_shipped_recipe_builds_an_encoder(name: str) -> None:
    recipe = load_recipe(name)
    assert sum(p.numel() for p in Encoder(recipe.encoder(257)).parameters()) > 1e6


def test_the_four_recipes_are_there() -> None:
    assert {path.stem for path in SHIPPED.glob("*.toml")} >= {
        "demo", "librispeech-100", "librispeech-960", "finetune",
    }  # fmt: skip


def test_overrides_are_toml_values_and_bare_words() -> None:
    recipe = load_recipe(
        "demo",
        ["optim.lr=1e-3", "model.arm=cnn", "chunks.tokens=[2, 4]", "chunks.weights=[1, 2]"],
    )
    assert recipe.optim.lr == 1e-3
    assert recipe.model.arm == "cnn"
    assert recipe.chunks.tokens == (2, 4)
    assert recipe.chunks.weights == (1.0, 2.0)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optim.lr", "section.field=value"),
        ("lr=1", "section.field=value"),
        ("optim.speed=1", "unknown field 'speed'"),
        ("optimiser.lr=1", "unknown field 'optimiser'"),
        ("optim.steps=many", "steps: .*whole number"),
        ("optim.steps=true", "steps: .*whole number"),
        ("optim.precision=float8", "precision"),
        ("chunks.tokens=[1]", "chunks.weights"),
        ("loss.inter_ctc=0.3", "inter_ctc_block"),
        ("model.size=XXL", "XXL"),
        ("model.arm=rnn", "rnn"),
    ],
)
def test_a_mistake_is_named(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_recipe("demo", [override]).encoder(257)


def test_a_missing_recipe_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="librispeech-960"):
        load_recipe("dmeo")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
