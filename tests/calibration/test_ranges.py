"""`ranges.json` says the same after a round trip, and refuses what is not its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibration.graph import load_graph
from calibration.ranges import Ranges
from edge_runtime.errors import BundleError, BundleIncompatible
from tests.calibration.graphs import features, ranges_of, write_encoder


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory) -> Ranges:
    path = write_encoder(tmp_path_factory.mktemp("model") / "encoder.onnx")
    return ranges_of(path, features(2.0))[1]


def test_a_round_trip_changes_nothing(ranges: Ranges, tmp_path: Path) -> None:
    ranges = dataclasses.replace(ranges, method="kl", keep_float=("a", "b"), measured={"x": 1.5})
    ranges.write(tmp_path / "ranges.json")
    again = Ranges.load(tmp_path / "ranges.json")
    assert again == ranges
    assert again.to_json() == ranges.to_json()


def test_every_tensor_has_every_candidate_and_what_it_cuts(ranges: Ranges) -> None:
    for tensor in ranges.tensors.values():
        assert tensor.candidates.keys() == tensor.cut.keys()
        assert tensor.low < 0 < tensor.high
        assert tensor.candidates["max"] == pytest.approx(max(-tensor.low, tensor.high), rel=1e-5)
        assert tensor.cut["max"] == 0.0 and 0 <= tensor.cut["p99.9"] <= 1e-3


def test_ranges_of_another_model_are_refused(ranges: Ranges, tmp_path: Path) -> None:
    other = load_graph(write_encoder(tmp_path / "other.onnx", "conformer"))
    with pytest.raises(BundleError, match=r"ranges: are those of another model .*SHA-256"):
        ranges.scales(other)


def _without(field: str) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields.pop(field)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.update(schema_version=3), "schema_version"),
        (_without("schema_version"), "schema_version"),
        (_without("tensors"), "malformed"),
        (_without("method"), "malformed"),
        (lambda f: f.update(method="best"), "method: one of max"),
        (lambda f: next(iter(f["tensors"].values()))["candidates"].pop("mse"), "tensors"),
        (lambda f: next(iter(f["tensors"].values()))["candidates"].update(mse=-1), "negative"),
        (lambda f: f.update(tensors=[]), "malformed"),
        (lambda f: f.update(chunks="many"), "malformed"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(
    ranges: Ranges, tmp_path: Path, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    fields = json.loads(ranges.to_json())
    spoil(fields)
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=rf"ranges\.json.*{message}"):
        Ranges.load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'"x"', b"null"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(content)
    with pytest.raises((BundleError, BundleIncompatible), match=r"ranges\.json"):
        Ranges.load(path)
