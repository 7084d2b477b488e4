"""The rival of the INT8 benchmark is quantised, and its last line is one that scripts can read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from benchmarks import int8
from tests.calibration.graphs import write_encoder

RESULTS: dict[str, Any] = {
    "precision": "int8-x86",
    "size_mb": {"float32": 5.8, "int8-x86": 3.4},
    "size_ratio_to_float32_weights": 0.3,
    "chunks": {
        chunk_ms: {
            "cpu_s_per_audio_s": {"float": 0.01, "int8": 0.005, "sherpa": 0.006},
            "ratio": 0.5, "ratio_to_sherpa": 0.8333,
            "graph_ms": {"float": 2.0, "int8": 0.9}, "graph_ratio": 0.45,
        }
        for chunk_ms in ("320", "80")
    },
    "agreement": {"edits_per_token": [0.01, 0.012], "tokens": 900},
    "sets": {
        name: {
            "wer": {"float": 0.2, "int8": 0.2 + difference}, "difference": difference,
            "interval": [-0.004, 0.006], "ece": {"float": 0.04, "int8": 0.041}, "utterances": 9,
        }
        for name, difference in (("a", 0.001), ("b", -0.0025))
    },
}  # fmt: skip


def test_every_product_of_the_rival_is_quantised(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    int8.usual_dynamic(path, tmp_path / "dynamic.onnx")
    before, after = (
        Counter(node.op_type for node in onnx.load(file).graph.node)
        for file in (path, tmp_path / "dynamic.onnx")
    )
    assert after["MatMulInteger"] == before["Gemm"] > 20


def test_the_headline_has_the_ratio_and_the_worst_difference() -> None:
    assert int8.headline(RESULTS) == "int8/float 0.50 dWER 0.25"


def test_every_row_of_the_table_is_as_wide_as_its_header() -> None:
    header, *rows = int8.table(RESULTS)
    assert {len(row) for row in rows} == {len(header)}
    assert ["a: WER at 320 ms, greedy", "20.00%", "20.10%", "+0.10 points (-0.40 to +0.60)"] in rows
