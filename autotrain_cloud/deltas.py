"""What a release is sent as to devices that have one of those before it, and what is thrown away.

Beside the files of a release lie deltas, each under its own digest: against the same file of the
last releases, and against nothing, which is the file compressed.  They are signed with the release,
by digest and size.  One that saves little is not kept: a device fetches the whole file then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.bundle import Bundle
from edge_runtime.contract.bundle import MANIFEST_NAME, Manifest
from edge_runtime.files import write_atomically
from edge_runtime.ota import delta
from edge_runtime.ota.slots import DELTA

LAST = 3  # releases that deltas are made against
WORTH = 0.6  # of the whole file
SMALL = 1024  # bytes: not worth a request of its own

Signed = dict[str, dict[str, dict[str, Any]]]  # SHA-256 of a file -> of a base -> sha256, size


def releases(folder: Path) -> list[tuple[str, Manifest]]:
    """What was published into `folder` and is still there: digest and manifest, newest first."""
    found = [
        (path.name.split(".")[0], Manifest.from_json(path.read_bytes(), file=str(path)))
        for path in folder.glob(f"*.{MANIFEST_NAME}")
    ]
    return sorted(found, key=lambda one: one[1].release_counter, reverse=True)


def make(folder: Path, bundle: Bundle, last: int = LAST) -> Signed:
    """Writes the deltas that lead to a bundle from the `last` releases in `folder`."""
    signed: Signed = {}
    before = releases(folder)[:last]
    for name, entry in bundle.manifest.files.items():
        if entry.size < SMALL:
            continue
        new = bundle.file(name).read_bytes()
        known = [found.files[name].sha256 for _, found in before if name in found.files]
        if known[:1] == [entry.sha256]:
            known = []  # whoever is not far behind has it
        bases = {sha256: folder / f"{sha256}.{name}" for sha256 in known if sha256 != entry.sha256}
        packed = delta.make(b"", new)
        worth = min(int(WORTH * entry.size), len(packed))
        found = {delta.NOTHING: packed} if len(packed) < WORTH * entry.size else {}
        for sha256, path in bases.items():
            if path.is_file() and len(made := delta.make(path.read_bytes(), new)) < worth:
                found[sha256] = made
        for base, content in found.items():
            digest = hashlib.sha256(content).hexdigest()
            write_atomically(folder / f"{digest}.{DELTA}", content)
            signed.setdefault(entry.sha256, {})[base] = {"sha256": digest, "size": len(content)}
    return signed


def prune(folder: Path, signed: Mapping[str, Any], keep: int, current: Collection[str]) -> int:
    """Removes files that neither the `keep` newest releases nor those in `current` (digests of
    manifests) nor the deltas in `signed` need; -> how many bytes.
    """
    needed = set(current)
    for number, (sha256, manifest) in enumerate(releases(folder)):
        if number < keep or sha256 in current:
            needed |= {sha256, *(entry.sha256 for entry in manifest.files.values())}
    needed |= {one["sha256"] for found in signed.values() for one in found.values()}
    freed = 0
    for path in folder.iterdir():
        if path.name.split(".")[0] not in needed:
            freed += path.stat().st_size
            path.unlink()
    return freed
