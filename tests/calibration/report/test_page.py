"""The page says what was measured, names only pictures that are there, quotes texts as texts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from calibration.compare import Difference
from calibration.histogram import Histogram
from calibration.methods import METHODS
from calibration.ranges import Ranges, TensorRange
from calibration.report.layers import Layer, Layers
from calibration.report.page import Facts, write_report
from calibration.report.recognition import Comparison, Hearing, Pair
from edge_runtime.manifest import Utterance
from edge_runtime.metrics import char_errors, word_errors

PNG = b"\x89PNG\r\n\x1a\n"


def hearing(said: str, heard: str) -> Hearing:
    words = tuple(word in said.split() for word in heard.split())
    return Hearing(
        text=heard, words=word_errors(said, heard), characters=char_errors(said, heard),
        confidences=tuple(0.9 if right else 0.4 for right in words), right=words, cpu_s=0.01,
    )  # fmt: skip


def pair(speaker: str, said: str, before: str, after: str) -> Pair:
    return Pair(
        utterance=Utterance(audio_filepath=Path(f"{speaker}.wav"), duration=1, text=said,
                            speaker=speaker),
        seconds=2.0, before=hearing(said, before), after=hearing(said, after),
    )  # fmt: skip


@pytest.fixture
def facts() -> Facts:
    rng = np.random.default_rng(0)
    histograms, tensors, layers = {}, {}, []
    for number in range(9):
        histogram = Histogram()
        histogram.add(rng.standard_normal(4000).astype(np.float32))
        x = f"x{number}"
        histograms[x] = histogram
        found = {method: find(histogram) for method, find in METHODS.items()}
        cut = {method: histogram.beyond(limit) for method, limit in found.items()}
        tensors[x] = TensorRange(low=-3.0, high=3.0, candidates=found, cut=cut)
        layers.append(
            Layer(
                label=f"blocks.{number // 3}.part{number}", x=x, activations_db=30.0 + number,
                weights_db=40.0, output_db=29.0 + number, cut=cut["mse"], in_float=number == 8,
            )
        )  # fmt: skip
    costs = {
        method: {"divergence": 0.01 * (n + 1), "frames": 0.0, "tokens": 0.01, "snr_db": 30.0}
        for n, method in enumerate(METHODS)
    }
    verdict = {
        "divergence": {"before": 0.03, "after": 0.02}, "gain": 0.01, "standard_error": 0.002,
        "kept": True,
    }  # fmt: skip
    recordings = (
        pair("ann", "one two three four", "one two three four", "one two tree four"),
        pair("bob|_*", "five | six", "five six", "five six"),
    )
    return Facts(
        title="tiny 1", precision="int8-x86",
        sizes={"encoder.onnx": 2_000_000, "encoder.int8-x86.onnx": 1_000_000},
        float32_bytes=4_000_000,
        ranges=Ranges(
            model_sha256="a" * 64, manifest_sha256="b" * 64, chunks=50, method="mse",
            tensors=tensors, measured={"methods": costs, "smooth": {**verdict, "best": "0.5 max"}},
        ),
        differences={"int8-x86": Difference(0.01, 0.02, 0.0123, 35.0)},
        layers=Layers(tuple(layers), histograms),
        chunks={ms: Comparison(recordings) for ms in (160, 320)},
        default_chunk_ms=320, source="made up", processor="a processor",
    )  # fmt: skip


def pictures(page: str) -> set[str]:
    return set(re.findall(r"!\[[^]]+\]\((.+?)\)", page))


def test_the_page_has_the_numbers_and_every_picture_it_names(tmp_path: Path, facts: Facts) -> None:
    page = write_report(tmp_path / "report", facts).read_text()
    assert "0.250 of float32" in page  # size
    assert "14.29% → 28.57%" in page  # word error rate: one of seven words, then two
    assert "1.23%" in page  # tokens
    assert "| SmoothQuant | 0.5 max | 0.03 → 0.02 | +0.01 ± 0.002 | yes |" in page
    assert "`blocks.0.part0` | 29.0 | 30.0 | 40.0" in page
    assert "part8" not in page  # stays float, so INT8 does not hurt it
    named = pictures(page)
    assert named == {
        "confidence.png", "speakers.png", "methods.png", "histograms.png", "layers.png",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "report").iterdir()} == {*named, "report.md"}
    for name in named:
        content = (tmp_path / "report" / name).read_bytes()
        assert content.startswith(PNG) and len(content) > 5000


def test_the_same_facts_give_the_same_files(tmp_path: Path, facts: Facts) -> None:
    for folder in ("one", "two"):
        write_report(tmp_path / folder, facts)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_what_differs_is_bold_and_what_was_said_is_no_markdown(
    tmp_path: Path, facts: Facts
) -> None:
    page = write_report(tmp_path, facts).read_text()
    assert "| INT8 | 1 | one two **tree** four |" in page
    assert "| float | 0 | one two **three** four |" in page
    assert "1 of 2 recordings are heard the same" in page
    assert "bob\\|\\_\\*" in page and "bob|_*" not in page
    rows = [line for line in page.splitlines() if line.startswith("| ann")]
    assert rows and all(row.replace("\\|", "").count("|") == 6 for row in rows[:1])


def test_without_recordings_or_costs_it_says_so_and_draws_the_rest(
    tmp_path: Path, facts: Facts
) -> None:
    ranges = dataclasses.replace(facts.ranges, measured={})
    bare = dataclasses.replace(facts, chunks={}, ranges=ranges)
    page = write_report(tmp_path, bare).read_text()
    assert "nothing was compared" in page
    assert pictures(page) == {"histograms.png", "layers.png"}


def test_words_out_of_nowhere_and_labels_in_any_script_are_drawn(
    tmp_path: Path, facts: Facts
) -> None:
    odd = Comparison((pair("録音 $\\frac$", "", "uh", "uh uh"), pair("bob", "", "", "um")))
    page = write_report(tmp_path, dataclasses.replace(facts, chunks={320: odd})).read_text()
    assert "| word error rate | inf% → inf% |" in page
    assert "| difference | – points" in page and "speakers.png" in page


def test_words_that_nobody_heard_do_not_stop_it(tmp_path: Path, facts: Facts) -> None:
    silent = Comparison((pair("ann", "", "", ""), pair("bob", "one", "", "")))
    page = write_report(tmp_path, dataclasses.replace(facts, chunks={320: silent})).read_text()
    assert "confidence.png" not in page and "speakers.png" in page
