"""A model bundle on disk: a directory whose every file is what its manifest promised.

    bundle = Bundle.open("bundles/en-demo")     # all digests verified, or BundleError
    bundle.vocabulary()                         # tokens.txt
    bundle.model("float32")                     # path of encoder.onnx

Nothing is used before everything is verified, and a bundle is written whole or not at all: files go
to a temporary directory beside the target, are flushed to disk, and appear with one rename.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.contract.bundle import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    TOKENS_NAME,
    FileEntry,
    Manifest,
    is_plain_name,
)
from edge_runtime.errors import BundleError, BundleIncompatible, BundleTampered
from edge_runtime.files import sync_directory
from edge_runtime.tokens import Vocabulary

_FETCH_AGAIN = "fetch the bundle again"
_BLOCK = 1 << 20  # bytes hashed at a time: hashing must not hold a model in memory


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. `path` is its directory."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Reads the manifest and verifies size and SHA-256 of every file it lists.

        Raises BundleError, BundleTampered or BundleIncompatible; nothing is half-opened.
        """
        path = Path(path)
        if not path.is_dir():
            raise BundleError(
                "is a file" if path.exists() else "does not exist",
                file=str(path),
                expected=f"a directory with {MANIFEST_NAME}",
                remedy="name the bundle's directory",
            )
        manifest_path = path / MANIFEST_NAME
        _regular_size(manifest_path)
        try:
            with manifest_path.open("rb") as source:
                data = source.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise _unreadable(manifest_path, error) from error
        manifest = Manifest.from_json(data, file=str(manifest_path))
        if not manifest.files:
            raise BundleError(
                "is empty", file=str(manifest_path), field="files", remedy=_FETCH_AGAIN
            )
        for name, entry in manifest.files.items():
            _verify(path / name, entry)
        return cls(path, manifest)

    def file(self, name: str) -> Path:
        """Path of a verified file. Raises BundleError for a name the manifest does not list."""
        if name not in self.manifest.files:
            raise BundleError(
                f"is not in the bundle {self.manifest.name}", file=name, remedy=_FETCH_AGAIN
            )
        return self.path / name

    def model(self, precision: str = "float32") -> Path:
        """Path of the graph in `precision`. Raises BundleIncompatible if there is none."""
        name = self.manifest.precisions.get(precision)
        if name is None:
            raise BundleIncompatible(
                f"has no {precision!r}",
                file=str(self.path / MANIFEST_NAME),
                field="precisions",
                expected=" or ".join(sorted(self.manifest.precisions)),
            )
        return self.file(name)

    def vocabulary(self) -> Vocabulary:
        """The bundle's `tokens.txt`."""
        return Vocabulary.load(self.file(TOKENS_NAME))

    def confidence_file(self) -> Path | None:
        """Path of the confidence map, if the bundle has one."""
        return self.file(self.manifest.confidence) if self.manifest.confidence else None

    def lm_file(self) -> Path | None:
        """Path of the language model, if the bundle has one."""
        return self.file(self.manifest.lm) if self.manifest.lm else None

    def lexicon_file(self) -> Path | None:
        """Path of the lexicon, if the bundle has one."""
        return self.file(self.manifest.lexicon) if self.manifest.lexicon else None

    def goldens_file(self) -> Path | None:
        """Path of the self-test's inputs and answers, if the bundle has them."""
        return self.file(self.manifest.goldens) if self.manifest.goldens else None

    def decoding(self) -> dict[str, Any]:
        """Fields of a `BeamConfig` that fuses the language model as tuned; {} if there is none."""
        file = self.lm_file()
        return {} if file is None else {"lm": str(file), **self.manifest.decoding}


def write_bundle(path: Path | str, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Bundle:
    """Writes a bundle at `path`, replacing one that is there, and opens it.

    `files` maps names to source paths or contents; `manifest.files` is computed from them. A crash
    leaves the old bundle, the new one, or (in the moment between two renames) the old one under
    `.NAME.old-*` beside it; never a mixture.

    Raises BundleError for names or a manifest that do not fit, OSError when the disk refuses.
    """
    target = Path(path).absolute()
    for name in files:
        if not is_plain_name(name) or name == MANIFEST_NAME:
            raise BundleError("is not a plain file name", file=name)
    if target.exists() and not (target / MANIFEST_NAME).is_file():
        raise BundleError(
            f"exists and has no {MANIFEST_NAME}", file=str(target), remedy="choose another path"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    try:
        entries = {name: _copy(source, fresh / name) for name, source in sorted(files.items())}
        final = manifest.with_files(entries)
        text = final.to_json().encode()
        Manifest.from_json(text)  # what we write, we can read
        _copy(text, fresh / MANIFEST_NAME)
        fresh.chmod(0o755)  # mkdtemp makes 0700
        sync_directory(fresh)
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Bundle.open(path)


def _swap(fresh: Path, target: Path) -> None:
    """Puts directory `fresh` at `target`. A directory cannot replace a full one in one rename."""
    if not target.exists():
        fresh.rename(target)
        sync_directory(target.parent)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    target.rename(old / target.name)
    try:
        fresh.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        sync_directory(target.parent)
        shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path | bytes, target: Path) -> FileEntry:
    """Copies to a new file on disk, flushed; returns what it was."""
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as sink:
        if isinstance(source, bytes):
            digest.update(source)
            size = sink.write(source)
        else:
            with source.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    size += sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
    return FileEntry(sha256=digest.hexdigest(), size=size)


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"cannot be read: {error.strerror}", file=str(path), remedy=_FETCH_AGAIN)


def _regular_size(path: Path) -> int:
    """Size in bytes of a regular file; pipes and devices are refused before they can block."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise BundleTampered("is missing", file=str(path), remedy=_FETCH_AGAIN) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleTampered("is not a regular file", file=str(path), remedy=_FETCH_AGAIN)
    return status.st_size


def _verify(path: Path, entry: FileEntry) -> None:
    size = _regular_size(path)
    if size != entry.size:
        raise BundleTampered(
            f"has {size} bytes", file=str(path), expected=f"{entry.size}", remedy=_FETCH_AGAIN
        )
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    try:
        with path.open("rb", buffering=0) as source:
            while count := source.readinto(block):
                digest.update(block[:count])
    except OSError as error:
        raise _unreadable(path, error) from error
    if digest.hexdigest() != entry.sha256:
        raise BundleTampered(
            f"has SHA-256 {digest.hexdigest()[:12]}…",
            file=str(path),
            expected=f"{entry.sha256[:12]}…",
            remedy=_FETCH_AGAIN,
        )
