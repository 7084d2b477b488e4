"""An error says which file, which field, what was expected, and what to do."""

from __future__ import annotations

import pickle

from edge_runtime.errors import BundleError, BundleTampered, EdgeError


def test_a_bundle_error_says_everything_it_knows() -> None:
    error = BundleTampered(
        "has 3 bytes", file="m.onnx", field="size", expected="4", remedy="fetch it again"
    )
    assert str(error) == "m.onnx: size: has 3 bytes (expected 4); fetch it again"
    assert (error.problem, error.file, error.field) == ("has 3 bytes", "m.onnx", "size")
    assert str(BundleError("is wrong")) == "is wrong"


def test_errors_cross_process_borders() -> None:
    error = pickle.loads(pickle.dumps(BundleTampered("is missing", file="m.onnx")))
    assert isinstance(error, BundleTampered)
    assert isinstance(error, EdgeError)
    assert (str(error), error.file) == ("m.onnx: is missing", "m.onnx")
