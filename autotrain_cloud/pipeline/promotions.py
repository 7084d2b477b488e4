"""What becomes of a model after the gate, in the promotion ledger beside the gate's verdicts.

    enter(ledger, "approval", "ada", {"run": "r1", "verdict": digest})     # once, however often

Steps of a run may happen twice; what they decided is written down once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotrain_cloud.gate import ledger
from edge_runtime.errors import ConfigError


def enter(path: Path, kind: str, who: str, body: Mapping[str, Any]) -> None:
    """Unless such an entry is there. Raises as `ledger.append`."""
    if not any(
        entry.kind == kind and entry.body.items() >= body.items()
        for entry in ledger.read_ledger(path).entries
    ):
        ledger.append(path, kind, who, body)


def verdict_digest(path: Path) -> str:
    """By which the ledger knows the verdict in a file. Raises ConfigError."""
    try:
        verdict = ledger.canonical(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is no verdict: {error}") from error
    return hashlib.sha256(verdict).hexdigest()
