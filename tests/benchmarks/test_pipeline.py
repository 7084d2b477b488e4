"""The chaos of `benchmarks/pipeline.py`, small: whatever is killed, every run ends, once."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import pipeline


@pytest.mark.slow
def test_runs_finish_and_publish_once_while_everything_is_killed(tmp_path: Path) -> None:
    args = argparse.Namespace(runs=2, every=2.0, limit=300.0, at_once=2, seed=1)
    found = pipeline.chaos(tmp_path, "sqlite", args)
    assert sum(found["killed"].values()) > 0
    assert found["done"] == found["published_once"] == found["signed"] == 2, found
    assert found["stuck"] == found["published_twice"] == found["overlaps"] == 0
    assert found["gathered_whole"] == 2 and not found["devices_failed"]
    assert found["segments"] == {"sent": 160, "lost": 0, "twice": 0, "unknown": 0}
    assert ["done", "2"] in pipeline.table({"sqlite": found})
