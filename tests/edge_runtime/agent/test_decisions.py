"""The log of decisions: bounded, never in the way, and there when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.agent.decisions import NAME, DecisionLog, explain
from edge_runtime.agent.sampling import Budget, Candidate, SamplingPolicy, decide
from edge_runtime.contract.messages import Consent

LIMIT = 250
CONSENT = Consent(id="c-1", version=1, granted=True, from_ms=0, retention_days=3)
POLICY = SamplingPolicy(random_share=0.0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    made = DecisionLog(tmp_path, LIMIT)
    yield made
    made.close()


def add(log: DecisionLog, number: int, confidence: float = 0.9) -> None:
    candidate = Candidate(
        id=f"{number:08}", captured_ms=number, speech_s=2.0, confidence=confidence,
        deletion_score=0.0, size=10,
    )  # fmt: skip
    decision = decide(POLICY, CONSENT, candidate, Budget())
    log.add(decision, candidate, "kept" if decision.upload else None)


def ids(folder: Path) -> list[int]:
    return [int(each.id) for each in explain(folder, last=10_000)]


def test_why_something_was_kept_is_on_the_disk_with_it_and_so_is_what_came_before(
    log: DecisionLog, tmp_path: Path
) -> None:
    add(log, 1)
    assert ids(tmp_path) == []
    add(log, 2, confidence=0.1)
    add(log, 3)
    assert ids(tmp_path) == [1, 2]
    log.write()
    assert ids(tmp_path) == [1, 2, 3]
    add(log, 4)
    log.close()
    assert ids(tmp_path) == [1, 2, 3, 4]


def test_no_more_wait_than_a_hundred_and_no_more_stay_than_were_asked_for(
    log: DecisionLog, tmp_path: Path
) -> None:
    for number in range(1, 330):
        add(log, number)
        assert number - max(ids(tmp_path), default=0) < 100
    log.write()
    assert ids(tmp_path) == [*range(330 - LIMIT, 330)]


def test_a_log_of_nothing_makes_no_file(tmp_path: Path) -> None:
    none = DecisionLog(tmp_path, 0)
    add(none, 1, confidence=0.1)
    none.close()
    assert not [*tmp_path.iterdir()]


def test_one_that_is_damaged_begins_anew_with_what_waited(log: DecisionLog, tmp_path: Path) -> None:
    for number in range(1, 100):
        add(log, number)
    log.close()
    for path in tmp_path.glob(f"{NAME}*"):
        path.write_bytes(b"not a database, although it is long enough to look at" * 100)
    add(log, 100, confidence=0.1)  # finds it damaged
    add(log, 101, confidence=0.1)
    assert ids(tmp_path) == [100, 101]


def test_where_nothing_can_be_written_the_last_ones_wait_until_it_can(
    log: DecisionLog, tmp_path: Path
) -> None:
    (tmp_path / NAME).mkdir()
    for number in range(1, 251):
        add(log, number)
    log.write()
    (tmp_path / NAME).rmdir()
    log.write()
    assert ids(tmp_path) == [*range(151, 251)]
