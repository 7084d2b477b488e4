"""`lm` as a user runs it: what is learnt and what is not."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import pytest

from edge_runtime.decoding.ngram import unigrams
from edge_runtime.errors import ConfigError
from tests.training.commands.test_data_commands import run
from training.commands import lm
from training.text import split_of

HOME = "the captain sailed his old ship into harbour while men sang about rum".split()
PAIRS = list(itertools.product("bcdfglmnprst", "aeiou"))


def book(path: Path, words: list[str], *, sentences: int = 400, seed: int = 0) -> Path:
    """Prose of these words, some of them much more often one after the other."""
    rng = random.Random(seed)
    lines = []
    for _ in range(sentences):
        at = rng.randrange(len(words))
        said = [words[(at + n + rng.choice((0, 0, 1))) % len(words)] for n in range(8)]
        lines.append(f"{' '.join(said).capitalize()}.")
    path.write_text("\n\n".join(lines) + "\n")
    return path


def manifest(path: Path, texts: list[str]) -> Path:
    lines = [
        {"audio_filepath": "a.wav", "duration": 1.0, "text": text, "speaker": "s"} for text in texts
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def words_of(path: Path) -> set[str]:
    return {word for word, _ in unigrams(path)}


def test_a_model_of_a_book_knows_its_words_and_those_of_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "words"
    listed.write_text("Zebra\nzebra's\nship\nnaïve\nice cream\n")
    status = run(lm, "--text", book(tmp_path / "book.txt", HOME), "--words", listed,
                 "--prune", 1e-4, "--out", tmp_path / "lm.arpa")  # fmt: skip
    assert status == 0
    assert words_of(tmp_path / "lm.arpa") == {*HOME, "zebra", "naive"}
    said = capsys.readouterr().out
    assert re.search(r"\d+ n-grams of \d+, .* perplexity of \d+ development sentences \d+", said)


def test_sentences_for_evaluation_are_not_learnt(tmp_path: Path) -> None:
    text = book(tmp_path / "book.txt", HOME)
    secret = tmp_path / "secret.txt"
    secret.write_text(f"{text.read_text()}\n\nNobody mentions xylophones.\n")
    out = tmp_path / "lm.arpa"
    unlearnt = manifest(tmp_path / "test.jsonl", ["nobody mentions xylophones"])
    run(lm, "--text", secret, "--exclude", unlearnt, "--prune", 0, "--out", out)
    assert words_of(out) == set(HOME)
    run(lm, "--text", secret, "--prune", 0, "--out", out)
    assert words_of(out) == {*HOME, "nobody", "mentions", "xylophones"}


def test_only_sentences_of_the_training_split_are_learnt(tmp_path: Path) -> None:
    said = {f"{letters}ox": f"somebody mentions {letters}ox" for letters in map("".join, PAIRS)}
    text = tmp_path / "book.txt"
    text.write_text("\n\n".join(f"{sentence.capitalize()}." for sentence in said.values()) + "\n")
    learnt = {word for word, sentence in said.items() if split_of(sentence) == "train"}
    assert 0 < len(learnt) < len(said)
    run(lm, "--text", text, "--prune", 0, "--out", tmp_path / "lm.arpa")
    assert words_of(tmp_path / "lm.arpa") == {*learnt, "somebody", "mentions"}


def test_texts_that_are_not_there_are_named(tmp_path: Path) -> None:
    text, out = book(tmp_path / "book.txt", HOME), tmp_path / "lm.arpa"
    with pytest.raises(ConfigError, match=r"missing\.txt: No such file"):
        run(lm, "--text", text, tmp_path / "missing.txt", "--out", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: no \.txt file"):
        run(lm, "--text", text, tmp_path / "empty", "--out", out)
    assert not out.exists()
