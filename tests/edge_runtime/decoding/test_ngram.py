"""Scores are those of the ARPA file, in natural logs, whoever reads it; bad files say so."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.decoding.ngram import open_ngram
from edge_runtime.errors import ConfigError
from tests.edge_runtime.decoding.arpa import bigram, write_arpa


@pytest.fixture(params=["kenlm", "arpa"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who reads the file: kenlm, or ourselves because kenlm is not installed."""
    if request.param == "kenlm":
        pytest.importorskip("kenlm")
    else:
        monkeypatch.setitem(sys.modules, "kenlm", None)
    name: str = request.param
    return name


@pytest.mark.usefixtures("reader")
def test_scores_are_the_natural_logs_of_the_file(tmp_path: Path) -> None:
    model = open_ngram(write_arpa(tmp_path))
    state, before = model.start(), "<s>"
    for word in ["ab", "a", "b", "ab", "ab"]:
        score, state = model.score(state, word)
        assert score == pytest.approx(bigram(before, word) * math.log(10), rel=1e-5)
        before = word
    assert model.end(state) == pytest.approx(bigram("ab", "</s>") * math.log(10), rel=1e-5)


@pytest.mark.usefixtures("reader")
def test_a_state_can_be_continued_in_several_ways(tmp_path: Path) -> None:
    model = open_ngram(write_arpa(tmp_path))
    start = model.start()
    first = [model.score(start, word)[0] for word in ("a", "ab", "b")]
    assert [model.score(start, word)[0] for word in ("a", "ab", "b")] == first


@pytest.mark.usefixtures("reader")
def test_an_unknown_word_has_no_score_but_a_state_after_it(tmp_path: Path) -> None:
    model = open_ngram(write_arpa(tmp_path))
    score, state = model.score(model.start(), "zebra")
    assert score is None
    assert model.score(state, "a")[0] == pytest.approx(bigram("zebra", "a") * math.log(10))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.arpa: no such file"):
        open_ngram(tmp_path / "nothing.arpa")
    with pytest.raises(ConfigError, match="no such file"):
        open_ngram(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\\data\\\nngram 1=3\n", b"\x00\x01binary", b"text"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, reader: str) -> None:
    path = tmp_path / "bad.arpa"
    path.write_bytes(content)
    is_text = b"data" in content
    expected = "cannot be read" if reader == "kenlm" or is_text else "is no ARPA text"
    with pytest.raises(ConfigError, match=rf"bad\.arpa: {expected}"):
        open_ngram(path)


def test_without_kenlm_the_error_about_a_binary_file_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(ConfigError, match=r"pip install 'vitconformer\[lm\]'"):
        open_ngram(tmp_path / "lm.bin")


def test_reading_a_model_prints_nothing(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    path = write_arpa(tmp_path)
    code = f"from edge_runtime.decoding.ngram import open_ngram; open_ngram({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
