"""`calibration.cache` says what `ranges.json` says, in TensorRT's text."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.cache import cache
from calibration.graph import FloatGraph, load_graph
from calibration.ranges import Ranges
from edge_runtime.errors import BundleError, ConfigError
from tests.calibration.graphs import features, ranges_of, write_encoder


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[FloatGraph, Ranges]:
    path = write_encoder(tmp_path_factory.mktemp("model") / "encoder.onnx")
    graph, ranges = ranges_of(path, features(2.0))
    return graph, dataclasses.replace(ranges, method="mse")


def read(content: bytes) -> tuple[str, dict[str, float]]:
    """As TensorRT's samples read it: a title, then names and the bits of a float32."""
    title, *lines = content.decode("ascii").splitlines()
    pairs = (line.split(": ") for line in lines)
    return title, {name: struct.unpack("!f", bytes.fromhex(bits))[0] for name, bits in pairs}


def test_what_is_read_back_is_every_step_as_float32(case: tuple[FloatGraph, Ranges]) -> None:
    graph, ranges = case
    content = cache(graph, ranges, "8.6.2")
    title, steps = read(content)
    assert title == "TRT-8602-EntropyCalibration2"
    assert steps == {name: float(np.float32(s)) for name, s in ranges.scales(graph).items()}
    assert content == cache(load_graph(Path(graph.file)), ranges, "8.6.2")


def test_names_are_those_of_the_float_file(case: tuple[FloatGraph, Ranges]) -> None:
    graph, ranges = case
    tensors = {name for node in onnx.load(graph.file).graph.node for name in node.output}
    assert read(cache(graph, ranges, "8.6.2"))[1].keys() <= tensors


def test_tensors_that_only_float_layers_read_have_no_line(case: tuple[FloatGraph, Ranges]) -> None:
    graph, ranges = case
    head = graph.linears[-1]
    kept = dataclasses.replace(ranges, keep_float=(head.name,))
    assert set(read(cache(graph, ranges, "8.6.2"))[1]) - set(
        read(cache(graph, kept, "8.6.2"))[1]
    ) == {head.x}


@pytest.mark.parametrize(
    ("version", "title"),
    [("8.5.2.2", "TRT-8502-"), ("8.6", "TRT-8600-"), ("10.3.0", "TRT-100300-")],
)
def test_the_title_counts_releases_as_tensorrt_does(
    case: tuple[FloatGraph, Ranges], version: str, title: str
) -> None:
    assert cache(*case, version).decode().startswith(title)


@pytest.mark.parametrize("version", ["11.0.0", "7.1.3", "8", "eight", "8.6.2; rm", ""])
def test_a_release_without_such_a_cache_is_refused(
    case: tuple[FloatGraph, Ranges], version: str
) -> None:
    with pytest.raises(ConfigError, match=r"--cache"):
        cache(*case, version)


def test_ranges_of_a_changed_graph_are_refused(case: tuple[FloatGraph, Ranges]) -> None:
    graph, ranges = case
    with pytest.raises(ConfigError, match="calibrate with --plain"):
        cache(graph, dataclasses.replace(ranges, smooth={graph.linears[0].x: (1,) * 64}), "8.6.2")
    with pytest.raises(BundleError, match="another model"):
        cache(graph, dataclasses.replace(ranges, model_sha256="0" * 64), "8.6.2")
