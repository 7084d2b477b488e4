"""What is wrong with a configuration is said when decoders are configured, not mid-stream."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.decoding import BeamConfig, GreedyConfig, decoder_factory
from edge_runtime.decoding.beam import BeamDecoder
from edge_runtime.decoding.greedy import GreedyDecoder
from edge_runtime.errors import ConfigError
from tests.edge_runtime.decoding.brute import VOCABULARY


def test_the_configuration_chooses_the_decoder() -> None:
    assert isinstance(decoder_factory(GreedyConfig(), VOCABULARY)(), GreedyDecoder)
    assert isinstance(decoder_factory(BeamConfig(), VOCABULARY)(), BeamDecoder)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (BeamConfig(hotwords=("xylophone",)), "it never writes"),
        (BeamConfig(hotwords=("ab:much",)), "'much' is not a number"),
        (BeamConfig(hotwords=("ab",), hotword_boost=1e6), "must be within"),
        (BeamConfig(lm="/nowhere/lm.arpa"), "no such file"),
    ],
)
def test_a_bad_configuration_makes_no_decoders(config: BeamConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        decoder_factory(config, VOCABULARY)


def test_greedy_decoding_loads_neither_the_search_nor_kenlm() -> None:
    code = """
import sys
from edge_runtime.decoding import GreedyConfig, decoder_factory
from edge_runtime.tokens import BLANK, Vocabulary
decoder_factory(GreedyConfig(), Vocabulary.from_pieces(["a", BLANK]))()
assert not {"kenlm", "edge_runtime.decoding.beam"} & set(sys.modules)
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
