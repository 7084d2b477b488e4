from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.tokens import Vocabulary
from tests.training.corpus import sentence
from training.tokenizer import Tokenizer, train_tokenizer

TEXTS = [sentence(index) for index in range(300)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("tokenizer"), vocab_size=50)


def test_text_survives_encoding(tokenizer: Tokenizer) -> None:
    for text in [*TEXTS, "xylophone", "they'd", ""]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_blank_is_the_last_of_the_classes_and_never_encoded(tokenizer: Tokenizer) -> None:
    assert (tokenizer.vocab_size, tokenizer.blank_id) == (51, 50)
    assert all(0 < unit < 50 for text in TEXTS for unit in tokenizer.encode(text))


def test_devices_read_the_same_vocabulary(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary.load(tokenizer.path / "tokens.txt")
    assert vocabulary == tokenizer.vocabulary
    assert vocabulary.blank_id == tokenizer.blank_id
    for text in TEXTS[:20]:
        assert vocabulary.detokenise(tokenizer.encode(text)) == text


def test_nothing_but_unk_is_special(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.vocabulary.pieces
    assert [piece for piece in pieces if piece.startswith("<")] == ["<unk>", "<blk>"]
    assert set("".join(pieces[1:-1])) == set("".join(TEXTS).replace(" ", "▁"))


def test_training_again_gives_the_same_files_whatever_the_order(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    train_tokenizer(reversed(TEXTS), tmp_path, vocab_size=50)
    for name in ("tokenizer.model", "tokens.txt"):
        assert (tmp_path / name).read_bytes() == (tokenizer.path / name).read_bytes()


def test_sampled_segmentations_say_the_same_and_are_repeatable(tokenizer: Tokenizer) -> None:
    text = "seven quick brown foxes"
    rng = np.random.default_rng(3)
    samples = [tokenizer.sample(text, rng) for _ in range(50)]
    rng = np.random.default_rng(3)
    assert samples == [tokenizer.sample(text, rng) for _ in range(50)]
    assert len({tuple(ids) for ids in samples}) > 2
    assert {tokenizer.decode(ids) for ids in samples} == {text}
    assert tokenizer.sample("", rng) == []


def test_segmentations_are_drawn_as_often_as_they_are_probable(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    pieces = {piece: i for i, piece in enumerate(tokenizer.vocabulary.pieces)}
    drawn = Counter(tuple(tokenizer.sample("the", rng, alpha=1.0)) for _ in range(3000))
    splits = (["▁the"], ["▁th", "e"], ["▁t", "he"], ["▁t", "h", "e"], ["▁", "t", "h", "e"])
    possible = [tuple(pieces[x] for x in split) for split in splits if set(split) <= set(pieces)]
    best = tuple(tokenizer.encode("the"))
    assert drawn.most_common(1)[0][0] == best
    assert len(possible) > 1
    assert set(possible) >= {ids for ids, count in drawn.items() if count > 150}


def test_a_flat_draw_still_ends_for_characters_without_a_piece(tokenizer: Tokenizer) -> None:
    ids = tokenizer.sample("the é", np.random.default_rng(0))
    assert 0 in ids


def test_a_tokenizer_pickles_as_its_directory(tokenizer: Tokenizer) -> None:
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 500
    assert pickle.loads(pickled).encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_what_cannot_be_trained_or_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no text"):
        train_tokenizer(["", ""], tmp_path)
    with pytest.raises(ConfigError, match="5000 pieces"):
        train_tokenizer(["a few words"], tmp_path, vocab_size=5000)
    with pytest.raises(ConfigError, match=r"tokenizer\.model"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=r"tokenizer\.model"):
        Tokenizer.load(tmp_path)
