"""What the store has is what teachers get, audio and all; what it has not is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotrain_cloud.segments import read_segments
from autotrain_cloud.service.gather import gather
from autotrain_cloud.service.watch import set_slice
from autotrain_cloud.store import Store
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.fleet import new_ingest, packet, segment


def filled(store: Store) -> None:
    ingest = new_ingest(store)
    for number in range(7):
        device = "kitchen-1" if number % 2 else "hall-1"
        ingest.commit([packet(segment(number), device)], now_ms=1000 + number)
    with store.begin() as db:
        set_slice(db, "kitchen-1", "kitchen")


def test_every_segment_comes_once_in_shards_with_its_audio(store: Store, tmp_path: Path) -> None:
    filled(store)
    found = gather(store, tmp_path / "a", until_ms=2000, size=3)
    assert [path.name for path in found.shards] == [f"segments-000{n}.jsonl" for n in (1, 2, 3)]
    read = [each for path in found.shards for each in read_segments(path)]
    assert [int(each.id, 16) for each in read] == list(range(7))
    for each in read:
        number = int(each.id, 16)
        assert (tmp_path / "a" / each.audio).read_bytes() == segment(number).audio
        assert each.text == segment(number).text
        assert [word.confidence for word in each.words] == [
            pytest.approx(word.confidence) for word in segment(number).words
        ]
    again = gather(store, tmp_path / "b", until_ms=2000, size=3)
    assert [p.read_bytes() for p in again.shards] == [p.read_bytes() for p in found.shards]


def test_a_slice_and_a_time_choose(store: Store, tmp_path: Path) -> None:
    filled(store)
    found = gather(store, tmp_path, slice="kitchen", since_ms=1002, until_ms=1005)
    (shard,) = found.shards
    assert [int(each.id, 16) for each in read_segments(shard)] == [3]
    assert all(each.slice == "kitchen" for each in read_segments(shard))
    with pytest.raises(ConfigError, match="no segments of slice 'attic'"):
        gather(store, tmp_path, slice="attic", until_ms=2000)
