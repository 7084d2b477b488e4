"""Graph against its matrix multiplications: how much of a step is not arithmetic.

The matrix products of a step, and the convolution that embeds patches, are taken out of the graph
and made into another one: the same shapes, weights and library, one thread, but nothing in between,
each with inputs of its own that are there already. Their time gives this machine's rate of
multiply-adds at these shapes; the grouped convolutions, for which there is no matrix product, are
priced at that rate (their share of the multiply-adds is in the table). The ratio is the time of a
step of the whole graph, through the binding that the recogniser uses, to the time its multiply-adds
would take. 1 would mean that activations, norms, attention's softmax and the caches cost nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import Table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default: 15)")
    parser.add_argument("--round-s", type=float, default=0.3, help="seconds of each (default: 0.3)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from edge_runtime.bundle import Bundle
    from edge_runtime.engine import Engine

    bundle = Bundle.open(args.bundle)
    return {
        str(window.chunk_ms): measure.child(
            compare,
            bundle=str(args.bundle),
            frames=window.size,
            repeats=args.repeats,
            round_s=args.round_s,
        )
        for window in Engine.from_bundle(bundle).spec.windows
    }


def compare(*, bundle: str, frames: int, repeats: int, round_s: float) -> dict[str, Any]:
    """Seconds per step of the graph and of its products, at one window size."""
    from edge_runtime.backends.onnx import open_onnx
    from edge_runtime.bundle import Bundle
    from edge_runtime.modelspec import ModelSpec, Window

    model = Bundle.open(bundle).model()
    backend = open_onnx(model, threads=1)
    shapes = ModelSpec.of(backend).input_shapes(1, Window(frames, frames))
    binding = backend.bind(shapes)
    binding.features[:] = np.random.default_rng(0).normal(-5, 4, binding.features.shape)
    products, work, grouped = product_graph(model, shapes)
    products_step = _runner(products)
    runs = measure.alternate(
        {
            "graph": lambda: _step_s(binding.run, round_s),
            "products": lambda: _step_s(products_step, round_s),
        },
        repeats,
    )
    graph_s, products_s = (statistics.median(runs[name]) for name in ("graph", "products"))
    return {
        "graph_ms": graph_s * 1e3,
        "products_ms": products_s * 1e3,
        "multiply_adds": work + grouped,
        "grouped_share": grouped / (work + grouped),
        "gmacs_per_s": work / products_s / 1e9,
        "ratio": measure.median_ratio(runs["graph"], runs["products"]) * work / (work + grouped),
    }


def product_graph(model: Path, shapes: Any) -> tuple[Any, int, int]:
    """A model of the dense products only, and the multiply-adds of dense and of grouped nodes."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    source = onnx.load(model)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    for node in source.graph.node:  # weights stored as float16 are widened before use
        if node.op_type == "Cast" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]].astype(np.float32)
    nodes = [node for node in source.graph.node if node.op_type in ("Gemm", "MatMul", "Conv")]

    # The shapes, from a run that shows every tensor these nodes touch.
    shown = onnx.ModelProto.FromString(source.SerializeToString())
    known = {output.name for output in shown.graph.output} | {i.name for i in shown.graph.input}
    touched = {name for node in nodes for name in (*node.input, *node.output)}
    for name in sorted(touched - known - set(weights)):
        shown.graph.output.append(onnx.ValueInfoProto(name=name))
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {
        node.name: np.zeros(shape, dtypes[node.type])
        for node, shape in zip(inputs, shapes, strict=True)
    }
    feeds[inputs[1].name][:] = shapes[0][-1]
    names = [output.name for output in session.get_outputs()]
    values = {**feeds, **dict(zip(names, session.run(names, feeds), strict=True))}

    graph_nodes, graph_inputs, graph_outputs, used = [], [], [], {}
    dense = grouped = 0
    for number, node in enumerate(nodes):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weight = weights.get(node.input[1])
        right = values[node.input[1]].shape if weight is None else weight.shape
        # Multiply-adds of one output value: the length of the sum.
        terms = prod(right[1:]) if node.op_type == "Conv" else right[-2]
        work = prod(values[node.output[0]].shape) * terms
        if attributes.get("group", 1) > 1:
            grouped += work
            continue
        dense += work
        operands = []
        for position, name in enumerate(node.input):
            if name in weights:
                used[name] = numpy_helper.from_array(weights[name], name)
                operands.append(name)
            else:
                operands.append(f"in_{number}_{position}")
                graph_inputs.append(
                    helper.make_tensor_value_info(
                        operands[-1], TensorProto.FLOAT, values[name].shape
                    )
                )
        output = f"out_{number}"
        graph_nodes.append(helper.make_node(node.op_type, operands, [output], **attributes))
        shape = values[node.output[0]].shape
        graph_outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        graph_nodes, "products", graph_inputs, graph_outputs, list(used.values())
    )
    made = helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
    onnx.checker.check_model(made)
    return made, dense, grouped


def _runner(model: Any) -> Callable[[], Any]:
    """What runs `model` once, over buffers that are bound once, as ours are."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    rng = np.random.default_rng(0)
    for node in session.get_inputs():
        value = rng.normal(size=node.shape).astype(np.float32)
        binding.bind_ortvalue_input(node.name, ort.OrtValue.ortvalue_from_numpy(value))
    for node in session.get_outputs():
        value = np.zeros(node.shape, np.float32)
        binding.bind_ortvalue_output(node.name, ort.OrtValue.ortvalue_from_numpy(value))
    return lambda: session.run_with_iobinding(binding)


def _step_s(step: Callable[[], Any], round_s: float) -> float:
    """Processor seconds per call, over about `round_s` of them."""
    step()
    calls, start = 0, time.process_time()
    while (spent := time.process_time() - start) < round_s:
        for _ in range(20):
            step()
        calls += 20
    return spent / calls


def table(results: dict[str, Any]) -> Table:
    header = ["chunk", "graph, ms per step", "products alone, ms",
              "million multiply-adds per step", "of them grouped", "rate, G multiply-adds/s",
              "graph / its multiply-adds"]  # fmt: skip
    return [header] + [
        [
            f"{chunk_ms} ms",
            f"{found['graph_ms']:.2f}",
            f"{found['products_ms']:.2f}",
            f"{found['multiply_adds'] / 1e6:.1f}",
            f"{found['grouped_share']:.1%}",
            f"{found['gmacs_per_s']:.1f}",
            f"{found['ratio']:.2f}",
        ]
        for chunk_ms, found in results.items()
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
