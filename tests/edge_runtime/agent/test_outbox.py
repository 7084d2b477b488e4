"""A segment that was accepted is queued or its fate is known, whatever happens in between."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.agent.outbox import REMEMBER_MS, Outbox
from edge_runtime.agent.sealing import Sealer
from edge_runtime.errors import ConfigError
from tests.edge_runtime.agent.items import item

QUOTA = 1 << 20


def _ids(outbox: Outbox, limit: int = 1000) -> list[int]:
    return [int(entry.id, 16) for entry in outbox.peek(limit, now_ms=1)]


def test_the_most_valuable_goes_first_and_among_equals_the_oldest(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        for number, value in enumerate([0.5, 0.9, 0.5, 0.1, 0.9]):
            assert outbox.put(item(number, value=value), now_ms=1) == "kept"
        assert _ids(outbox) == [1, 4, 0, 2, 3]
        assert _ids(outbox, 2) == [1, 4]
        first = outbox.peek(2, now_ms=1, exclude={item(1).id, item(0).id})
        assert [int(entry.id, 16) for entry in first] == [4, 2]


@given(st.binary(min_size=0, max_size=5000))
@settings(max_examples=25)
def test_what_comes_out_is_what_went_in(payload: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        entry = item(1, payload=payload, value=1)
        with Outbox.open(directory, quota_bytes=QUOTA) as outbox:
            outbox.put(entry, now_ms=1)
            assert outbox.peek(1, now_ms=1) == [entry]
        with Outbox.open(directory, quota_bytes=QUOTA) as outbox:
            assert outbox.peek(1, now_ms=1) == [entry]


def test_every_operation_can_be_repeated(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        assert [outbox.put(item(n), now_ms=1) for n in (1, 2, 1)] == ["kept", "kept", "known"]
        assert [outbox.delivered([item(1).id], now_ms=2) for _ in range(2)] == [1, 0]
        assert [outbox.refused(item(2).id, "malformed", now_ms=3) for _ in range(2)] == [
            True,
            False,
        ]
        assert outbox.delivered([item(9).id], now_ms=4) == 0
        assert not outbox.refused(item(9).id, "malformed", now_ms=4)
        assert [outbox.put(item(n), now_ms=5) for n in (1, 2)] == ["known", "known"]
        assert _ids(outbox) == []
        assert [outbox.fate(item(n).id) for n in (1, 2, 9)] == ["delivered", "dead", None]


def test_a_dead_letter_is_kept_reported_once_and_not_sent(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        outbox.put(item(1), now_ms=1)
        outbox.refused(item(1).id, "digest-mismatch", now_ms=7)
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        assert _ids(outbox) == []
        assert (outbox.stats().dead, outbox.stats().queued) == (1, 0)
        [stone] = outbox.tombstones(10)
        assert (stone.fate, stone.reason, stone.at_ms) == ("dead", "digest-mismatch", 7)
        assert stone.inclusion_probability == 0.25
        outbox.reported([stone.id])
        assert outbox.tombstones(10) == []
        assert outbox.expire(now_ms=1000) == 1
        assert outbox.stats().bytes == 0


def test_the_least_valuable_and_oldest_make_room_and_leave_a_tombstone(tmp_path: Path) -> None:
    size = len(item(0).payload) + Sealer.OVERHEAD
    with Outbox.open(tmp_path, quota_bytes=3 * size) as outbox:
        for number, value in [(1, 0.5), (2, 0.2), (3, 0.2)]:
            outbox.put(item(number, value=value), now_ms=1)
        assert outbox.put(item(4, value=0.2), now_ms=2) == "kept"
        assert _ids(outbox) == [1, 3, 4]
        assert outbox.put(item(5, value=0.1), now_ms=3) == "evicted"
        assert _ids(outbox) == [1, 3, 4]
        outbox.refused(item(1).id, "malformed", now_ms=4)
        assert outbox.put(item(6, value=0.1), now_ms=5) == "kept"  # a dead letter goes first
        assert _ids(outbox) == [3, 4, 6]
        fates = {int(stone.id, 16): stone.fate for stone in outbox.tombstones(10)}
        assert fates == {2: "evicted", 5: "evicted", 1: "dead"}
        assert outbox.put(item(7, value=1, payload=bytes(1000)), now_ms=6) == "evicted"
        assert _ids(outbox) == [3, 4, 6]  # nothing made room in vain
        assert outbox.stats().bytes <= 3 * size


def test_a_receipt_for_what_was_evicted_in_flight_takes_the_tombstone_back(tmp_path: Path) -> None:
    size = len(item(0).payload) + Sealer.OVERHEAD
    with Outbox.open(tmp_path, quota_bytes=size) as outbox:
        outbox.put(item(1), now_ms=1)
        outbox.put(item(2), now_ms=1)
        assert [stone.fate for stone in outbox.tombstones(9)] == ["evicted"]
        assert outbox.delivered([item(1).id], now_ms=2) == 0
        assert outbox.tombstones(9) == []
        assert outbox.fate(item(1).id) == "delivered"


def test_what_outlived_its_time_is_gone_and_reported(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        for number, expires in [(1, 10), (2, 20)]:
            outbox.put(item(number, expires_ms=expires), now_ms=1)
        assert outbox.expire(now_ms=9) == 0
        assert outbox.expire(now_ms=10) == 1
        assert _ids(outbox) == [2]
        assert [stone.fate for stone in outbox.tombstones(9)] == ["expired"]


def test_the_ledger_forgets_what_was_reported_but_never_an_erasure(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:
        for number in (1, 2, 3):
            outbox.put(item(number, expires_ms=1 << 50), now_ms=0)
        outbox.delivered([item(1).id], now_ms=0)
        outbox.refused(item(2).id, "malformed", now_ms=0)
        outbox.erase(segments=[item(3).id], now_ms=0)
        outbox.reported([item(3).id])
        outbox.expire(now_ms=REMEMBER_MS + 1)
        assert [outbox.fate(item(n).id) for n in (1, 2, 3)] == [None, "dead", "erased"]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delivered", "refused", "erase", "expire", "reopen", "report"]),
        st.integers(0, 7),
    ),
    max_size=25,
)


@given(OPERATIONS)
@settings(max_examples=60)
def test_every_accepted_segment_is_queued_or_its_fate_is_known(
    operations: list[tuple[str, int]],
) -> None:
    """Against a model: a dict of what each id should be."""
    size = 100 + Sealer.OVERHEAD
    model: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        outbox = Outbox.open(directory, quota_bytes=4 * size)
        for clock, (operation, n) in enumerate(operations):
            queued = [number for number, state in model.items() if state == "queued"]
            match operation:
                case "put":
                    outcome = outbox.put(
                        item(n, payload=bytes(100), value=n, expires_ms=20 + n), now_ms=clock
                    )
                    if n in model:
                        assert outcome == ("erased" if model[n] == "erased" else "known")
                    else:
                        assert outcome in ("kept", "evicted")
                        model[n] = "queued" if outcome == "kept" else "evicted"
                        for number in queued:  # one of these may have made room
                            if outbox.fate(item(number).id) == "evicted":
                                assert outcome == "kept"
                                assert number == min(queued) <= n
                                model[number] = "evicted"
                case "delivered":
                    assert outbox.delivered([item(n).id], now_ms=clock) <= (n in model)
                    if model.get(n, "erased") != "erased":
                        model[n] = "delivered"
                case "refused":
                    was = outbox.refused(item(n).id, "malformed", now_ms=clock)
                    assert was == (model.get(n) == "queued")
                    if was:
                        model[n] = "dead"
                case "erase":
                    outbox.erase(segments=[item(n).id], now_ms=clock)
                    model[n] = "erased"
                case "expire":
                    outbox.expire(now_ms=clock)
                    for number in queued:
                        if 20 + number <= clock:
                            model[number] = "expired"
                case "report":
                    outbox.reported([stone.id for stone in outbox.tombstones(2)])
                case "reopen":
                    outbox.close()
                    outbox = Outbox.open(directory, quota_bytes=4 * size)
            assert {n: outbox.fate(item(n).id) for n in model} == model
            queued = [number for number, state in model.items() if state == "queued"]
            assert sorted(_ids(outbox)) == sorted(queued)
            assert outbox.stats().bytes <= 4 * size
        assert outbox.incidents() == []
        outbox.close()


def test_threads_may_share_it(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, quota_bytes=QUOTA) as outbox:

        def work(first: int) -> None:
            for number in range(first, first + 25):
                outbox.put(item(number), now_ms=1)
                if number % 2:
                    outbox.delivered([item(number).id], now_ms=2)

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = [100 * n + m for n in range(4) for m in range(25) if (100 * n + m) % 2 == 0]
        assert sorted(_ids(outbox)) == expected


def test_a_second_process_is_told_so(tmp_path: Path) -> None:
    with (
        Outbox.open(tmp_path, quota_bytes=QUOTA),
        pytest.raises(ConfigError, match="another process"),
    ):
        Outbox.open(tmp_path, quota_bytes=QUOTA)
    Outbox.open(tmp_path, quota_bytes=QUOTA).close()
