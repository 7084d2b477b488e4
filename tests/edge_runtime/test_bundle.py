"""A bundle opens whole and verified, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime import bundle as bundle_module
from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.contract.bundle import Manifest
from edge_runtime.errors import BundleError, BundleIncompatible, BundleTampered
from tests.models import bundle_manifest, echo_model, write_tokens


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    tokens = write_tokens(tmp_path / "source-tokens.txt", 64)
    return {"encoder.onnx": echo_model().SerializeToString(), "tokens.txt": tokens}


@pytest.fixture
def path(tmp_path: Path, files: dict[str, Path | bytes]) -> Path:
    return write_bundle(tmp_path / "bundle", bundle_manifest(), files).path


def test_what_was_written_can_be_opened(path: Path, files: dict[str, Path | bytes]) -> None:
    bundle = Bundle.open(path)
    assert set(bundle.manifest.files) == set(files)
    assert bundle.model("float32").read_bytes() == files["encoder.onnx"]
    assert len(bundle.vocabulary()) == 65
    assert bundle.confidence_file() is None
    assert bundle.lm_file() is None
    assert bundle.goldens_file() is None
    assert sorted(p.name for p in path.iterdir()) == ["encoder.onnx", "manifest.json", "tokens.txt"]


def test_a_precision_it_does_not_have_is_incompatible(path: Path) -> None:
    with pytest.raises(BundleIncompatible, match="int8"):
        Bundle.open(path).model("int8")


def test_a_file_it_does_not_list_cannot_be_had(path: Path) -> None:
    (path / "notes.txt").write_text("unlisted")
    bundle = Bundle.open(path)
    for name in ("notes.txt", "../bundle/tokens.txt", "manifest.json"):
        with pytest.raises(BundleError, match="not in the bundle"):
            bundle.file(name)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokens.txt"])
def test_one_flipped_bit_is_noticed(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(BundleTampered, match=rf"{name}: has SHA-256"):
        Bundle.open(path)


def test_a_truncated_file_is_noticed_by_its_size(path: Path) -> None:
    os.truncate(path / "encoder.onnx", 1000)
    with pytest.raises(BundleTampered, match=r"encoder\.onnx: has 1000 bytes"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokens.txt", "manifest.json"])
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(BundleTampered, match=rf"{name}: is missing"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["tokens.txt", "manifest.json"])
def test_a_pipe_or_directory_in_place_of_a_file_is_refused_without_blocking(
    path: Path, name: str
) -> None:
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(BundleTampered, match="not a regular file"):
        Bundle.open(path)
    (path / name).unlink()
    (path / name).mkdir()
    with pytest.raises(BundleTampered, match="not a regular file"):
        Bundle.open(path)


def test_a_file_or_nothing_in_place_of_the_directory_is_refused(path: Path) -> None:
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open(path / "tokens.txt")
    with pytest.raises(BundleError, match="does not exist"):
        Bundle.open(path / "nowhere")


def test_a_manifest_without_files_is_refused(path: Path) -> None:
    (path / "manifest.json").write_text(bundle_manifest().to_json())
    with pytest.raises(BundleError, match="files: is empty"):
        Bundle.open(path)


def test_writing_replaces_the_old_bundle_and_leaves_no_litter(
    path: Path, files: dict[str, Path | bytes]
) -> None:
    write_bundle(path, bundle_manifest(version="2"), {**files, "LICENCE": b"text"})
    assert Bundle.open(path).manifest.version == "2"
    assert (path / "LICENCE").read_bytes() == b"text"
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("stage", ["_copy", "_swap"])
def test_a_failure_while_writing_leaves_the_old_bundle(
    path: Path, files: dict[str, Path | bytes], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bundle_module, stage, fail)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(path, bundle_manifest(version="2"), files)
    monkeypatch.undo()
    assert Bundle.open(path).manifest.version == "1"
    assert not list(path.parent.glob(".*"))


def test_a_failed_swap_puts_the_old_bundle_back(
    path: Path, files: dict[str, Path | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_for_the_new_one(source: Path, target: Path) -> Path:
        if source.name.startswith(".bundle.new-"):
            raise OSError("refused")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="refused"):
        write_bundle(path, bundle_manifest(version="2"), files)
    assert Bundle.open(path).manifest.version == "1"


@pytest.mark.parametrize("name", ["../evil", "a/b", "manifest.json", ".hidden", ""])
def test_writing_refuses_names_that_reading_would_refuse(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "b", bundle_manifest(), {name: b""})
    assert not (tmp_path / "b").exists()


def test_writing_does_not_replace_what_is_not_a_bundle(
    tmp_path: Path, files: dict[str, Path | bytes]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        write_bundle(tmp_path / "home", bundle_manifest(), files)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_a_manifest_whose_model_was_not_given_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"lacks 'encoder\.onnx'"):
        write_bundle(tmp_path / "b", bundle_manifest(), {"tokens.txt": b"<blk> 0\n"})
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_on_disk_is_what_was_returned(path: Path) -> None:
    text = (path / "manifest.json").read_bytes()
    assert Manifest.from_json(text) == Bundle.open(path).manifest
