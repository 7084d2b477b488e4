"""Our own reader says of any ARPA file what kenlm says, and refuses what is none."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.decoding.arpa import ArpaModel
from edge_runtime.decoding.ngram import open_ngram
from edge_runtime.errors import ConfigError
from tests.edge_runtime.decoding.arpa import ARPA, write_arpa
from training.ngram import NgramLM, estimate

WORDS = "the a cat dog sat ran on under mat house red old".split()


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(
            WORDS[min(rng.randrange(12), rng.randrange(12))] for _ in range(rng.randrange(1, 9))
        )
        for _ in range(count)
    ]


def model(order: int, threshold: float) -> NgramLM:
    whole = estimate(sentences(200), order, ["zebra"])
    return whole.pruned(threshold) if threshold else whole


@pytest.mark.parametrize("order", [2, 3, 4, 5])  # kenlm reads no unigram models
@pytest.mark.parametrize("threshold", [0.0, 3e-4])
def test_scores_are_those_of_kenlm(tmp_path: Path, order: int, threshold: float) -> None:
    pytest.importorskip("kenlm")
    path = tmp_path / "lm.arpa"
    model(order, threshold).write(path)
    ours, theirs = ArpaModel.load(path), open_ngram(path)
    rng = random.Random(1)
    for sentence in sentences(200, seed=2):
        one, other = ours.start(), theirs.start()
        for word in sentence.split():
            said = rng.choice([word, word, word, "zebra", "unheard"])
            p, one = ours.score(one, said)
            q, other = theirs.score(other, said)
            assert (p is None) == (q is None) == (said == "unheard")
            assert p == pytest.approx(q, abs=1e-5)
        assert ours.end(one) == pytest.approx(theirs.end(other), abs=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_scores_are_those_of_the_estimate(tmp_path: Path, order: int) -> None:
    lm = model(order, 3e-4)
    lm.write(tmp_path / "lm.arpa")
    ours = ArpaModel.load(tmp_path / "lm.arpa")
    for sentence in sentences(50, seed=3):
        state, history = ours.start(), ("<s>",)
        for word in sentence.split():
            score, state = ours.score(state, word)
            assert score == pytest.approx(math.log(lm.probability(history, word)), abs=2e-3)
            history = (*history, word)
        assert ours.end(state) == pytest.approx(math.log(lm.probability(history, "</s>")), abs=2e-3)


def test_marks_of_sentences_are_no_words(tmp_path: Path) -> None:
    ours = ArpaModel.load(write_arpa(tmp_path))
    assert [ours.score(ours.start(), word)[0] for word in ("<s>", "</s>", "<unk>")] == [None] * 3


def test_a_model_without_an_unknown_word_has_a_state_after_one(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(
        ARPA.replace("ngram 1=6", "ngram 1=5").replace("-2.0\t<unk>\n", "")
    )
    ours, with_it = ArpaModel.load(tmp_path / "lm.arpa"), ArpaModel.load(write_arpa(tmp_path))
    for lm in (ours, with_it):
        assert lm.score(lm.score(lm.start(), "zebra")[1], "a")[0] == pytest.approx(
            -0.7 * math.log(10)
        )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\\data\\", "data", "no .*data"),
        ("ngram 1=6\nngram 2=4", "", "how many"),
        ("ngram 1=6\n", "", "orders from 1"),
        ("ngram 2=4", "ngram 2=5", "2-grams"),
        ("ngram 2=4", "ngram 2=3", "expected .*end"),
        ("ngram 1=6", "ngram 1=5", "expected .*2-grams"),
        ("ngram 1=6", "ngram 1=99999999999", "how many"),
        ("-0.7\ta", "often\ta", "often"),
        ("-0.7\ta", "nan\ta", "number"),
        ("-0.7\ta", "inf\ta", "number"),
        ("-0.7\ta\t-0.3", "-0.7\ta\tb\t-0.3", "1-grams"),
        ("-0.7\ta\t-0.3", "-0.7", "1-grams"),
        ("-1.1\tb", "-1.1\ta", "1-grams: one of them is listed twice"),
        ("</s>\n-2.0", "s\n-2.0", "'</s>' is no word"),
        ("-0.4\tab a", "-0.2\t<s> ab", "2-grams: one of them is listed twice"),
        ("-0.4\tab a", "-0.4\tab cd", "'cd' is no word"),
        ("\\2-grams:", "\\3-grams:", "expected .*2-grams:, not"),
        ("\\end\\", "", "not b'the end of the file'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    assert old in ARPA
    path = tmp_path / "bad.arpa"
    path.write_text(ARPA.replace(old, new))
    with pytest.raises(ConfigError, match=rf"bad\.arpa: cannot be read: .*{problem}"):
        ArpaModel.load(path)


def test_an_ngram_whose_context_is_not_listed_is_refused(tmp_path: Path) -> None:
    lines = ARPA.replace("ngram 2=4\n", "ngram 2=4\nngram 3=1\n").replace(
        "\\end\\", "\\3-grams:\n-0.1\ta b ab\n\n\\end\\"
    )
    (tmp_path / "bad.arpa").write_text(lines)
    with pytest.raises(ConfigError, match="context of an n-gram is not listed"):
        ArpaModel.load(tmp_path / "bad.arpa")
    (tmp_path / "good.arpa").write_text(lines.replace("a b ab", "b ab a"))
    ArpaModel.load(tmp_path / "good.arpa")


@given(st.integers(0, len(ARPA)), st.integers(0, len(ARPA)), st.binary(max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_model_or_a_config_error(
    tmp_path: Path, start: int, size: int, put: bytes
) -> None:
    content = ARPA.encode()
    path = tmp_path / "any.arpa"
    path.write_bytes(content[:start] + put + content[start + size % 20 :])
    try:
        found = ArpaModel.load(path)
    except ConfigError as error:
        assert "any.arpa" in str(error)
    else:
        assert math.isfinite(found.end(found.score(found.start(), "ab")[1]))


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none"):
        ArpaModel.load(tmp_path / "none")
