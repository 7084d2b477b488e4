"""Files that a command line names one by one, or by the folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_runtime.errors import ConfigError


def files_of(paths: Iterable[Path], suffix: str) -> list[Path]:
    """Each path, or a folder's files with this ending. Raises ConfigError where it has none."""
    found = []
    for path in paths:
        inside = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{path}: has no {suffix} files")
        found += inside
    return found
