"""Encoder -> one streaming ONNX file of the NeMo/sherpa CTC contract, for every chunk size.

The graph is written node by node rather than traced: what runs on the device is then exactly what
stands here, whatever the exporter of the day does.  Choices that made it fast on a CPU:

* tokens stay a matrix (B·T, d), so every linear layer is one `Gemm` with its bias inside;
* the depthwise convolution is a 2-D `Conv` over (B, C, 1, T): onnxruntime then runs it in blocked
  layout, six times faster than its 1-D convolution, and absorbs the two transposes;
* constants are folded into weights where that is exact in float16 too: log-mel mean and scale into
  the patch embedding, the ½ of the macaron feed-forward into its second matrix;
* batch and time are symbolic but nothing depends on their values except a few shared shape tensors,
  which fold away when a runtime fixes both.

No constant depends on T: one file serves 80 to 640 ms and whole utterances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.backends import FRAME_STATS
from edge_runtime.frame_stats import ALPHA
from training.config import N_MELS, PATCH_CONTEXT, PATCH_FRAMES
from training.model import (
    FEATURE_MEAN,
    FEATURE_STD,
    AttentionMixer,
    ConvMixer,
    Encoder,
    FeedForward,
)

OPSET = 17  # the first with LayerNormalization; what TensorRT 8.6 and later read


class Graph:
    """An ONNX graph under construction; `op` appends a node and returns its output's name."""

    def __init__(self, *, half: bool = False) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.half = half  # store matrices as float16; runtimes widen them once, when loading

    def constant(self, name: str, value: Any, dtype: Any = None) -> str:
        array = np.array(value, dtype, order="C")  # not ascontiguousarray: scalars stay scalars
        self.initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), values, np.int64)

    def weight(self, name: str, value: torch.Tensor) -> str:
        array = value.detach().to(torch.float32).numpy()
        if not self.half or array.ndim < 2:
            return self.constant(name, array)
        stored = self.constant(f"{name}.half", array, np.float16)
        return self.op("Cast", stored, to=TensorProto.FLOAT, out=name)

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        output = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def split(self, x: str, parts: Sequence[int], axis: int) -> list[str]:
        if len(parts) == 1:
            return [x]
        outputs = [f"split_{len(self.nodes)}_{i}" for i in range(len(parts))]
        sizes = self.ints(*parts)
        self.nodes.append(helper.make_node("Split", [x, sizes], outputs, outputs[0], axis=axis))
        return outputs

    def last(self, x: str, count: int, axis: int, out: str = "") -> str:
        """The last `count` entries along `axis`."""
        end = np.iinfo(np.int64).max
        return self.op("Slice", x, self.ints(-count), self.ints(end), self.ints(axis), out=out)


class StreamingGraph(Graph):
    """The nodes of `Encoder.step`."""

    def __init__(self, encoder: Encoder, *, half: bool) -> None:
        super().__init__(half=half)
        self.encoder = encoder
        self.config = encoder.config
        self.channels: list[str] = []  # next attention caches, (B, H, left+T, D), K and V
        self.times: list[str] = []  # next convolution caches, (B, 1, rows, width) each

    def build(self) -> None:
        config, encoder = self.config, self.encoder
        n, rows, _ = config.time_cache_shape
        past_times = self.split("cache_last_time", [1] * n, axis=1)
        past_channels = (
            self.split("cache_last_channel", [config.n_heads] * 2 * config.n_msa, axis=1)
            if config.n_msa
            else []
        )
        # Shapes that every layer shares; with fixed batch and time these are constants.
        shape = self.op("Shape", "audio_signal")
        batch = self.op("Gather", shape, self.ints(0))  # (1,)
        frames = self.op("Gather", shape, self.constant("two", 2, np.int64))
        patch = self.constant("patch", PATCH_FRAMES, np.int64)
        self.token_count = self.op("Div", frames, patch)  # a scalar, as Range wants
        self.tokens = self.op("Unsqueeze", self.token_count, self.ints(0))  # (1,)
        one = self.ints(1)
        self.conv_shape = self.op(
            "Concat", batch, one, self.tokens, self.ints(config.conv_width), axis=0
        )
        self.qkv_shape = self.op(
            "Concat", batch, self.tokens, self.ints(3 * config.n_heads), self.ints(-1), axis=0
        )
        logits_shape = self.op("Concat", batch, self.tokens, self.ints(-1), axis=0)

        encoded = self.op(
            "Div",
            self.op("Add", "length", self.ints(PATCH_FRAMES - 1)),
            self.ints(PATCH_FRAMES),
            out="encoded_lengths",
        )
        self.op("Add", "cache_last_channel_len", encoded, out="cache_last_channel_next_len")
        if config.n_msa:
            self._positions(encoded)

        x = self._patch(past_times[0])  # (B·T, d)
        for number, block in enumerate(encoder.blocks):
            name = f"blocks.{number}"
            x = self.op("Add", x, self._feed_forward(f"{name}.ffn1", block.ffn1, x))
            for index, slot in enumerate(block.slots):
                where = f"{name}.slots.{index}"
                if isinstance(slot, ConvMixer):
                    h = self._conv(where, slot, x, past_times[len(self.times)])
                else:
                    at = len(self.channels)
                    h = self._attention(where, slot, x, *past_channels[at : at + 2])
                x = self.op("Add", x, h)
            x = self.op("Add", x, self._feed_forward(f"{name}.ffn2", block.ffn2, x))
            x = self._norm(f"{name}.norm", block.norm, x)
        logits = self._linear("head", encoder.head, x)
        self.op("LogSoftmax", self.op("Reshape", logits, logits_shape), axis=-1, out="logprobs")
        self._frame_stats()
        # Joined first, cut once: two nodes for all layers, and fewer bytes than cutting each.
        if self.channels:
            joined = self.op("Concat", *self.channels, axis=1)  # (B, slots·2H, left+T, D)
            self.last(joined, config.left_context, 2, out="cache_last_channel_next")
        else:
            self.op("Identity", "cache_last_channel", out="cache_last_channel_next")
        patch, *convs = self.times
        if convs:
            joined = self.op("Concat", *convs, axis=1)  # (B, slots, rows+T, width)
            joined = self.last(joined, rows, 2)
            self.op("Concat", patch, joined, axis=1, out="cache_last_time_next")
        else:
            self.op("Identity", patch, out="cache_last_time_next")

    # -- layers --------------------------------------------------------------------------------

    def _linear(
        self,
        name: str,
        layer: torch.nn.Linear,
        x: str,
        scale: float = 1.0,
        rows: slice = slice(None),
    ) -> str:
        """x (N, in) -> (N, out): the outputs in `rows`, times `scale`."""
        weight = self.weight(f"{name}.weight", (layer.weight * scale)[rows].T)
        bias = self.weight(f"{name}.bias", (layer.bias * scale)[rows])
        return self.op("Gemm", x, weight, bias)

    def _norm(self, name: str, layer: torch.nn.LayerNorm, x: str) -> str:
        weight = self.weight(f"{name}.weight", layer.weight)
        bias = self.weight(f"{name}.bias", layer.bias)
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=layer.eps)

    def _silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def _patch(self, past: str) -> str:
        """audio_signal (B, 80, 4T) and past (B, 1, rows, width) -> tokens (B·T, d)."""
        _, rows, width = self.config.time_cache_shape
        if (rows, width) != (PATCH_CONTEXT, N_MELS):
            past = self.op(
                "Slice", past, self.ints(0, 0), self.ints(PATCH_CONTEXT, N_MELS), self.ints(2, 3)
            )
        past = self.op("Transpose", self.op("Squeeze", past, self.ints(1)), perm=[0, 2, 1])
        padded = self.op("Concat", past, "audio_signal", axis=2)  # (B, 80, 4 + 4T)
        keep = self.op("Transpose", self.last("audio_signal", PATCH_CONTEXT, 2), perm=[0, 2, 1])
        keep = self.op("Unsqueeze", keep, self.ints(1))
        if (rows, width) != (PATCH_CONTEXT, N_MELS):
            pads = self.ints(0, 0, 0, 0, 0, 0, rows - PATCH_CONTEXT, width - N_MELS)
            keep = self.op("Pad", keep, pads)
        self.times.append(keep)

        proj = self.encoder.patch.proj
        frames = PATCH_CONTEXT + PATCH_FRAMES
        kernel = (proj.weight / FEATURE_STD).view(-1, frames, N_MELS).transpose(1, 2)
        bias = proj.bias - FEATURE_MEAN / FEATURE_STD * proj.weight.sum(1)
        x = self.op(
            "Conv",
            padded,
            self.weight("patch.proj.weight", kernel),
            self.weight("patch.proj.bias", bias),
            kernel_shape=[frames],
            strides=[PATCH_FRAMES],
        )  # fmt: skip  (B, d, T)
        x = self.op("Transpose", x, perm=[0, 2, 1])
        x = self.op("Reshape", x, self.ints(-1, self.config.d_model))
        return self._norm("patch.norm", self.encoder.patch.norm, x)

    def _feed_forward(self, name: str, layer: FeedForward, x: str) -> str:
        h = self._linear(f"{name}.up", layer.up, self._norm(f"{name}.norm", layer.norm, x))
        return self._linear(f"{name}.down", layer.down, self._silu(h), 0.5)

    def _conv(self, name: str, layer: ConvMixer, x: str, past: str) -> str:
        """x (B·T, d), past (B, 1, rows, width) -> (B·T, d)."""
        width, kernel = layer.width, layer.kernel
        h = self._norm(f"{name}.norm", layer.norm, x)
        # Two products instead of one that is then split: no copy.
        value = self._linear(f"{name}.up.value", layer.up, h, rows=slice(width))
        gate = self._linear(f"{name}.up.gate", layer.up, h, rows=slice(width, None))
        h = self.op("Mul", value, self.op("Sigmoid", gate))  # (B·T, width)
        h = self.op("Reshape", h, self.conv_shape)  # (B, 1, T, width)
        h = self.op("Concat", past, h, axis=2)  # (B, 1, kernel-1+T, width)
        self.times.append(h)
        h = self.op("Transpose", h, perm=[0, 3, 1, 2])  # (B, width, 1, kernel-1+T)
        h = self.op(
            "Conv", h, self.weight(f"{name}.depthwise.weight", layer.depthwise.weight[:, :, None]),
            self.weight(f"{name}.depthwise.bias", layer.depthwise.bias),
            group=width, kernel_shape=[1, kernel],
        )  # fmt: skip
        h = self.op("Transpose", h, perm=[0, 2, 3, 1])  # (B, 1, T, width)
        h = self.op("Reshape", h, self.ints(-1, width))
        h = self._silu(self._norm(f"{name}.inner_norm", layer.inner_norm, h))
        return self._linear(f"{name}.down", layer.down, h)

    def _positions(self, encoded: str) -> None:
        """Rotary angles of this window's tokens and the mask of cached and own keys."""
        config = self.config
        zero, step = self.constant("zero", 0, np.int64), self.constant("one", 1, np.int64)
        index = self.op("Range", zero, self.token_count, step)  # (T,)
        start = self.op("Unsqueeze", "cache_last_channel_len", self.ints(1))  # (B, 1)
        position = self.op("Add", start, index)  # (B, T)
        position = self.op("Unsqueeze", position, self.ints(1, 3))  # (B, 1, T, 1)
        cycles = self.constant("rope.cycles", self.encoder.rope.numpy())
        period = self.constant("rope.period", config.rope_period, np.int64)
        turns = self.op("Mod", self.op("Mul", position, cycles), period)
        turn = self.constant("rope.turn", 2 * math.pi / config.rope_period, np.float32)
        theta = self.op("Mul", self.op("Cast", turns, to=TensorProto.FLOAT), turn)
        cos, sin = self.op("Cos", theta), self.op("Sin", theta)
        self.cos = self.op("Concat", cos, cos, axis=3)  # (B, 1, T, D)
        self.sin = self.op("Concat", self.op("Neg", sin), sin, axis=3)

        slots = self.constant("cache.slots", np.arange(config.left_context, dtype=np.int64))
        left = self.constant("cache.left", config.left_context, np.int64)
        empty = self.op("Less", slots, self.op("Sub", left, start))  # (B, left)
        valid = self.op("Unsqueeze", encoded, self.ints(1))
        padding = self.op("Not", self.op("Less", index, valid))  # (B, T)
        hidden = self.op("Concat", empty, padding, axis=1)  # (B, left + T)
        # -1e9 rather than -inf: a window of nothing but padding must not make NaNs.
        penalty = self.op(
            "Where", hidden, self.constant("mask.hidden", -1e9, np.float32),
            self.constant("mask.seen", 0.0, np.float32),
        )  # fmt: skip
        self.mask = self.op("Unsqueeze", penalty, self.ints(1, 2))  # (B, 1, 1, left + T)

    def _attention(self, name: str, layer: AttentionMixer, x: str, past_k: str, past_v: str) -> str:
        """x (B·T, d), pasts (B, H, left, D) -> (B·T, d)."""
        config = self.config
        d, heads = config.d_model, config.n_heads
        head = d // heads
        h = self._norm(f"{name}.norm", layer.norm, x)
        h = self._linear(f"{name}.qkv", layer.qkv, h)  # (B·T, 3d)
        h = self.op("Reshape", h, self.qkv_shape)  # (B, T, 3H, D)
        # Only the new tokens are ever turned: caches lie as the products read them.
        h = self.op("Transpose", h, perm=[0, 2, 1, 3])  # (B, 3H, T, D)
        qk, v = self.split(h, [2 * heads, heads], axis=1)
        low, high = self.split(qk, [head // 2, head // 2], axis=3)
        turned = self.op("Concat", high, low, axis=3)
        qk = self.op("Add", self.op("Mul", qk, self.cos), self.op("Mul", turned, self.sin))
        q, k = self.split(qk, [heads, heads], axis=1)
        k = self.op("Concat", past_k, k, axis=2)  # (B, H, left+T, D)
        v = self.op("Concat", past_v, v, axis=2)
        self.channels += [k, v]
        k = self.op("Transpose", k, perm=[0, 1, 3, 2])  # which onnxruntime leaves to the product
        # Not folded into the query's weights: stored as float16 they would be rounded once more.
        scale = self.constant("attention.scale", head**-0.5, np.float32)
        scores = self.op("Add", self.op("Mul", self.op("MatMul", q, k), scale), self.mask)
        h = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)  # (B, H, T, D)
        h = self.op("Transpose", h, perm=[0, 2, 1, 3])
        h = self.op("Reshape", h, self.ints(-1, d))
        return self._linear(f"{name}.out", layer.out, h)

    def _frame_stats(self) -> None:
        """(B, T, 5): what `edge_runtime.frame_stats` makes of `logprobs`.

        Here it is nearly free.  Computed by the host afterwards it costs several times as much as
        in a loop, because a step of the graph leaves none of the host's code in the caches.
        """
        blank, last = self.ints(-1), self.ints(np.iinfo(np.int64).max)
        others = self.op("Slice", "logprobs", self.ints(0), blank, blank)
        self.nodes.append(helper.make_node("TopK", [others, self.ints(2)], ["top", "top_ids"]))
        power = self.op(
            "Exp", self.op("Mul", "logprobs", self.constant("alpha", ALPHA, np.float32))
        )
        power_sum = self.op("ReduceSum", power, blank, keepdims=1)
        silence = self.op("Slice", "logprobs", blank, last, blank)
        best, _ = self.split("top_ids", [1, 1], axis=-1)
        best = self.op("Cast", best, to=TensorProto.FLOAT)
        self.op("Concat", power_sum, silence, "top", best, axis=-1, out=FRAME_STATS)


def contract_metadata(encoder: Encoder, *, window: int, version: str = "1") -> dict[str, str]:
    """The metadata that sherpa-onnx requires, and our own, for a window of feature frames."""
    config = encoder.config
    channel, time = config.channel_cache_shape, config.time_cache_shape
    return {
        "window_size": str(window),
        "chunk_shift": str(window),
        "subsampling_factor": str(PATCH_FRAMES),
        "vocab_size": str(config.vocab_size - 1),
        **{f"cache_last_channel_dim{i}": str(n) for i, n in enumerate(channel, 1)},
        **{f"cache_last_time_dim{i}": str(n) for i, n in enumerate(time, 1)},
        "normalize_type": "",
        "model_type": "EncDecCTCModelBPE",
        "model_author": "vitconformer",
        "version": version,
        "comment": "streaming ViT-Conformer, CTC",
        "feat_dim": str(N_MELS),
        "frontend": "knf_nemo",
        "sample_rate": "16000",
        "left_context_frames": str(config.left_context),
        "lookahead_ms": "0",
        "blank_id": str(config.vocab_size - 1),
    }


def streaming_onnx(
    encoder: Encoder, metadata: Mapping[str, str], *, half: bool = False
) -> onnx.ModelProto:
    """The contract graph of an encoder: batch and time symbolic, one output of our own at the end.

    With `half` matrices are stored as float16 (half the file) and still multiplied in float32.
    """
    config = encoder.config
    graph = StreamingGraph(encoder.eval(), half=half)
    graph.build()
    channel: Sequence[Any] = ("batch", *config.channel_cache_shape)
    time: Sequence[Any] = ("batch", *config.time_cache_shape)

    def value(name: str, kind: int, shape: Sequence[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        value("audio_signal", TensorProto.FLOAT, ("batch", N_MELS, "time")),
        value("length", TensorProto.INT64, ("batch",)),
        value("cache_last_channel", TensorProto.FLOAT, channel),
        value("cache_last_time", TensorProto.FLOAT, time),
        value("cache_last_channel_len", TensorProto.INT64, ("batch",)),
    ]
    outputs = [
        value("logprobs", TensorProto.FLOAT, ("batch", "tokens", config.vocab_size)),
        value("encoded_lengths", TensorProto.INT64, ("batch",)),
        value("cache_last_channel_next", TensorProto.FLOAT, channel),
        value("cache_last_time_next", TensorProto.FLOAT, time),
        value("cache_last_channel_next_len", TensorProto.INT64, ("batch",)),
        value(FRAME_STATS, TensorProto.FLOAT, ("batch", "tokens", 5)),
    ]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "vitconformer", inputs, outputs, list(graph.initializers.values())
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="vitconformer",
    )
    set_metadata(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Replace the model's metadata; this alone makes a file of another chunk size."""
    del model.metadata_props[:]
    for key, text in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text


def parity(model: onnx.ModelProto, encoder: Encoder, *, seed: int = 0) -> float:
    """Largest difference in log-probabilities between the graph, streaming, and torch, offline.

    Random features of a random length through every chunk size with a partial last window, two
    streams in a batch of which one ends early.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(seed)
    frames = 333
    features = rng.normal(FEATURE_MEAN, FEATURE_STD, (2, frames, N_MELS)).astype(np.float32)
    lengths = np.array([frames, frames * 2 // 3])
    features[np.arange(frames)[None] >= lengths[:, None]] = 0.0
    config, worst = encoder.config, 0.0
    for chunk in (2, 4, 8, 16):
        with torch.no_grad():
            expected = encoder.eval()(
                torch.from_numpy(features), torch.from_numpy(lengths),
                chunk=chunk, left=config.left_context,
            ).numpy()  # fmt: skip
        window = chunk * PATCH_FRAMES
        state: list[NDArray[Any]] = [
            np.zeros((2, *config.channel_cache_shape), np.float32),
            np.zeros((2, *config.time_cache_shape), np.float32),
            np.zeros(2, np.int64),
        ]
        for start in range(0, frames, window):
            piece = features[:, start : start + window]
            piece = np.pad(piece, ((0, 0), (0, window - piece.shape[1]), (0, 0)))
            feeds = [piece.transpose(0, 2, 1), np.clip(lengths - start, 0, window), *state]
            names = [i.name for i in session.get_inputs()]
            results = session.run(None, dict(zip(names, feeds, strict=True)))
            logprobs, encoded, *state = results[:5]
            token = start // PATCH_FRAMES
            for row, count in enumerate(encoded):
                difference = logprobs[row, :count] - expected[row, token : token + count]
                worst = max(worst, float(np.abs(difference).max(initial=0.0)))
    return worst
