"""Huge pages: only what is new is asked for, and asking changes no bit of it."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import hugepages

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux gives huge pages")


def huge_kb() -> int:
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


@linux
def test_what_was_mapped_since_lies_in_huge_pages_and_is_unchanged() -> None:
    before, huge_before = hugepages.mapped(), huge_kb()
    memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(memory, np.uint32)
    values[:] = np.arange(len(values), dtype=np.uint32)
    asked = hugepages.collapse(before)
    assert (28 << 20) <= asked < (64 << 20)
    assert np.array_equal(values, np.arange(len(values), dtype=np.uint32))
    if huge_kb() == huge_before:
        pytest.skip("this kernel collapses later, or never")
    assert huge_kb() - huge_before >= 28 << 10


@linux
def test_memory_of_before_is_left_alone() -> None:
    memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[::4096] = b"x" * (32 << 8)
    huge_before = huge_kb()
    assert hugepages.collapse(hugepages.mapped()) < 32 << 20
    assert huge_kb() == huge_before


def test_where_memory_is_not_known_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert hugepages.mapped() == []
    assert hugepages.collapse(hugepages.mapped()) == 0


def test_ranges_are_subtracted_wherever_they_overlap() -> None:
    assert hugepages._minus([(0, 10), (20, 30)], [(2, 4), (6, 22), (29, 40)]) == [
        (0, 2), (4, 6), (22, 29),
    ]  # fmt: skip
    assert hugepages._minus([(0, 10)], [(0, 10)]) == []
    assert hugepages._minus([(5, 6)], [(0, 1), (9, 10)]) == [(5, 6)]
