"""Convolutions rewritten as products, against onnxruntime's own integer convolution."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.integer_conv import convolutions_as_products


def graph(
    *, taps: int, stride: int, dilation: int, pads: tuple[int, int], bias: bool, channels: int = 6
) -> onnx.ModelProto:
    """x f32 (B, C, T) -> y, quantised as tools of the trade do it: the bias as integers too."""
    rng = np.random.default_rng(taps)
    constants = {
        "w": rng.integers(0, 256, (5, channels, taps), np.uint8),
        "w_scale": np.float32(0.01),
        "w_zero": np.uint8(119),
        "bias": rng.normal(0, 3, 5).astype(np.float32),
        "column": np.array([1, -1, 1], np.int64),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "x_scale", "x_zero"]),
        helper.make_node("Mul", ["x_scale", "w_scale"], ["scales"]),
        helper.make_node(
            "ConvInteger", ["q", "w", "x_zero", "w_zero"], ["sums"], kernel_shape=[taps],
            strides=[stride], dilations=[dilation], pads=list(pads), group=1,
        ),
    ]  # fmt: skip
    sums = "sums"
    if bias:
        nodes += [
            helper.make_node("Div", ["bias", "scales"], ["b1"]),
            helper.make_node("Floor", ["b1"], ["b2"]),
            helper.make_node("Cast", ["b2"], ["b3"], to=TensorProto.INT32),
            helper.make_node("Reshape", ["b3", "column"], ["b4"]),
            helper.make_node("Add", ["sums", "b4"], ["with_bias"]),
        ]
        sums = "with_bias"
    nodes += [
        helper.make_node("Cast", [sums], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "scales"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes,
            "convolution",
            [value("x", TensorProto.FLOAT, ["batch", channels, "time"])],
            [value("y", TensorProto.FLOAT, ["batch", 5, "later"])],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # as training.kokoro does
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    y: np.ndarray = session.run(None, {"x": x})[0]
    return y


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("taps", "stride", "dilation", "pads"),
    [
        (1, 1, 1, (0, 0)),
        (3, 1, 1, (1, 1)),
        (7, 1, 5, (15, 15)),
        (3, 2, 1, (1, 0)),
        (2, 3, 2, (0, 4)),
    ],
)
def test_a_product_gives_what_the_convolution_gave(
    taps: int, stride: int, dilation: int, pads: tuple[int, int], bias: bool
) -> None:
    model = graph(taps=taps, stride=stride, dilation=dilation, pads=pads, bias=bias)
    x = np.random.default_rng(0).normal(1, 2, (2, 6, 41)).astype(np.float32)
    expected = run(model, x)
    assert convolutions_as_products(model) == 1
    onnx.checker.check_model(model)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["ConvInteger"] == 0 and kinds["MatMulIntegerToFloat"] == 1
    assert not {"w", "column"} & {tensor.name for tensor in model.graph.initializer}
    found = run(model, x)
    # A bias was rounded down to a multiple of both scales before; now it is not.
    step = 0.01 * (x.max() - x.min()) / 255 if bias else 0.0
    np.testing.assert_allclose(found - step / 2, expected, rtol=1e-5, atol=step / 2 + 1e-5)


def test_what_is_not_of_that_form_stays_as_it_is() -> None:
    model = graph(taps=3, stride=1, dilation=1, pads=(1, 1), bias=False)
    (group,) = (a for node in model.graph.node for a in node.attribute if a.name == "group")
    group.i = 2
    before = model.SerializeToString(deterministic=True)
    assert convolutions_as_products(model) == 0
    assert model.SerializeToString(deterministic=True) == before
