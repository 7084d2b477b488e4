"""Every rule has a graph that breaks it, and only it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.lint import lint

WEIGHT = np.ones((32, 48), np.int8)


def model(opset: int = 19, **changes: Any) -> onnx.ModelProto:
    """A quantised product that breaks no rule, but for `changes` to its parts."""
    parts: dict[str, Any] = {
        "x_scale": np.float32(0.1), "x_zero": np.int8(0),
        "w": WEIGHT, "w_scale": np.full(48, 0.1, np.float32), "w_zero": np.zeros(48, np.int8),
        "axis": 1, "quantise": ["x", "x_scale", "x_zero"], "weights": ["w", "w_scale", "w_zero"],
        "before": [], "after": [], "trans": None, **changes,
    }  # fmt: skip
    product = (
        helper.make_node("MatMul", ["d", "v"], ["y"], "product")
        if parts["trans"] is None
        else helper.make_node("Gemm", ["d", "v"], ["y"], "product", transB=parts["trans"])
    )
    nodes = [
        *parts["before"],
        helper.make_node("QuantizeLinear", parts["quantise"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", *parts["quantise"][1:]], ["d"], "unround"),
        helper.make_node(
            "DequantizeLinear", parts["weights"], ["v"], "weights", axis=parts["axis"]
        ),
        product,
        *parts["after"],
    ]
    constants = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in parts.items()
        if isinstance(value, np.ndarray | np.generic)
    ]
    tensor = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes, "g",
            [tensor("x", TensorProto.FLOAT, ["n", 32])],
            [tensor("y", TensorProto.FLOAT, ["n", 48])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
    )  # fmt: skip


def rules(graph: onnx.ModelProto, tensorrt: tuple[int, int] = (10, 3)) -> set[str]:
    return {finding.rule for finding in lint(graph, tensorrt=tensorrt)}


def test_a_good_graph_has_no_findings() -> None:
    assert lint(model(), tensorrt=(10, 3)) == []
    assert lint(model(17), tensorrt=(8, 6)) == []
    assert lint(model(trans=1, axis=0, w=WEIGHT.T.copy()), tensorrt=(10, 3)) == []


NODE = helper.make_node
BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "unsigned activations": ("int8", {"x_zero": np.uint8(0)}),
    "unsigned weights": ("int8", {"w": WEIGHT.astype(np.uint8), "w_zero": np.zeros(48, np.uint8)}),
    "no zero point where one decides the type": ("int8", {"quantise": ["x", "x_scale"]}),
    "a zero point that is not zero": ("zero-point", {"x_zero": np.int8(3)}),
    "a zero point that is computed": (
        "zero-point",
        {"before": [NODE("Identity", ["x_zero"], ["z"])], "quantise": ["x", "x_scale", "z"]},
    ),
    "a scale that is computed": (
        "scale",
        {"before": [NODE("Identity", ["x_scale"], ["s"])], "quantise": ["x", "s", "x_zero"]},
    ),
    "a scale of zero": ("scale", {"x_scale": np.float32(0)}),
    "a negative scale": ("scale", {"w_scale": np.full(48, -0.1, np.float32)}),
    "an infinite scale": ("scale", {"x_scale": np.float32(np.inf)}),
    "scales per channel of activations": (
        "per-tensor",
        {"x_scale": np.full(32, 0.1, np.float32), "x_zero": np.zeros(32, np.int8)},
    ),
    "scales along the inputs of a product": (
        "axis",
        {"axis": 0, "w_scale": np.full(32, 0.1, np.float32), "w_zero": np.zeros(32, np.int8)},
    ),
    "scales along the inputs of a turned product": (
        "axis",
        {"trans": 1, "w": WEIGHT.T.copy(), "w_scale": np.full(32, 0.1, np.float32),
         "w_zero": np.zeros(32, np.int8)},
    ),
    "a quantised bias": (
        "bias",
        {"b": np.ones(48, np.int8), "b_scale": np.float32(0.1), "b_zero": np.int8(0),
         "after": [NODE("DequantizeLinear", ["b", "b_scale", "b_zero"], ["c"], "bias"),
                   NODE("Add", ["y", "c"], ["z"])]},
    ),
    "dynamic ranges": (
        "operator", {"after": [NODE("DynamicQuantizeLinear", ["y"], ["a", "b", "c"])]},
    ),
    "an operator of onnxruntime's": (
        "operator", {"after": [NODE("QuickGelu", ["y"], ["z"], domain="com.microsoft")]},
    ),
    "a slim product": (
        "small product",
        {"w": WEIGHT[:, :8].copy(), "w_scale": np.full(8, 0.1, np.float32),
         "w_zero": np.zeros(8, np.int8)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_every_rule_is_broken_by_its_graph_and_no_other_is(what: str) -> None:
    rule, changes = BROKEN[what]
    assert rules(model(**changes)) == {rule}


def test_older_releases_read_less() -> None:
    assert rules(model(19), (8, 6)) == {"opset"}
    assert rules(model(21), (10, 3)) == {"opset"}
    assert rules(model(21), (10, 16)) == set()
    norm = NODE("LayerNormalization", ["y", "y_scale"], ["z"])
    assert rules(model(17, after=[norm]), (8, 5)) == {"operator"}
    assert rules(model(17, after=[norm]), (8, 6)) == set()
    without = {"weights": ["w", "w_scale"]}
    assert rules(model(17, **without), (8, 6)) == {"zero-point"}
    assert rules(model(19, **without), (10, 3)) == set()


def test_half_precision_wants_the_opset_that_quantises_it() -> None:
    assert rules(model(17, x_scale=np.float16(0.1)), (10, 3)) == {"opset"}
    assert rules(model(19, x_scale=np.float16(0.1)), (10, 3)) == set()


def test_a_warning_says_so() -> None:
    (found,) = lint(model(**BROKEN["a slim product"][1]), tensorrt=(10, 3))
    assert found.warning and str(found) == (
        "warning: small product: product: 32 x 8 is no faster in INT8"
    )
