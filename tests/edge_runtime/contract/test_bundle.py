"""The manifest: what it says survives, and what it must not say is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract.bundle import MAX_MANIFEST_BYTES, FileEntry, Manifest
from edge_runtime.errors import BundleError, BundleIncompatible

ENTRY = {"sha256": "0" * 64, "size": 1}
FIELDS: dict[str, Any] = {
    "schema_version": 1,
    "name": "en-demo",
    "version": "1.0.0",
    "release_counter": 3,
    "created": "2026-01-02T03:04:05Z",
    "frontend": "knf_nemo",
    "sample_rate": 16000,
    "chunk_frames": [8, 16, 32, 64],
    "default_chunk_ms": 320,
    "precisions": {"float32": "encoder.onnx"},
    "files": {"encoder.onnx": ENTRY, "tokens.txt": ENTRY},
    "parent": "0.9.0",
    "runtime": {"onnxruntime": ">=1.17"},
    "metrics": {"wer": {"held-out": 0.12}},
    "licence": "Apache-2.0",
    "training_data": {"sources": ["synthetic"]},
    "confidence": None,
    "lm": None,
    "lexicon": None,
    "goldens": None,
    "decoding": {"lm_weight": 0.4, "word_bonus": 1, "blank_penalty": 0.5},
}


def encode(**changes: Any) -> bytes:
    return json.dumps({**FIELDS, **changes}).encode()


def test_a_manifest_survives_writing_and_reading() -> None:
    manifest = Manifest.from_json(encode())
    assert Manifest.from_json(manifest.to_json().encode()) == manifest
    assert manifest.files["tokens.txt"] == FileEntry(sha256="0" * 64, size=1)
    assert manifest.chunks_ms == (80, 160, 320, 640)
    assert json.loads(manifest.to_json()) == FIELDS


def test_fields_of_later_versions_are_kept() -> None:
    manifest = Manifest.from_json(encode(signature={"key": "k1"}))
    assert manifest.extra == {"signature": {"key": "k1"}}
    assert json.loads(manifest.to_json())["signature"] == {"key": "k1"}


@pytest.mark.parametrize(
    "decoding", [{"beam": 4}, {"lm_weight": "0.4"}, {"lm_weight": True}, {"word_bonus": 1e300}, []]
)
def test_decoding_settings_are_known_finite_numbers(decoding: Any) -> None:
    with pytest.raises(
        BundleError, match=r"decoding: .*lm_weight or word_bonus or unknown_logprob"
    ):
        Manifest.from_json(encode(decoding=decoding))


@pytest.mark.parametrize("version", [0, 2, "1", True, None, 1.5])
def test_another_schema_version_is_incompatible(version: Any) -> None:
    with pytest.raises(BundleIncompatible, match="schema_version"):
        Manifest.from_json(encode(schema_version=version))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "En Demo"),
        ("name", 7),
        ("version", ""),
        ("version", "../1"),
        ("release_counter", -1),
        ("release_counter", True),
        ("release_counter", 1.0),
        ("created", "yesterday"),
        ("created", "2026-01-02T03:04:05"),
        ("frontend", ["knf_nemo"]),
        ("frontend", "mfcc"),
        ("sample_rate", 0),
        ("sample_rate", "16000"),
        ("chunk_frames", []),
        ("chunk_frames", [32, 8]),
        ("chunk_frames", [8, 8]),
        ("chunk_frames", [10**9]),
        ("chunk_frames", "8"),
        ("default_chunk_ms", 100),
        ("precisions", {}),
        ("precisions", {"float32": 1}),
        ("precisions", ["encoder.onnx"]),
        ("parent", 1),
        ("runtime", {"onnxruntime": 1}),
        ("metrics", []),
        ("licence", None),
        ("training_data", "all of it"),
        ("files", []),
        ("files", {"encoder.onnx": ENTRY}),
        ("files", {**FIELDS["files"], "../evil": ENTRY}),
        ("files", {**FIELDS["files"], "a/b": ENTRY}),
        ("files", {**FIELDS["files"], "a\\b": ENTRY}),
        ("files", {**FIELDS["files"], "/etc/passwd": ENTRY}),
        ("files", {**FIELDS["files"], "..": ENTRY}),
        ("files", {**FIELDS["files"], "": ENTRY}),
        ("files", {**FIELDS["files"], "manifest.json": ENTRY}),
        ("files", {**FIELDS["files"], "\ud800": ENTRY}),
        ("files", {**FIELDS["files"], "x": 1}),
        ("files", {**FIELDS["files"], "x": {"sha256": "0" * 63, "size": 1}}),
        ("files", {**FIELDS["files"], "x": {"sha256": "A" * 64, "size": 1}}),
        ("files", {**FIELDS["files"], "x": {"sha256": "0" * 64, "size": -1}}),
        ("files", {**FIELDS["files"], "x": {"sha256": "0" * 64, "size": True}}),
    ],
)
def test_a_wrong_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(BundleError, match=field) as caught:
        Manifest.from_json(encode(**{field: value}), file="b/manifest.json")
    assert caught.value.file == "b/manifest.json"
    assert caught.value.remedy


@pytest.mark.parametrize("field", ["confidence", "lm", "lexicon", "goldens"])
def test_an_optional_file_must_be_listed(field: str) -> None:
    with pytest.raises(BundleError, match=r"files: lacks 'x\.json'"):
        Manifest.from_json(encode(**{field: "x.json"}))


@pytest.mark.parametrize(
    "field",
    sorted(
        {"name", "version", "release_counter", "created", "frontend", "sample_rate"}
        | {"chunk_frames", "default_chunk_ms", "precisions", "files", "schema_version"}
    ),
)
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != field}
    with pytest.raises(BundleError, match=field):
        Manifest.from_json(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe{}",
        b"[]",
        b"null",
        b"{",
        encode()[:-1],
        encode(metrics={"wer": float("nan")}),
        b'{"a":' * 200_000,
        b"[" * 200_000,
        b'{"schema_version": ' + b"9" * 5000 + b"}",
        b'{"schema_version": 1, "schema_version": 1}',
        encode().replace(b'"tokens.txt"', b'"encoder.onnx"'),
        encode() + b" " * MAX_MANIFEST_BYTES,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_not_one_json_object_with_distinct_names_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_json(data)


def test_a_manifest_built_in_code_is_checked_too() -> None:
    manifest = Manifest.from_json(encode())
    with pytest.raises(BundleError, match="precisions"):
        Manifest(
            **{
                name: getattr(manifest, name)
                for name in ("name", "version", "release_counter", "created", "frontend")
            },
            sample_rate=16000,
            chunk_frames=(8,),
            default_chunk_ms=80,
            precisions={},
        )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(FIELDS)), value=json_values)
def test_any_value_in_any_field_is_accepted_or_refused_but_never_crashes(
    field: str, value: Any
) -> None:
    try:
        Manifest.from_json(encode(**{field: value}))
    except BundleError as error:
        assert str(error)


@given(data=st.binary(max_size=64))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        Manifest.from_json(data)
