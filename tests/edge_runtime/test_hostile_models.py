"""A wrong or hostile model file is refused with a BundleError; it never ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edge_runtime.engine import Engine
from edge_runtime.errors import BundleError, BundleIncompatible
from tests.models import Graph, contract_model, memory_model, nemo_model

Change = Callable[[onnx.ModelProto], None]


def metadata(**entries: str | None) -> Change:
    def change(model: onnx.ModelProto) -> None:
        fields = {entry.key: entry.value for entry in model.metadata_props}
        fields.update({key: value for key, value in entries.items() if value is not None})
        for key in [key for key, value in entries.items() if value is None]:
            del fields[key]
        helper.set_model_props(model, fields)

    return change


def with_input(index: int, dtype: int, shape: list[int | str]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        name = model.graph.input[index].name
        model.graph.input[index].CopyFrom(helper.make_tensor_value_info(name, dtype, shape))

    return change


def without_last_input(model: onnx.ModelProto) -> None:
    """The counter becomes a constant."""
    counter = model.graph.input.pop()
    model.graph.node.insert(
        0, helper.make_node("Identity", ["length"], [counter.name], name="counter")
    )


def with_sixth_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1]))


def without_last_output(model: onnx.ModelProto) -> None:
    model.graph.output.pop()


def cache_that_grows(model: onnx.ModelProto) -> None:
    """As a graph does that appends to its cache and never cuts it."""
    (node,) = [n for n in model.graph.node if "cache_last_channel_next" in n.output]
    node.output[0] = "kept"
    model.graph.node.append(
        helper.make_node("Concat", ["kept", "kept"], ["cache_last_channel_next"], axis=3)
    )
    dims = model.graph.output[2].type.tensor_type.shape.dim
    dims[3].dim_param = "growing"


def nan_everywhere(model: onnx.ModelProto) -> None:
    (node,) = [n for n in model.graph.node if "logprobs" in n.output]
    node.output[0] = "clean"
    model.graph.node.append(helper.make_node("Sub", ["clean", "clean"], ["zero"]))
    model.graph.node.append(helper.make_node("Div", ["zero", "zero"], ["logprobs"]))


def more_tokens_than_declared(model: onnx.ModelProto) -> None:
    """Not to be seen in the graph: the number of tokens comes out of a value (and is all 16)."""
    (node,) = [n for n in model.graph.node if "logprobs" in n.output]
    node.output[0] = "clean"
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [2])
    start = helper.make_tensor("start", TensorProto.INT64, [1], [0])
    model.graph.initializer.extend([axis, start])
    model.graph.node.append(
        helper.make_node("Slice", ["clean", "start", "length", "axis"], ["logprobs"])
    )
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[2].dim_param = "tokens"
    metadata(vocab_size="14")(model)


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Teleport"


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def opset_of_the_future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 10_000


def weights_with_absurd_dims(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [10**9, 10**9]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without_last_input, "inputs: there are 4"),
        (with_sixth_input, "inputs: there are 6"),
        (without_last_output, "outputs: there are 4"),
        (with_input(0, TensorProto.DOUBLE, ["b", 80, "t"]), "."),
        (with_input(1, TensorProto.FLOAT, ["b"]), "."),
        (with_input(0, TensorProto.FLOAT, ["b", 80]), "."),
        (with_input(0, TensorProto.FLOAT, ["b", 0, "t"]), "."),
        (with_input(2, TensorProto.FLOAT, ["b", 10**9, 10**9, 3]), "."),
        (metadata(window_size=None), "metadata window_size: is missing"),
        (metadata(subsampling_factor=None), "metadata subsampling_factor: is missing"),
        (metadata(cache_last_time_dim2=None), "metadata cache_last_time_dim2: is missing"),
        (metadata(vocab_size="many"), "metadata vocab_size: is 'many'"),
        (metadata(vocab_size="-1"), "metadata vocab_size"),
        (metadata(vocab_size="\u0661\u0665"), "metadata vocab_size"),
        (metadata(vocab_size="15.0"), "metadata vocab_size"),
        (metadata(vocab_size="9" * 5000), "metadata vocab_size"),
        (metadata(vocab_size="14"), "vocab_size: is 14 .expected 15 as in logprobs"),
        (metadata(window_size="1000000000"), "metadata window_size"),
        (metadata(window_size="0"), "metadata window_size"),
        (metadata(window_size="30", chunk_shift="30"), "hold 30 .expected multiples of 4"),
        (metadata(chunk_shift="33"), "metadata chunk_shift"),
        (metadata(subsampling_factor="0"), "metadata subsampling_factor"),
        (metadata(cache_last_channel_dim1="1000000000"), "metadata cache_last_channel_dim1"),
        (metadata(cache_last_channel_dim1="2"), "cache_last_channel_dim1"),
        (metadata(feat_dim="128"), "metadata feat_dim"),
        (metadata(sample_rate="8000"), "metadata sample_rate"),
        (metadata(blank_id="0"), "blank_id"),
        (metadata(frontend="mfcc"), "metadata frontend: is 'mfcc'"),
        (metadata(normalize_type="per_feature"), "normalize_type: is 'per_feature'"),
        (metadata(lookahead_ms="soon"), "metadata lookahead_ms"),
        (cache_that_grows, "cache_last_channel_next: is .1, 1, 2, 6"),
        (nan_everywhere, "logprobs: are NaN on silence"),
        (more_tokens_than_declared, "logprobs: are .1, 8, 16"),
        (unknown_operator, "onnxruntime refuses it"),
        (unknown_domain, "onnxruntime refuses it"),
        (opset_of_the_future, "onnxruntime refuses it"),
        (weights_with_absurd_dims, "onnxruntime refuses it"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else str(value)[:40],
)
def test_a_graph_outside_the_contract_is_refused_with_file_and_field(
    tmp_path: Path, change: Change, complaint: str
) -> None:
    model = memory_model()
    change(model)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=complaint) as caught:
        Engine.open(path).session()
    assert str(path) in str(caught.value)


def test_symbolic_caches_of_absurd_size_are_refused_before_they_are_allocated(
    tmp_path: Path,
) -> None:
    model = nemo_model()
    metadata(cache_last_channel_dim2="16000000")(model)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleIncompatible, match="512000000 values"):
        Engine.open(path)


def test_an_input_with_a_default_is_no_input(tmp_path: Path) -> None:
    model = memory_model()
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]))
    model.graph.initializer.append(helper.make_tensor("gain", TensorProto.FLOAT, [1], [1.0]))
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    assert Engine.open(path).session().batch == 1


def test_outputs_after_the_fifth_are_ignored(tmp_path: Path) -> None:
    model = memory_model()
    model.graph.node.append(helper.make_node("Identity", ["logprobs"], ["confidence"]))
    model.graph.output.append(
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["b", "t", 16])
    )
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    assert Engine.open(path).session().batch == 1


def test_a_graph_for_one_stream_refuses_batches(tmp_path: Path) -> None:
    model = memory_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    engine = Engine.open(path)
    assert engine.session().batch == 1
    with pytest.raises(Exception, match="batches of 1, not 2"):
        engine.session(2)


@pytest.mark.parametrize("content", [b"", b"\x00", b"hello", os.urandom(4096), b"\x08" * 10_000])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"encoder\.onnx"):
        Engine.open(path)


def test_a_directory_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is a directory"):
        Engine.open(tmp_path)
    with pytest.raises(BundleError, match="does not exist"):
        Engine.open(tmp_path / "encoder.onnx")


def test_an_onnx_file_by_any_other_name_is_read_as_onnx(tmp_path: Path) -> None:
    path = tmp_path / "encoder.ort"  # onnxruntime would take the suffix for its own format
    path.write_bytes(memory_model().SerializeToString())
    assert Engine.open(path).spec.vocab_size == 16


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd"])
@pytest.mark.parametrize("padded", [False, True])
def test_weights_in_other_files_are_refused(tmp_path: Path, location: str, padded: bool) -> None:
    """A bundle's digests would not cover them. Present or not, inside or outside."""
    model = memory_model()
    tensor = next(t for t in model.graph.initializer if len(t.raw_data) > 1000)
    for directory in (tmp_path, tmp_path / "b"):
        directory.mkdir(exist_ok=True)
        (directory / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    data = model.SerializeToString()
    if padded:  # the same message with a longer spelling of the key's tag; sizes grow with it
        entry = tensor.external_data[0].SerializeToString()
        longer = b"\x8a\x00" + entry[1:]
        assert data.count(entry) == 1
        data = data.replace(entry, longer)
    path = tmp_path / "b" / "encoder.onnx"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="stores tensors in other files"):
        Engine.open(path)


def test_a_tensor_may_be_called_location(tmp_path: Path) -> None:
    graph = Graph()
    frames = graph.op("Transpose", "audio_signal", perm=[0, 2, 1], out="location_of_frames")
    frames = graph.op("Reshape", frames, graph.ints(0, -1, 320))
    graph.op("LogSoftmax", graph.slice(frames, 0, 4, axis=2), axis=-1, out="logprobs")
    graph.op("Identity", "length", out="encoded_lengths")
    graph.op("Identity", "cache_last_channel", out="cache_last_channel_next")
    graph.op("Identity", "cache_last_time", out="cache_last_time_next")
    graph.op("Identity", "cache_last_channel_len", out="cache_last_channel_next_len")
    model = contract_model(
        graph, window=8, shift=8, subsampling=4, tokens=3, channel=(1, 1, 1), time=(1, 1, 1)
    )
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    assert Engine.open(path).session().batch == 1


FUZZ = """
import random, sys
from pathlib import Path
from edge_runtime.engine import Engine
from edge_runtime.errors import EdgeError
path, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
original, rng = path.read_bytes(), random.Random(seed)
refused = 0
for _ in range(count):
    data = bytearray(original)
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)):]
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        data[at:at + rng.choice((0, 1, 1, 4))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
    path.write_bytes(data)
    try:
        session = Engine.open(path).session()
        session.finish()
        session.step()
    except EdgeError as error:
        assert str(error)
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("model", [memory_model, nemo_model])
def test_damaged_files_never_crash_the_process(
    tmp_path: Path, model: Callable[[], onnx.ModelProto]
) -> None:
    """In a process of its own, because a crash of onnxruntime would be one of pytest."""
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model().SerializeToString())
    result = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path), "0", "150"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50  # and nothing else was printed
