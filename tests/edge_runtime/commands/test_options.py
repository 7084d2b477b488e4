"""From command line options to a Recognizer's settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.commands import options
from edge_runtime.decoding import BeamConfig, GreedyConfig
from edge_runtime.errors import ConfigError
from edge_runtime.recognizer import Recognizer
from tests.edge_runtime.decoding.arpa import write_arpa
from tests.edge_runtime.tones import write_tone_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_bundle(tmp_path_factory.mktemp("options") / "bundle").path


@pytest.fixture(scope="module")
def lm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    return write_tone_bundle(folder / "bundle", lm=write_arpa(folder).read_text()).path


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_decoding_options(parser)
    options.add_model_options(parser)
    return parser.parse_args(argv)


@pytest.fixture
def decoder(bundle: Path) -> Callable[..., GreedyConfig | BeamConfig]:
    return lambda *argv: options._decoder(parse(*argv), bundle)


def test_the_search_is_greedy_until_an_option_needs_a_beam(
    decoder: Callable[..., GreedyConfig | BeamConfig], tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("# names\nada lovelace:3 # the first\n\nalan\n")
    assert decoder() == GreedyConfig()
    assert decoder("--beam", "4") == BeamConfig(beam=4)
    assert decoder("--nbest", "30") == BeamConfig(beam=30, nbest=30)
    assert decoder("--hotword", "ada") == BeamConfig(hotwords=("ada",))
    assert decoder("--hotword", "tea:2", "--hotwords", str(tmp_path / "words.txt")) == BeamConfig(
        hotwords=("tea:2", "ada lovelace:3", "alan")
    )


def test_a_language_model_is_a_file(
    decoder: Callable[..., GreedyConfig | BeamConfig],
) -> None:
    assert decoder("--lm", "en.arpa") == BeamConfig(lm="en.arpa")
    assert decoder("--lm", "en.arpa", "--lm-weight", "0.3") == BeamConfig(
        lm="en.arpa", lm_weight=0.3
    )
    assert decoder("--lm-weight", "0") == GreedyConfig()


def test_a_search_takes_the_bundles_language_model_as_it_was_tuned(lm_bundle: Path) -> None:
    pytest.importorskip("kenlm")
    lm = str(lm_bundle / "lm.arpa")

    def found(*argv: str) -> GreedyConfig | BeamConfig:
        return options._decoder(parse(*argv), lm_bundle)

    tuned = BeamConfig(beam=4, lm=lm, lm_weight=0.25, word_bonus=2.0)
    assert found() == GreedyConfig()
    assert found("--beam", "4") == tuned
    assert found("--beam", "4", "--lm-weight", "0.9") == replace(tuned, lm_weight=0.9)
    assert found("--beam", "4", "--lm-weight", "0") == BeamConfig(beam=4, lm_weight=0)
    assert found("--beam", "4", "--lm", "mine.arpa") == BeamConfig(beam=4, lm="mine.arpa")
    assert Recognizer.open(lm_bundle, decoder=tuned).stream().finish()


def test_without_kenlm_the_bundles_language_model_is_searched_with_all_the_same(
    lm_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    decoder = options._decoder(parse("--beam", "4"), lm_bundle)
    assert decoder == BeamConfig(
        beam=4, lm=str(lm_bundle / "lm.arpa"), lm_weight=0.25, word_bonus=2.0
    )
    assert Recognizer.open(lm_bundle, decoder=decoder).stream().finish()


def test_a_byte_order_mark_is_no_part_of_a_phrase(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("ada\n", encoding="utf-8-sig")
    assert options.read_hotwords(str(tmp_path / "words.txt")) == ["ada"]


def test_options_reach_the_recognizer(bundle: Path) -> None:
    recognizer = options.open_recognizer(
        parse("--bundle", str(bundle), "--no-endpoint", "--nbest", "2", "--chunk-ms", "160")
    )
    assert isinstance(recognizer, Recognizer)
    assert recognizer.endpoint is None
    assert (recognizer.nbest, recognizer.chunk_ms) == (2, 160)
    with pytest.raises(ConfigError, match="160"):
        options.open_recognizer(parse("--bundle", str(bundle), "--chunk-ms", "80"))


def test_a_bundle_is_named_or_in_the_environment_or_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = tmp_path / "bundles" / "en-demo"
    demo.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(options.BUNDLE_VARIABLE, raising=False)
    monkeypatch.setattr(options, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="no model bundle: give --bundle DIR or set VITCONFORMER"):
        options.find_bundle(None)
    (demo / "manifest.json").write_text("{}")
    assert options.find_bundle(None).resolve() == demo
    monkeypatch.setenv(options.BUNDLE_VARIABLE, "/theirs")
    assert options.find_bundle(None) == Path("/theirs")
    assert options.find_bundle("/named") == Path("/named")


@pytest.mark.parametrize("text", ["0", "-1", "80,,160", "ten"])
def test_sizes_are_whole_numbers_from_one(text: str) -> None:
    with pytest.raises(ValueError):
        options.positives(text)
