"""What takes long to make is waited for once, and a failure leaves what was there."""

from __future__ import annotations

import threading

import pytest

from autotrain_cloud.api.kept import Kept
from tests.autotrain_cloud.processes import wait_until


def test_an_old_value_is_given_while_the_next_is_made_once() -> None:
    made, go = [], threading.Event()

    def make() -> int:
        made.append(len(made))
        if len(made) > 1:
            assert go.wait(30)
        return made[-1]

    kept = Kept(make, least_s=0.0, name="test")
    assert kept.get() == 0
    kept.outdate()
    assert [kept.get() for _ in range(5)] == [0] * 5
    go.set()
    wait_until(lambda: kept.get() >= 1)
    assert made[:2] == [0, 1]


def test_a_failure_keeps_what_was_there_and_the_first_one_is_raised() -> None:
    values = iter([OSError("down"), 1, OSError("down"), 2])

    def make() -> int:
        value = next(values)
        if isinstance(value, OSError):
            raise value
        return value

    kept = Kept(make, least_s=0.0, name="test")
    with pytest.raises(OSError, match="down"):
        kept.get()
    assert kept.get() == 1
    wait_until(lambda: kept.get() == 2)


def test_a_young_value_is_not_made_anew() -> None:
    count = 0

    def make() -> int:
        nonlocal count
        count += 1
        return count

    kept = Kept(make, least_s=60.0, name="test")
    assert [kept.get() for _ in range(3)] == [1, 1, 1]
