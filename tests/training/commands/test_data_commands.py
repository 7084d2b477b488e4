"""`prepare`, `tokenizer` and `features` as a user runs them, one after the other."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from edge_runtime.errors import ConfigError
from edge_runtime.manifest import read_manifest
from tests.training.corpus import sentence
from training.commands import features, prepare, tokenizer
from training.store import FeatureStore
from training.tokenizer import Tokenizer


def run(command: ModuleType, *argv: object) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    status: int = command.run(parser.parse_args([str(arg) for arg in argv]))
    return status


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LibriSpeech, as far as its layout goes."""
    root = tmp_path_factory.mktemp("LibriSpeech")
    chapter = root / "dev-clean" / "84" / "7"
    chapter.mkdir(parents=True)
    lines = []
    for index in range(40):
        samples = 0.1 * np.sin(np.arange(4000 + 100 * index) / 20)
        soundfile.write(chapter / f"84-7-{index:04d}.flac", samples, 16_000)
        lines.append(f"84-7-{index:04d} {sentence(index).upper()}\n")
    (chapter / "84-7.trans.txt").write_text("".join(lines))
    return root


def test_a_corpus_becomes_manifests_units_and_features(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(prepare, "librispeech", corpus, "--out", tmp_path) == 0
    manifest = tmp_path / "dev-clean.jsonl"
    utterances = read_manifest(manifest)
    assert [u.text for u in utterances] == [sentence(index) for index in range(40)]
    assert f"{manifest}: 40 utterances" in capsys.readouterr().out

    out = tmp_path / "tokenizer"
    assert run(tokenizer, "--manifest", manifest, "--vocab-size", 40, "--out", out) == 0
    assert Tokenizer.load(out).vocab_size == 41
    assert "41 classes" in capsys.readouterr().out

    store = tmp_path / "store"
    assert run(features, "--manifest", manifest, "--out", store) == 0
    assert FeatureStore.open(store).texts == [u.text for u in utterances]
    assert f"{store}: 40 utterances" in capsys.readouterr().out


def test_altered_copies_are_asked_for_by_option(corpus: Path, tmp_path: Path) -> None:
    run(prepare, "librispeech", corpus, "--out", tmp_path)
    options = ("--augment", "light", "--copies", 2, "--out", tmp_path / "store")
    run(features, "--manifest", tmp_path / "dev-clean.jsonl", *options)
    assert len(FeatureStore.open(tmp_path / "store")) == 120


def test_what_cannot_be_written_is_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cv" / "en"
    root.mkdir(parents=True)
    (root / "train.tsv").write_text("client_id\tpath\tsentence\nx\ta.mp3\t日本語\n")
    assert run(prepare, "commonvoice", tmp_path / "cv", "--locale", "en", "--out", tmp_path) == 0
    captured = capsys.readouterr()
    assert "train.jsonl: 0 utterances" in captured.out
    assert "1 left out" in captured.err


def test_counts_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs"):
        run(features, "--manifest", "m", "--out", tmp_path, "--jobs", 0)
