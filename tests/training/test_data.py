from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_runtime.errors import ConfigError
from tests.training.corpus import make_corpus, sentence
from training.data import Batch, BatchPlan, collate, load_batches
from training.feature_augment import FLOOR, FeatureAugmentConfig
from training.store import FeatureStore, build_store
from training.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def stores(folder: Path) -> tuple[FeatureStore, ...]:
    return tuple(
        build_store([make_corpus(folder / f"corpus{i}", count=40, seed=i)], folder / f"store{i}")
        for i in range(2)
    )


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return train_tokenizer([sentence(i) for i in range(300)], folder / "tokenizer", vocab_size=50)


@pytest.fixture
def plan(stores: tuple[FeatureStore, ...], tokenizer: Tokenizer) -> BatchPlan:
    return BatchPlan(stores=stores, tokenizer=tokenizer, max_frames=600, seed=5)


def changed(plan: BatchPlan, **fields: object) -> BatchPlan:
    return BatchPlan(
        **{**{name: getattr(plan, name) for name in plan.__dataclass_fields__}, **fields}
    )  # type: ignore[arg-type]


def take(plan: BatchPlan, count: int, start: int = 0, workers: int = 0) -> list[Batch]:
    with contextlib.closing(load_batches(plan, start, workers)) as batches:  # type: ignore[type-var]
        return list(islice(batches, count))


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for name in ("features", "lengths", "targets", "target_lengths"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def read(plan: BatchPlan, count: int | None = None) -> list[tuple[int, int]]:
    """(store, index) of every example."""
    batches = islice(plan.batches(), count)
    return [
        pair for _, e in batches for pair in zip(e.store.tolist(), e.index.tolist(), strict=True)
    ]


def test_an_epoch_reads_everything_once(plan: BatchPlan) -> None:
    seen = read(changed(plan, epochs=1))
    assert sorted(seen) == [(store, index) for store in range(2) for index in range(40)]
    twice = read(changed(plan, epochs=2))
    assert sorted(twice) == sorted(seen + seen)
    assert twice[:80] == seen
    assert twice[80:] != seen


def test_a_batch_holds_the_features_and_texts_of_the_store(plan: BatchPlan) -> None:
    for (_, examples), batch in zip(
        plan.batches(), load_batches(changed(plan, epochs=1)), strict=False
    ):
        for row, (store, index) in enumerate(
            zip(examples.store.tolist(), examples.index.tolist(), strict=True)
        ):
            features, text = plan.stores[store][index]
            length = int(batch.lengths[row])
            np.testing.assert_array_equal(batch.features[row, :length], np.float32(features))
            assert (batch.features[row, length:] == float(FLOOR)).all()
            ids = batch.targets[row, : int(batch.target_lengths[row])].tolist()
            assert plan.tokenizer.decode(ids) == text


@pytest.mark.parametrize("augment", [False, True])
def test_batches_keep_to_their_size_padding_included(plan: BatchPlan, augment: bool) -> None:
    batches = take(changed(plan, augment=augment), 60)
    padded = [batch.features.shape[0] * int(batch.lengths.max()) for batch in batches]
    assert max(padded) <= 600
    assert np.mean(padded) > 400
    speech = sum(int(batch.lengths.sum()) for batch in batches)
    assert speech > 0.85 * sum(padded)


def test_an_utterance_larger_than_a_batch_is_one(plan: BatchPlan) -> None:
    sizes = [len(batch.lengths) for batch in load_batches(changed(plan, max_frames=1, epochs=1))]
    assert sizes == [1] * 80


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("start", [1, 17, 60])
def test_a_resumed_stream_goes_on_where_it_was(plan: BatchPlan, augment: bool, start: int) -> None:
    plan = changed(
        plan, augment=augment, curriculum_start_s=0.5, curriculum_batches=20, augment_from_batch=7
    )
    assert_equal(take(plan, start + 4)[start:], take(plan, 4, start=start))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches_in_the_same_order(plan: BatchPlan, workers: int) -> None:
    plan = changed(plan, augment=True, subword_alpha=0.1)
    assert_equal(take(plan, 7, start=3), take(plan, 7, start=3, workers=workers))


def test_workers_end_with_the_epochs(plan: BatchPlan) -> None:
    plan = changed(plan, epochs=1)
    assert_equal(list(load_batches(plan)), list(load_batches(plan, workers=2)))


def test_another_seed_is_another_stream(plan: BatchPlan) -> None:
    assert read(plan, 10) != read(changed(plan, seed=6), 10)


def test_processes_share_an_epoch_in_equal_counts(plan: BatchPlan) -> None:
    alone = len(list(changed(plan, epochs=1).batches()))
    parts = [
        [
            (index, tuple(zip(examples.store.tolist(), examples.index.tolist(), strict=True)))
            for index, examples in changed(plan, epochs=1, rank=rank, world=3).batches()
        ]
        for rank in range(3)
    ]
    assert [len(part) for part in parts] == [alone // 3] * 3
    examples = [pair for part in parts for _, batch in part for pair in batch]
    assert len(set(examples)) == len(examples)  # nothing twice
    assert len(examples) > 60


def test_more_processes_than_batches_still_have_one_each(plan: BatchPlan) -> None:
    plan = changed(plan, max_frames=10**6, epochs=1, world=4)
    assert [len(list(changed(plan, rank=rank).batches())) for rank in range(4)] == [1] * 4


def test_weights_say_how_often_a_store_is_read(plan: BatchPlan) -> None:
    seen = read(changed(plan, weights=(0.25, 2.5), epochs=8))
    first = sum(store == 0 for store, _ in seen)
    assert first == pytest.approx(40 * 0.25 * 8, rel=0.3)
    assert len(seen) - first == pytest.approx(40 * 2.5 * 8, rel=0.1)
    assert {pair for pair in seen if pair[0]} == {(1, index) for index in range(40)}


def test_the_curriculum_grows_from_short_to_all(plan: BatchPlan) -> None:
    plan = changed(plan, curriculum_start_s=0.5, curriculum_batches=400)
    longest = [int(examples.timing.frames.max()) for _, examples in islice(plan.batches(), 420)]
    for index, frames in enumerate(longest[:400]):
        assert frames <= 100 * (0.5 + index / 400 * 19.5)
    assert max(longest[:5]) < 80
    assert max(longest[400:]) > 190


def test_a_curriculum_below_the_shortest_utterance_starts_with_it(plan: BatchPlan) -> None:
    plan = changed(plan, curriculum_start_s=0.01, curriculum_batches=1000)
    shortest = min(int(store.frames.min()) for store in plan.stores)
    _, examples = next(iter(plan.batches()))
    assert shortest <= int(examples.timing.frames.max()) < shortest + 30


def test_long_utterances_are_left_out(plan: BatchPlan) -> None:
    seen = read(changed(plan, max_utterance_s=1.0, epochs=1))
    expected = [
        (number, index)
        for number, store in enumerate(plan.stores)
        for index in np.flatnonzero(store.frames <= 100)
    ]
    assert sorted(seen) == expected
    with pytest.raises(ConfigError, match=r"at most 0\.1 s"):
        changed(plan, max_utterance_s=0.1)


def test_augmentation_starts_at_its_batch(plan: BatchPlan) -> None:
    late = changed(plan, augment=True, augment_from_batch=6)
    assert_equal(take(late, 6), take(plan, 6))
    assert any(
        (batch.lengths != torch.from_numpy(np.array(lengths))).any()
        for batch, lengths in (
            (batch, [plan.stores[s].frames[i] for s, i in zip(e.store, e.index, strict=True)])
            for (_, e), batch in islice(zip(late.batches(6), load_batches(late, 6), strict=True), 5)
        )
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_of_a_fleet_are_laid_under_the_speech_of_others(
    plan: BatchPlan, stores: tuple[FeatureStore, ...], workers: int
) -> None:
    always = FeatureAugmentConfig(field=1.0, noise_only=0.0).scaled(0.0)
    quiet = changed(plan, stores=stores[:1], augment=True, augment_config=always)
    noisy = changed(quiet, noise=stores[1:])
    for clean, loud in zip(take(quiet, 4), take(noisy, 4, workers=workers), strict=True):
        assert torch.equal(clean.targets, loud.targets)
        assert (loud.features >= clean.features - 0.02).all()
        assert (loud.features > clean.features + 0.5).any(dim=2).any(dim=1).all()


def test_noise_alone_has_no_text(plan: BatchPlan) -> None:
    plan = changed(plan, augment=True, augment_config=FeatureAugmentConfig(noise_only=1.0))
    for (_, examples), batch in islice(zip(plan.batches(), load_batches(plan), strict=True), 5):
        assert (batch.target_lengths == 0).all()
        assert batch.targets.shape[1] == 1
        assert batch.lengths.tolist() == examples.timing.frames.tolist()


def test_padding_reaches_a_whole_number_of_patches() -> None:
    arrays = collate([np.zeros((5, 80), np.float32), np.ones((3, 80), np.float32)], [[7], []])
    batch = Batch.from_arrays(arrays)
    assert batch.features.shape == (2, 8, 80)
    assert batch.features.dtype == torch.float32
    assert batch.features[0, 5:].unique().item() == pytest.approx(float(FLOOR))
    assert batch.lengths.tolist() == [5, 3]
    assert batch.targets.tolist() == [[7], [0]]
    assert batch.target_lengths.tolist() == [1, 0]


def test_a_batch_moves_between_devices_whole() -> None:
    batch = Batch.from_arrays(collate([np.zeros((4, 80), np.float32)], [[1]]))
    moved = batch.to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in moved.__slots__} == {"meta"}


def test_a_failing_worker_is_reported_with_its_traceback(plan: BatchPlan, tmp_path: Path) -> None:
    store = build_store([make_corpus(tmp_path / "corpus", count=4)], tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "gone")
    broken = changed(plan, stores=(store,))
    with pytest.raises(RuntimeError, match="died"):  # cannot even start: its store is not there
        take(broken, 1, workers=1)


_ABANDON = """
import os, sys
from pathlib import Path
from training.data import BatchPlan, load_batches
from training.store import FeatureStore
from training.tokenizer import Tokenizer
import multiprocessing

if __name__ == "__main__":
    plan = BatchPlan(
        stores=(FeatureStore.open(sys.argv[1]),),
        tokenizer=Tokenizer.load(sys.argv[2]),
        max_frames=600,
        seed=1,
    )
    batches = load_batches(plan, workers=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_workers_do_not_outlive_a_killed_trainer(
    stores: tuple[FeatureStore, ...], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(_ABANDON)
    root = Path(__file__).parents[2]
    trainer = subprocess.run(
        [sys.executable, str(script), str(stores[0].path), str(tokenizer.path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,  # returns when the worker, too, has closed the output
    )
    assert trainer.returncode == -signal.SIGKILL, trainer.stderr
    stat = Path("/proc", trainer.stdout.strip(), "stat")
    for _ in range(1000):  # its output closes a moment before it is gone
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    raise AssertionError("the worker is still there")


def test_a_plan_that_makes_no_sense_is_refused(plan: BatchPlan) -> None:
    with pytest.raises(ValueError, match="weight"):
        changed(plan, weights=(1.0,))
    with pytest.raises(ValueError, match="rank 2"):
        changed(plan, rank=2, world=2)
