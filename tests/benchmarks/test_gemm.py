"""Which nodes become products, and how many multiply-adds they are."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

pytest.importorskip("torch")

from benchmarks.gemm import product_graph
from training.config import ARMS, EncoderConfig
from training.export import contract_metadata, streaming_onnx
from training.model import Encoder


@pytest.mark.parametrize("half", [False, True])
def test_the_products_of_a_transformer_are_its_weights_times_its_tokens(
    tmp_path: Path, half: bool
) -> None:
    config = EncoderConfig(
        d_model=64, n_heads=4, mixers=ARMS["transformer"][:2], left_context=12, vocab_size=33
    )
    encoder = Encoder(config)
    path = tmp_path / "encoder.onnx"
    onnx.save(streaming_onnx(encoder, contract_metadata(encoder, window=32), half=half), path)
    tokens = 8
    shapes = ((1, 80, 4 * tokens), (1,), (1, *config.channel_cache_shape),
              (1, *config.time_cache_shape), (1,))  # fmt: skip
    model, dense, grouped = product_graph(path, shapes)
    matrices = sum(p.numel() for p in encoder.parameters() if p.ndim > 1)
    # Queries with keys and weights with values: d multiply-adds each, per pair of tokens.
    attention = 4 * 2 * tokens * (tokens + config.left_context) * config.d_model
    assert (dense, grouped) == (matrices * tokens + attention, 0)
    assert {node.op_type for node in model.graph.node} == {"Gemm", "MatMul", "Conv"}


def test_a_grouped_convolution_is_counted_but_not_run(tmp_path: Path) -> None:
    config = EncoderConfig(
        d_model=64, n_heads=4, mixers=ARMS["cnn"][:1], left_context=12, vocab_size=33
    )
    encoder = Encoder(config)
    path = tmp_path / "encoder.onnx"
    onnx.save(streaming_onnx(encoder, contract_metadata(encoder, window=8)), path)
    shapes = ((1, 80, 8), (1,), (1, *config.channel_cache_shape),
              (1, *config.time_cache_shape), (1,))  # fmt: skip
    model, _, grouped = product_graph(path, shapes)
    assert grouped == 2 * config.conv_kernel * config.conv_width * 2  # slots, tokens
    groups = [a.i for node in model.graph.node for a in node.attribute if a.name == "group"]
    assert set(groups) <= {1}
