"""The command as a process, started in the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edge_runtime

ROOT = Path(edge_runtime.__file__).parents[1]
COMMAND = [sys.executable, "-m", "edge_runtime"]


def environment(path: Path | None = None, **variables: str) -> dict[str, str]:
    """The process's own, with the checkout importable; `path` holds further distributions."""
    python_path = [str(p) for p in (path, ROOT) if p]
    if inherited := os.environ.get("PYTHONPATH"):
        python_path.append(inherited)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(python_path), **variables}


def vitconformer(
    *args: str | Path,
    stdin: bytes = b"",
    path: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, args)],
        input=stdin,
        capture_output=True,
        env=environment(path, **(variables or {})),
        timeout=120,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def start(*args: str | Path, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts the command; the caller reads its output and ends it."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(**(variables or {})),
        **options,
    )


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """What stderr says, checked to be one line of the agreed form and no traceback."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vitconformer: error: "), line
    return line.removeprefix("vitconformer: error: ")
