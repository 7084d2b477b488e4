"""Tiny ONNX models of the streaming contract, built with onnx.helper.

Each proves something a trained model cannot: its outputs are computed from what it was fed in a way
that a test can compute too.

* `echo_model`: every output frame is a hash of the four feature frames it was fed, so token ids
  reveal the features. Windows of any length, no look-back.
* `memory_model`: log-probabilities are a function of the features, of both caches and of the
  counter, so any mistake in carrying, resetting or keeping state changes them.
* `nemo_model`: the windows of a NeMo cache-aware export with 80 ms look-ahead (25 frames every 16,
  8x subsampling, 257 tokens, every axis with a name of its own). A token is the loudest mel bin of
  the eight feature frames it stands for, and blank where they are quiet.

`*_numpy` functions compute the same outside onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.contract.bundle import Manifest

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
Array = NDArray[np.float32]

ECHO_TOKENS = 64  # without the blank
MEMORY_TOKENS = 15
NEMO_TOKENS = 256
NEMO_BLANK_LEVEL = -8.0  # mean log-mel of the loudest bin below which a frame is silence


class Graph:
    """Collects nodes and constants; each method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, value: object, dtype: type) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def f32(self, value: object) -> str:
        return self.const(value, np.float32)

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def slice(self, data: str, start: int, stop: int, axis: int) -> str:
        return self.op("Slice", data, self.ints(start), self.ints(stop), self.ints(axis))


def contract_model(
    graph: Graph,
    *,
    window: int,
    shift: int,
    subsampling: int,
    tokens: int,
    channel: Sequence[int],
    time: Sequence[int],
    symbols: Mapping[str, Sequence[int | str]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The contract's inputs, outputs and metadata around the nodes of `graph`.

    `graph` must define logprobs, encoded_lengths, cache_last_channel_next, cache_last_time_next and
    cache_last_channel_next_len. `symbols` replaces shapes by name.
    """
    names = dict(symbols or {})

    def value(name: str, dtype: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, names.get(name, shape))

    caches = (["batch", *channel], ["batch", *time])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "tiny",
            [
                value("audio_signal", F32, ["batch", 80, "time"]),
                value("length", I64, ["batch"]),
                value("cache_last_channel", F32, caches[0]),
                value("cache_last_time", F32, caches[1]),
                value("cache_last_channel_len", I64, ["batch"]),
            ],
            [
                value("logprobs", F32, ["batch", "frames", tokens + 1]),
                value("encoded_lengths", I64, ["batch"]),
                value("cache_last_channel_next", F32, caches[0]),
                value("cache_last_time_next", F32, caches[1]),
                value("cache_last_channel_next_len", I64, ["batch"]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    entries = {
        "window_size": window,
        "chunk_shift": shift,
        "subsampling_factor": subsampling,
        "vocab_size": tokens,
        **{f"cache_last_channel_dim{i}": size for i, size in enumerate(channel, 1)},
        **{f"cache_last_time_dim{i}": size for i, size in enumerate(time, 1)},
        "normalize_type": "",
        "frontend": "knf_nemo",
        "feat_dim": 80,
        "sample_rate": 16000,
    }
    helper.set_model_props(model, {k: str(v) for k, v in {**entries, **(metadata or {})}.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def tokens_text(tokens: int) -> str:
    """`tokens.txt` for a tiny model: every piece a word of its own, `t0 t1 …`, blank last."""
    pieces = [f"\u2581t{i}" for i in range(tokens)] + ["<blk>"]
    return "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces))


def write_tokens(path: Path, tokens: int) -> Path:
    """Writes `tokens_text` to a file."""
    path.write_text(tokens_text(tokens), encoding="utf-8")
    return path


def _stacked_frames(graph: Graph, factor: int) -> str:
    """audio_signal [B, 80, T] -> [B, T/factor, factor * 80]."""
    frames = graph.op("Transpose", "audio_signal", perm=[0, 2, 1])  # [B, T, 80]
    return graph.op("Reshape", frames, graph.ints(0, -1, factor * 80))


def _lengths(graph: Graph, factor: int) -> None:
    rounded = graph.op("Add", "length", graph.ints(factor - 1))
    graph.op("Div", rounded, graph.ints(factor), out="encoded_lengths")


def _log_softmax_with_blank(graph: Graph, logits: str, blank: float, out: str = "logprobs") -> None:
    """Appends a constant blank logit: [B, T', V-1] -> log-probabilities [B, T', V]."""
    first = graph.slice(logits, 0, 1, axis=2)
    constant = graph.op("Add", graph.op("Mul", first, graph.f32(0.0)), graph.f32(blank))
    graph.op("LogSoftmax", graph.op("Concat", logits, constant, axis=2), axis=-1, out=out)


# --- echo ---------------------------------------------------------------------------------------


def _echo_projection() -> Array:
    rng = np.random.default_rng(20)
    return rng.standard_normal((320, ECHO_TOKENS)).astype(np.float32)


def echo_model() -> onnx.ModelProto:
    """Token of four frames = argmax of fixed random projections of the four; state is unused."""
    graph = Graph()
    stacked = graph.op("Add", _stacked_frames(graph, 4), graph.f32(8.0))  # log-mels centred
    logits = graph.op("MatMul", stacked, graph.f32(_echo_projection()))
    _log_softmax_with_blank(graph, logits, blank=0.0)
    _lengths(graph, 4)
    graph.op("Identity", "cache_last_channel", out="cache_last_channel_next")
    graph.op("Identity", "cache_last_time", out="cache_last_time_next")
    graph.op("Add", "cache_last_channel_len", "encoded_lengths", out="cache_last_channel_next_len")
    return contract_model(
        graph,
        window=32,
        shift=32,
        subsampling=4,
        tokens=ECHO_TOKENS,
        channel=(1, 1, 1),
        time=(1, 1, 1),
    )


def echo_numpy(features: Array) -> NDArray[np.int64]:
    """[T, 80] -> best token per output frame of whole groups of four frames, blank included."""
    whole = len(features) // 4 * 4
    logits = (features[:whole].reshape(-1, 320) + 8.0) @ _echo_projection()
    return np.concatenate([logits, np.zeros((len(logits), 1), np.float32)], axis=1).argmax(axis=1)


# --- memory -------------------------------------------------------------------------------------


def _memory_weights() -> tuple[Array, Array]:
    rng = np.random.default_rng(21)
    features = rng.standard_normal((320, MEMORY_TOKENS + 1)).astype(np.float32) / 40
    return features, rng.standard_normal((12, MEMORY_TOKENS + 1)).astype(np.float32)


def memory_model() -> onnx.ModelProto:
    """With x the window's stacked frames, c, t and n the two caches and the counter:

    logits = x·W + [c, t, sin n]·U      (the same state term in every frame of the window)
    c' = c / 2 + mean of the first six stacked values over the window's valid frames
    t' = the last five stacked values of the window's last frame
    n' = n + valid output frames
    """
    graph = Graph()
    stacked = graph.op("Add", _stacked_frames(graph, 4), graph.f32(8.0))  # [B, T', 320]
    by_feature, by_state = _memory_weights()
    counter = graph.op("Cast", "cache_last_channel_len", to=F32)
    counter = graph.op("Unsqueeze", graph.op("Sin", counter), graph.ints(1))  # [B, 1]
    c = graph.op("Reshape", "cache_last_channel", graph.ints(0, 6))
    t = graph.op("Reshape", "cache_last_time", graph.ints(0, 5))
    state = graph.op("Concat", c, t, counter, axis=1)  # [B, 12]
    bias = graph.op("Unsqueeze", graph.op("MatMul", state, graph.f32(by_state)), graph.ints(1))
    logits = graph.op("Add", graph.op("MatMul", stacked, graph.f32(by_feature)), bias)
    graph.op("LogSoftmax", logits, axis=-1, out="logprobs")
    _lengths(graph, 4)
    mean = graph.op("ReduceMean", graph.slice(stacked, 0, 6, axis=2), axes=[1], keepdims=0)
    c = graph.op("Add", graph.op("Mul", c, graph.f32(0.5)), mean)
    graph.op("Reshape", c, graph.ints(0, 1, 2, 3), out="cache_last_channel_next")
    last = graph.slice(graph.slice(stacked, -1, 1 << 30, axis=1), 0, 5, axis=2)
    graph.op("Reshape", last, graph.ints(0, 1, 1, 5), out="cache_last_time_next")
    graph.op("Add", "cache_last_channel_len", "encoded_lengths", out="cache_last_channel_next_len")
    return contract_model(
        graph,
        window=32,
        shift=32,
        subsampling=4,
        tokens=MEMORY_TOKENS,
        channel=(1, 2, 3),
        time=(1, 1, 5),
    )


def memory_numpy(features: Array, chunk_frames: int) -> Array:
    """[T, 80], T a multiple of 4 -> log-probabilities [T/4, V] of a fresh stream."""
    by_feature, by_state = _memory_weights()
    c, t, n = np.zeros(6, np.float32), np.zeros(5, np.float32), 0
    rows = []
    for start in range(0, len(features), chunk_frames):
        valid = features[start : start + chunk_frames]
        window = np.zeros((chunk_frames, 80), np.float32)
        window[: len(valid)] = valid
        x = window.reshape(-1, 320) + np.float32(8.0)
        logits = x @ by_feature + np.concatenate([c, t, [np.sin(np.float32(n))]]) @ by_state
        logits = logits - logits.max(axis=1, keepdims=True)
        out = -(-len(valid) // 4)
        rows.append((logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[:out])
        c, t, n = c / 2 + x[:, :6].mean(axis=0), x[-1, :5], n + out
    return np.concatenate(rows).astype(np.float32)


# --- NeMo ---------------------------------------------------------------------------------------


def nemo_model(metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Output j of a window is about its frames 9 + 8j to 17 + 8j; the first nine are look-back.

    Frames beyond `length` count as silence.
    """
    graph = Graph()
    length = graph.op("Unsqueeze", "length", graph.ints(1, 2))
    valid = graph.op("Less", graph.const(np.arange(25)[None, None], np.int64), length)
    masked = graph.op("Where", valid, "audio_signal", graph.f32(-20.0))
    frames = graph.slice(graph.op("Transpose", masked, perm=[0, 2, 1]), 9, 25, axis=1)
    groups = graph.op("Reshape", frames, graph.ints(0, -1, 8, 80))  # [B, 2, 8, 80]
    loudness = graph.op("ReduceMean", groups, axes=[2], keepdims=0)  # [B, 2, 80]
    padding = graph.f32(np.full((1, 1, NEMO_TOKENS - 80), -50.0))
    shape = graph.op("Concat", graph.op("Shape", loudness, end=2), graph.ints(176), axis=0)
    logits = graph.op("Concat", loudness, graph.op("Expand", padding, shape), axis=2)
    _log_softmax_with_blank(graph, logits, blank=NEMO_BLANK_LEVEL)
    _lengths(graph, 8)
    graph.op("Identity", "cache_last_channel", out="cache_last_channel_next")
    graph.op("Identity", "cache_last_time", out="cache_last_time_next")
    advanced = graph.op("Add", "cache_last_channel_len", graph.ints(2))
    graph.op("Min", advanced, graph.ints(70), out="cache_last_channel_next_len")
    return contract_model(
        graph,
        window=25,
        shift=16,
        subsampling=8,
        tokens=NEMO_TOKENS,
        channel=(2, 70, 16),
        time=(2, 16, 8),
        symbols={
            "audio_signal": ["audio_signal_dynamic_axes_1", 80, "audio_signal_dynamic_axes_2"],
            "length": ["length_dynamic_axes_1"],
            "cache_last_channel": ["last_channel_1", 2, "last_channel_2", 16],
            "cache_last_time": ["last_time_1", 2, 16, "last_time_2"],
            "cache_last_channel_len": ["channel_len_1"],
            "logprobs": ["logprobs_1", "logprobs_2", NEMO_TOKENS + 1],
            "encoded_lengths": ["encoded_lengths_1"],
            "cache_last_channel_next": ["channel_next_1", "channel_next_2", "x", "y"],
            "cache_last_time_next": ["time_next_1", "time_next_2", "z", "w"],
            "cache_last_channel_next_len": ["channel_next_len_1"],
        },
        metadata={"frontend": "nemo_exact", **(metadata or {})},
    )


def bundle_manifest(**changes: object) -> Manifest:
    """A manifest for a bundle of `encoder.onnx` and `tokens.txt`, made from one of the models."""
    fields: dict[str, object] = {
        "name": "tiny",
        "version": "1",
        "release_counter": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "frontend": "knf_nemo",
        "sample_rate": 16000,
        "chunk_frames": (8, 16, 32, 64),
        "default_chunk_ms": 320,
        "precisions": {"float32": "encoder.onnx"},
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def tiny_bundle(path: Path, model: onnx.ModelProto, **changes: object) -> Bundle:
    """Writes a bundle of `model` at `path`; `changes` are fields of the manifest."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return write_bundle(
        path,
        bundle_manifest(**changes),
        {
            "encoder.onnx": model.SerializeToString(),
            "tokens.txt": tokens_text(int(properties["vocab_size"])).encode(),
        },
    )


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Writes the model and, beside it, its tokens.txt."""
    onnx.save(model, str(path))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    write_tokens(path.parent / "tokens.txt", int(properties["vocab_size"]))
    return path
