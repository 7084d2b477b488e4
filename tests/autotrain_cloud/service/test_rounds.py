from __future__ import annotations

import pytest

from autotrain_cloud.service.rounds import Rounds
from edge_runtime.errors import ConfigError, StorageError


class Part:
    """Raises what it is told to, and counts."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.times: list[int] = []

    def __call__(self, now_ms: int) -> None:
        self.times.append(now_ms)
        if self.error:
            raise self.error


def test_trouble_of_one_part_does_not_keep_the_others_from_their_work() -> None:
    ill, well = Part(), Part()
    ill.error = StorageError("the database does not answer")
    rounds = Rounds({"ill": ill, "well": well}, say=lambda line: None)
    rounds.go(1)
    rounds.go(2)
    assert ill.times == well.times == [1, 2]


def test_trouble_is_told_once_and_so_is_its_end() -> None:
    part, lines = Part(), list[str]()
    rounds = Rounds({"learn": part}, say=lines.append)
    rounds.go(1)
    assert lines == []
    for error in (StorageError("a"), StorageError("a"), ConfigError("guard.jsonl: missing"), None):
        part.error = error
        rounds.go(2)
    assert lines == [
        "learn: a; trying again",
        "learn: guard.jsonl: missing; trying again",
        "learn: works again",
    ]


def test_a_mistake_in_the_code_is_not_swallowed() -> None:
    part = Part()
    part.error = KeyError("bug")
    with pytest.raises(KeyError):
        Rounds({"learn": part}, say=lambda line: None).go(1)
