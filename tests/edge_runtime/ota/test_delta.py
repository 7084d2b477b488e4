"""Deltas make what they say or nothing at all."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.errors import BundleTampered
from edge_runtime.ota import delta

MODEL = Path(__file__).parents[3] / "bundles" / "en-demo" / "encoder.onnx"


def model(seed: int, *, moved: float = 0.0, extra: int = 0) -> bytes:
    """Constants of every width; of `seed`, moved a little, with more of them in front."""
    rng, walk = np.random.default_rng(seed), np.random.default_rng(99)

    def near(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values * (1 + moved * walk.normal(size=values.shape))

    constants = {
        **{f"new{i}": rng.bytes(300) for i in range(extra)},
        "half": near(rng.normal(0, 0.1, 4000)).astype(np.float16),
        "float": near(rng.normal(0, 0.1, 999)).astype(np.float32),
        "int8": np.clip(near(rng.normal(0, 40, 5001)).round(), -128, 127).astype(np.int8),
        "shape": np.array([1, -1]),
    }
    tensors = [
        numpy_helper.from_array(
            np.frombuffer(v, np.uint8) if isinstance(v, bytes) else v.astype(v.dtype), name
        )
        for name, v in constants.items()
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [value], [output], tensors)
    return bytes(helper.make_model(graph, doc_string="w" * 100 + str(moved)).SerializeToString())


def test_a_model_that_was_moved_a_little_is_a_fraction_of_itself() -> None:
    base, new = model(1), model(1, moved=0.01)
    made = delta.make(base, new)
    assert delta.apply(base, made, limit=len(new)) == new
    assert len(made) < 0.6 * len(lzma.compress(new, preset=9))


@pytest.mark.parametrize(
    ("base", "new"),
    [
        (model(1), model(1)),
        (model(1), model(2)),
        (model(1), model(1, extra=3)),
        (model(1, extra=3), model(1, moved=0.1)),
        (b"", model(1)),
        (model(1), b""),
        (b"no model", b"no model either"),
        (b"\x3a\xff", b"\x3a\x05\x2a\x7f"),
    ],
)
def test_any_file_can_be_made_from_any_other(base: bytes, new: bytes) -> None:
    assert delta.apply(base, delta.make(base, new), limit=len(new)) == new


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_can_be_made_from_any_others(base: bytes, new: bytes) -> None:
    assert delta.apply(base, delta.make(base, new), limit=len(new)) == new


@pytest.mark.parametrize("kind", ["u8", "u16", "u32"])
def test_every_number_minus_every_other_and_back(kind: str) -> None:
    width = {"u8": 1, "u16": 2, "u32": 4}[kind]
    rng = np.random.default_rng(0)
    edges = np.array([0, 1, 2**8 * width // 2, 2 ** (8 * width - 1), 2 ** (8 * width) - 1], "<u8")
    some = np.concatenate([edges, rng.integers(0, 2 ** (8 * width), 60, dtype=np.uint64)])
    grid = np.array(np.meshgrid(some, some)).reshape(2, -1).astype(f"<u{width}")
    new, old = grid[0].tobytes(), grid[1].tobytes()
    assert delta._sum(delta._difference(new, old, kind), old, kind) == new


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floats_that_moved_by_whole_steps_cost_the_steps_and_not_their_low_bits(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    old = rng.normal(0, 0.1, 20_000).astype(dtype)
    steps = rng.integers(-2, 3, old.shape)  # 2.3 bits each
    new = (old.astype(np.float64) + np.ldexp(steps.astype(np.float64), -11)).astype(dtype)
    anywhere = (old.astype(np.float64) + rng.normal(0, 2**-11, old.shape)).astype(dtype)
    base, wanted, other = (constant(values) for values in (old, new, anywhere))
    made = delta.make(base, wanted)
    assert delta.apply(base, made, limit=len(wanted)) == wanted
    assert len(made) < 1.25 * len(old) * np.log2(5) / 8
    assert len(made) < 0.5 * len(delta.make(base, other))


def test_numbers_that_no_step_leads_to_are_sent_as_they_are() -> None:
    rng = np.random.default_rng(6)
    old = rng.normal(0, 0.1, 20_000).astype(np.float16)
    new = (old + np.ldexp(rng.integers(-2, 3, old.shape), -11)).astype(np.float16)
    new[[0, 77, 78, -1]] = [np.inf, np.nan, -0.0, 1.0009]
    plain = delta.make(constant(old), constant(np.delete(new, [0, 77, 78, -1])))
    made = delta.make(constant(old), constant(new))
    assert delta.apply(constant(old), made, limit=10**6) == constant(new)
    assert len(made) < len(plain)
    new[77] = 0.1
    new[0] = old[0]
    made = delta.make(constant(old), constant(new))
    assert delta.apply(constant(old), made, limit=10**6) == constant(new)
    assert b'["literal",2,0]' in made and b'"s16"' in made
    assert len(made) < 1.25 * len(old) * np.log2(5) / 8


@given(st.data())
def test_any_floats_can_be_made_from_any_others(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.dtype("<f2"), np.dtype("<f4")]))
    size = data.draw(st.integers(1, 40))
    old, new = (
        np.frombuffer(
            data.draw(st.binary(min_size=dtype.itemsize * size, max_size=dtype.itemsize * size)),
            dtype,
        )
        for _ in range(2)
    )
    if data.draw(st.booleans()):  # mostly whole steps from the old ones
        steps = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=size, max_size=size)))
        with np.errstate(over="ignore", invalid="ignore"):
            moved = old.astype(np.float64) + np.ldexp(
                steps.astype(np.float64), data.draw(st.integers(-24, 3))
            )
            new = np.where(data.draw(st.integers(0, size)) > np.arange(size), new, moved)
            new = new.astype(dtype)
    base, wanted = constant(old), constant(new)
    assert delta.apply(base, delta.make(base, wanted), limit=len(wanted)) == wanted


def constant(values: np.ndarray[Any, Any]) -> bytes:
    """A model that holds nothing else."""
    tensor = numpy_helper.from_array(values, "w")
    return bytes(
        helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    )


def test_small_steps_of_floats_are_small_numbers_across_zero_too() -> None:
    old = np.array([1.0, -1.0, 1e-7, -1e-7, 0.0], np.float16)
    new = np.nextafter(old, np.array([2, -2, -1, 1, -1], np.float16))
    folded = np.frombuffer(delta._difference(new.tobytes(), old.tobytes(), "u16"), "<u2")
    assert folded.max() <= 6


def test_the_constants_of_a_real_model_are_found_where_onnx_has_them() -> None:
    data = MODEL.read_bytes()
    found = {t.name: data[t.offset : t.offset + t.length] for t in delta.tensors(data)}
    graph = onnx.load_from_string(data).graph
    wanted = {
        t.name: t.raw_data for t in graph.initializer if t.raw_data and t.data_type in (1, 3, 10)
    }
    assert found == wanted and len(found) > 300


BASE, NEW = model(1), model(1, moved=0.01)
DELTA = delta.make(BASE, NEW)


@given(st.data())
def test_a_damaged_delta_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(DELTA) - 1))
    spoilt = data.draw(
        st.sampled_from([
            DELTA[:at],
            DELTA[:at] + bytes([DELTA[at] ^ data.draw(st.integers(1, 255))]) + DELTA[at + 1 :],
            DELTA[:at] + data.draw(st.binary(min_size=1, max_size=9)) + DELTA[at:],
        ])
    )  # fmt: skip
    try:
        made = delta.apply(BASE, spoilt, limit=len(NEW))
    except BundleTampered:
        return
    assert made == NEW  # a byte was changed that says nothing, such as of the stream's end


def forged(**changes: Any) -> bytes:
    header = {
        "base": hashlib.sha256(BASE).hexdigest(),
        "new": hashlib.sha256(b"x").hexdigest(),
        "pieces": [["literal", 1, 0]],
    }
    body = changes.pop("body", b"x")
    head = json.dumps({**header, **changes}).encode()
    return b"vitconformer-delta-1\n" + head + b"\n" + lzma.compress(body)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"base": "0" * 64}, "another base"),
        ({"base": None}, "another base"),
        ({"pieces": [["copy", 10**12, 0]]}, "outside of the base"),
        ({"pieces": [["copy", 5, -5]]}, "outside of the base"),
        ({"pieces": [["copy", -5, 0]]}, "outside of the base"),
        ({"pieces": [["u16", 3, 0]]}, "outside of the base"),
        ({"pieces": [["u8", 5, 10**9]]}, "outside of the base"),
        ({"pieces": [["copy", 2.0, 0]]}, "a piece is"),
        ({"pieces": [["literal", 10**12, 0]]}, "bytes, where"),
        ({"pieces": [["literal", 2, 0]]}, "not as long"),
        ({"pieces": [["literal", 1, 0]] * 2}, "not as long"),
        ({"pieces": [["literal", 1, 0]], "body": bytes(10**8)}, "not as long"),
        ({"pieces": [["literal", 1, 0]], "body": b"y"}, "another file"),
        ({"pieces": [["literal"]]}, "unpack"),
        ({"pieces": 7}, "not subscriptable"),
        ({"pieces": [["teleport", 1, 0]]}, "a piece is"),
        ({"pieces": [["s16", 2, 0]]}, "other steps"),
        ({"pieces": [["s16", 2, 0, 5000]]}, "other steps"),
        ({"pieces": [["s16", 2, 0, -9, 1]]}, "positional"),
        ({"pieces": [["s16", 2, 0, True]]}, "a piece is"),
        ({"pieces": [["u16", 2, 0, -9]]}, "other steps"),
        ({"pieces": [["s32", 4, 0, -9]], "body": b"1234"}, "another file"),
    ],
)
def test_a_forged_delta_is_refused(changes: dict[str, Any], complaint: str) -> None:
    assert delta.apply(BASE, forged(), limit=len(NEW)) == b"x"
    with pytest.raises(BundleTampered, match=complaint):
        delta.apply(BASE, forged(**changes), limit=len(NEW))
