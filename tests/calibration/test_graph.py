"""What is quantised is found whatever its form, and the float graph stays what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.graph import load_graph
from edge_runtime.errors import BundleError
from tests.calibration.graphs import features, logprobs, spec_of, write_encoder
from training.config import ARMS


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("half", [False, True])
def test_a_graph_taken_apart_computes_what_it_did(tmp_path: Path, arm: str, half: bool) -> None:
    path = write_encoder(tmp_path / "encoder.onnx", arm, half=half)
    spec, sound = spec_of(path), features(2.0)
    before = logprobs(onnx.load(path), spec, sound)
    graph = load_graph(path)
    np.testing.assert_allclose(logprobs(graph.model, spec, sound), before, atol=2e-5)


def test_every_matrix_product_with_a_constant_is_found_and_nothing_else(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.onnx")
    products = [node for node in onnx.load(path).graph.node if node.op_type == "Gemm"]
    graph = load_graph(path)
    assert len(graph.linears) == len(products) == len(graph.weights())
    # Value and gate of a convolution slot read one tensor: it is observed once.
    assert len(graph.activations) == len({node.input[0] for node in products}) < len(products)


def _model(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    tensor = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "g",
            [tensor("x", TensorProto.FLOAT, ["n", 3])],
            [tensor("y", TensorProto.FLOAT, ["n", 2])],
            [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


def test_a_turned_matrix_is_turned_back(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    onnx.save(_model(node, w=weight, b=[1.0, 2.0]), tmp_path / "m.onnx")
    graph = load_graph(tmp_path / "m.onnx")
    (linear,) = graph.linears
    np.testing.assert_array_equal(graph.weights()[linear.weight], weight.T)


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_does_more_stays_as_it_is(tmp_path: Path, attributes: dict[str, float]) -> None:
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["h"], **attributes)
    product = helper.make_node("MatMul", ["h", "v"], ["y"])
    model = _model(gemm, product, w=np.ones((3, 2)), b=[0.0, 0.0], v=np.eye(2))
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_graph(tmp_path / "m.onnx")
    assert [linear.y for linear in graph.linears] == ["y"]
    assert "Gemm" in {node.op_type for node in graph.model.graph.node}


def test_what_cannot_be_quantised_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(BundleError, match=r"m\.onnx: cannot be read"):
        load_graph(path)
    path.write_bytes(b"\x00not a graph")
    with pytest.raises(BundleError, match=r"m\.onnx: is not an ONNX file"):
        load_graph(path)
    onnx.save(_model(helper.make_node("Slice", ["x", "a", "b", "c"], ["y"])), path)
    with pytest.raises(BundleError, match=r"m\.onnx: has no linear layers"):
        load_graph(path)
    twice = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    onnx.save(_model(*twice), path)
    with pytest.raises(BundleError, match=r"quantised already \(.*DynamicQuantizeLinear"):
        load_graph(path)
