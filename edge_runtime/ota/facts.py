"""What this device is, for `edge_runtime.ota.compat` to compare with what a release needs."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import edge_runtime
from edge_runtime.ota.compat import Facts

PACKAGES = ("onnxruntime", "tensorrt", "numpy")


def this_device(
    state: Path, *, release: int, keep_free: int = 0, known: Mapping[str, str] | None = None
) -> Facts:
    """`state` is on the disk that counts.  `known` are facts that only a spoke or an operator can
    tell (`sm`, `device`, `jetpack`, ...); they win over what is found here.
    """
    versions = {"agent": edge_runtime.__version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    told = dict(known or {})
    own = {name: told.pop(name) for name in ("arch", "device", "sm") if name in told}
    return Facts(
        **{"arch": platform.machine(), **own},
        release=release,
        free_bytes=shutil.disk_usage(state).free - keep_free,
        versions={**versions, **told},
    )
