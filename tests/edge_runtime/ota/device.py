"""A device with a real updater on a real disk, before a real repository and server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autotrain_cloud.release import KeyRing, Repository
from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.contract.bundle import Manifest
from edge_runtime.contract.messages import UpdateReport
from edge_runtime.errors import BackendError
from edge_runtime.ota import audit
from edge_runtime.ota.fs import RealFs
from edge_runtime.ota.health import Health
from edge_runtime.ota.settings import Probation, UpdateSettings
from edge_runtime.ota.updater import Updater
from tests.autotrain_cloud.server import Server

FAMILY = "en"
GOOD = Health(utterances=50, confidence=0.9, confidence_sd=0.1, audio_s=100, busy_s=10)


def bundle(
    folder: Path, release: int, *, model: bytes | None = None, same: bytes = b"a b"
) -> Bundle:
    """A bundle whose model is noise, so that nothing of it can be had cheaper."""
    manifest = Manifest(
        name=FAMILY, version=f"{release}.0", release_counter=release,
        created="2026-01-02T03:04:05Z", frontend="knf_nemo", sample_rate=16000,
        chunk_frames=(8,), default_chunk_ms=80, precisions={"float32": "encoder.onnx"},
    )  # fmt: skip
    files: dict[str, Path | bytes] = {
        "encoder.onnx": model or random.Random(release).randbytes(2000),
        "tokens.txt": same,
    }
    return write_bundle(folder / f"bundle-{release}", manifest, files)


class Place:
    """A repository, its server, and a device that was delivered with release 3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo, self.keys = folder / "repo", folder / "keys"
        Repository.create(self.repo, self.keys, [FAMILY, "de"])
        self.golden = bundle(folder, 3)
        (folder / "root.json").write_bytes((self.repo / "metadata" / "1.root.json").read_bytes())
        self.server = Server(self.repo)
        self.reports: list[UpdateReport] = []
        self.clock = 0.0  # monotonic, s
        self.sick: set[int] = set()  # releases that fail their self-test
        self.bad: set[int] = set()  # releases that do not load
        self.loaded: list[int] = []

    def repository(self) -> Repository:
        return Repository(self.repo, KeyRing.load(self.keys))

    def publish(self, release: int, **options: Any) -> Bundle:
        made = bundle(self.folder, release, **options.pop("bundle", {}))
        self.repository().publish(made, **options)
        return made

    def settings(self, **fields: Any) -> UpdateSettings:
        return UpdateSettings(
            **{
                "url": self.server.url, "root": self.folder / "root.json",
                "state": self.folder / "device", "golden": self.golden.path, "retries": 1,
                "retry_s": 0.0, "least_free_bytes": 0,
                "probation": Probation(utterances=20, minutes=10.0), **fields,
            }
        )  # fmt: skip

    def _load(self, path: Path) -> int:
        release = Bundle.open(path).manifest.release_counter
        if release in self.bad:
            raise BackendError("the engine cannot be built")
        self.loaded.append(release)
        return release

    def _test(self, release: int) -> None:
        if release in self.sick:
            raise BackendError("says something else")

    @contextmanager
    def device(self, **fields: Any) -> Iterator[Updater[int]]:
        options = {key: fields.pop(key) for key in ("known", "now") if key in fields}
        updater = Updater(
            self.settings(**fields), load=self._load, self_test=self._test,
            report=self.reports.append, session=7, monotonic=lambda: self.clock,
            rng=random.Random(0), **options,
        )  # fmt: skip
        try:
            yield updater
        finally:
            updater.close()

    def audit(self) -> list[dict[str, Any]]:
        """The entries of the device's log, whose chain holds."""
        found = audit.verify(RealFs(self.folder / "device"))
        assert not found.problems
        return found.entries

    def states(self) -> list[str]:
        return [report.state for report in self.reports]
