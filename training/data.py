"""Batches for training: which utterances, in which order, altered how, and made by whom.

    plan = BatchPlan(stores=(store,), tokenizer=tokenizer, max_frames=8000, seed=1)
    for batch in load_batches(plan, start=0, workers=1): ...

Batch number i is a function of the plan and i alone, whoever makes it and whenever: that is what
resuming, workers and several training processes stand on.

* The stream of batches is cut into rounds.  A round draws from the stores by weight, gives every
  example its tempo and pauses, sorts by the resulting lengths, cuts batches of `max_frames` frames
  padding included, and shuffles those.  An ordinary round is an epoch; while the curriculum lets
  utterances grow longer, a round is `_CURRICULUM_ROUND` batches with one limit.
* Of every `world` batches in a row, each process takes the one of its rank.
* What a batch's examples go through is drawn from a generator seeded with (seed, i, rank).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError
from edge_runtime.features import FEATURE_DIM
from training.config import PATCH_FRAMES
from training.feature_augment import FLOOR, FeatureAugmentConfig, FeatureAugmenter, Timing
from training.store import FRAMES_PER_S, FeatureStore
from training.tokenizer import Tokenizer

if TYPE_CHECKING:  # workers never need torch, which takes seconds and 200 MB to import
    import torch

_CURRICULUM_ROUND = 50  # batches per process

Arrays: TypeAlias = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded to the longest."""

    features: torch.Tensor  # f32 (B, T, 80), padded with digital silence; T a multiple of the patch
    lengths: torch.Tensor  # i64 (B,) frames
    targets: torch.Tensor  # i64 (B, U) unit ids, padded with 0
    target_lengths: torch.Tensor  # i64 (B,) units

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Batch:
        """Share the memory of `collate`'s arrays."""
        import torch

        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.features.to(device, non_blocking=True),
            self.lengths.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.target_lengths.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Everything that decides what batch number i is. Counts are per process."""

    stores: tuple[FeatureStore, ...]
    tokenizer: Tokenizer
    max_frames: int  # per batch, padding included; a single longer utterance is a batch of its own
    weights: tuple[float, ...] = ()  # how often each store is read per epoch; empty: once
    max_utterance_s: float = 20.0  # longer ones are left out
    curriculum_start_s: float = 0.0  # longest utterance at batch 0 …
    curriculum_batches: int = 0  # … growing linearly to max_utterance_s at this one
    augment: bool = False
    augment_from_batch: int = 0
    augment_config: FeatureAugmentConfig = field(default_factory=FeatureAugmentConfig)
    noise: tuple[FeatureStore, ...] = ()  # of a fleet: clips without text, laid under others
    subword_alpha: float = 0.0  # draw segmentations, flatter as it nears 0 (0.1); 0: the best one
    epochs: int | None = None  # None: no end
    seed: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.stores):
            raise ValueError("one weight per store, or none")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world} processes")
        if not any((store.frames <= self._limit(None)).any() for store in self.stores):
            raise ConfigError(
                f"no utterance of at most {self.max_utterance_s:g} s in "
                f"{', '.join(str(store.path) for store in self.stores) or 'no stores'}"
            )

    def batches(self, start: int = 0) -> Iterator[tuple[int, Examples]]:
        """This process's batches from number `start` on, with their numbers."""
        first, number = 0, 0  # batch and round
        while self.epochs is None or number < self.epochs:
            examples, cuts = self._round(number, first)
            for index in range(max(start, first), first + len(cuts)):
                yield index, examples[cuts[index - first]]
            first, number = first + len(cuts), number + 1

    def augmenter(self) -> FeatureAugmenter:
        """Alters examples of any batch."""
        clips = [features for store in self.noise for features, _ in store]
        return FeatureAugmenter(self.augment_config, clips)

    def augments(self, index: int) -> bool:
        """Does batch `index` get augmented?"""
        return self.augment and index >= self.augment_from_batch

    def _limit(self, index: int | None) -> float:
        """Longest utterance of batch `index` in frames; of any batch, if None."""
        limit = self.max_utterance_s
        if index is not None and index < self.curriculum_batches:
            grown = index / self.curriculum_batches
            limit = min(limit, self.curriculum_start_s + grown * (limit - self.curriculum_start_s))
        return limit * FRAMES_PER_S

    def _round(self, number: int, first: int) -> tuple[Examples, list[NDArray[np.intp]]]:
        """The examples of a round that starts at batch `first`, and this rank's batches of them."""
        rng = np.random.default_rng([self.seed, number])
        augments = self.augments(first)
        count = None  # batches per process; None: an epoch
        if first < self.curriculum_batches:
            count = min(_CURRICULUM_ROUND, self.curriculum_batches - first)
        if self.augment and first < self.augment_from_batch:
            left = self.augment_from_batch - first
            count = left if count is None else min(left, count)
        examples = self._draw(rng, self._limit(first), augments)
        # Without tempo changes, jitter keeps the same utterances from sharing a batch every epoch.
        jitter = 1.0 if augments else rng.uniform(1.0, 1.05, len(examples))
        order = np.argsort(examples.timing.frames * jitter, kind="stable")
        cuts = _cut(examples.timing.frames[order], self.max_frames)
        batches = [order[cut] for cut in cuts]
        batches = [batches[i] for i in rng.permutation(len(batches))]
        whole = max(1, len(batches) // self.world)  # equal counts for all
        mine = [batches[(i * self.world + self.rank) % len(batches)] for i in range(whole)]
        return examples, mine[:count]

    def _draw(self, rng: np.random.Generator, limit: float, augments: bool) -> Examples:
        # A curriculum that starts below all there is starts with the shortest twentieth.
        lengths = np.concatenate([store.frames for store in self.stores])
        limit = max(limit, min(self._limit(None), float(np.quantile(lengths, 0.05))))
        limit = max(limit, float(lengths.min()))
        of_store, index = [], []
        for number, store in enumerate(self.stores):
            fitting = np.flatnonzero(store.frames <= limit)
            weight = self.weights[number] if self.weights else 1.0
            # 2.3 is twice everything and a random 0.3 of everything.
            times = np.floor(weight + rng.random(len(fitting))).astype(np.int64)
            index.append(np.repeat(fitting, times))
            of_store.append(np.full(len(index[-1]), number))
        stores, indices = np.concatenate(of_store), np.concatenate(index)
        shuffled = rng.permutation(len(indices))
        stores, indices = stores[shuffled], indices[shuffled]
        frames = np.zeros(len(indices), np.int64)
        for number, store in enumerate(self.stores):
            here = stores == number
            frames[here] = store.frames[indices[here]]
        if augments:
            timing = FeatureAugmenter(self.augment_config).draw_timing(frames, rng)
        else:
            nothing = np.zeros_like(frames)
            timing = Timing(np.ones(len(frames)), nothing, nothing, frames)
        return Examples(stores, indices, timing)


@dataclass(frozen=True, slots=True)
class Examples:
    """Utterances to read, as arrays (n,), and the lengths they get."""

    store: NDArray[np.int64]
    index: NDArray[np.int64]  # in the store
    timing: Timing

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, chosen: NDArray[np.intp]) -> Examples:
        return Examples(self.store[chosen], self.index[chosen], self.timing[chosen])


def _cut(lengths: NDArray[np.int64], max_frames: int) -> list[slice]:
    """Cut examples in the order given so that longest times count stays within `max_frames`."""
    cuts, start, longest = [], 0, 0
    for stop, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if stop > start and longest * (stop + 1 - start) > max_frames:
            cuts.append(slice(start, stop))
            start, longest = stop, length
    if start < len(lengths):
        cuts.append(slice(start, len(lengths)))
    return cuts


def make_batch(
    plan: BatchPlan, index: int, examples: Examples, augmenter: FeatureAugmenter
) -> Arrays:
    """Read, alter and collate the examples of batch `index`."""
    features, texts = [], []
    rng = np.random.default_rng([plan.seed, index, plan.rank, 1])
    read = [
        plan.stores[store][at]
        for store, at in zip(examples.store.tolist(), examples.index.tolist(), strict=True)
    ]
    for number, (frames, text) in enumerate(read):
        if not plan.augments(index):
            features.append(np.asarray(frames, np.float32))
        elif rng.random() < plan.augment_config.noise_only:
            features.append(augmenter.noise(int(examples.timing.frames[number]), rng))
            text = ""
        else:
            others = [other for at, (other, _) in enumerate(read) if at != number]
            features.append(augmenter(frames, rng, babble=others, timing=examples.timing[number]))
        texts.append(text)
    if plan.subword_alpha:
        units = [plan.tokenizer.sample(text, rng, alpha=plan.subword_alpha) for text in texts]
    else:
        units = [plan.tokenizer.encode(text) for text in texts]
    return collate(features, units)


def collate(features: list[NDArray[np.float32]], targets: list[list[int]]) -> Arrays:
    """Pad to the longest: the fields of `Batch` as arrays."""
    lengths = np.array([len(frames) for frames in features], np.int64)
    width = -(-int(lengths.max()) // PATCH_FRAMES) * PATCH_FRAMES
    padded = np.empty((len(features), width, FEATURE_DIM), np.float32)
    for row, frames in zip(padded, features, strict=True):
        row[: len(frames)] = frames
        row[len(frames) :] = FLOOR
    units = np.array([len(ids) for ids in targets], np.int64)
    ids = np.zeros((len(targets), max(1, int(units.max()))), np.int64)
    for line, sequence in zip(ids, targets, strict=True):
        line[: len(sequence)] = sequence
    return {"features": padded, "lengths": lengths, "targets": ids, "target_lengths": units}


def load_batches(plan: BatchPlan, start: int = 0, workers: int = 0) -> Generator[Batch, None, None]:
    """Batches from number `start` on; with `workers`, made ahead in that many processes.

    Close the iterator (or let it end) to stop the workers.

    Raises:
        RuntimeError: a worker failed; carries its traceback.
    """
    if workers == 0:
        augmenter = plan.augmenter()
        for index, examples in plan.batches(start):
            yield Batch.from_arrays(make_batch(plan, index, examples, augmenter))
        return
    # "spawn": torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pipes = []
        for number in range(workers):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(theirs, plan, start, number, workers), daemon=True
            )
            process.start()
            theirs.close()  # so that the end of the worker is the end of the pipe
            stack.callback(process.join)
            stack.callback(process.terminate)
            stack.callback(mine.close)
            pipes.append(mine)
        # A worker is one batch ahead, waiting to hand it over.
        while True:
            for pipe in pipes:
                try:
                    made = pipe.recv()
                except EOFError:
                    raise RuntimeError("a data worker died; was it out of memory?") from None
                if made is None:
                    return
                if isinstance(made, str):
                    raise RuntimeError(f"a data worker failed:\n{made}")
                yield Batch.from_arrays(made)


def _work(pipe: Connection, plan: BatchPlan, start: int, worker: int, workers: int) -> None:
    """Make every `workers`-th batch until nobody reads them any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides
    # The trainer is gone, however it went: so is the worker.
    with contextlib.suppress(BrokenPipeError):
        try:
            augmenter = plan.augmenter()
            for index, examples in plan.batches(start):
                if (index - start) % workers == worker:
                    pipe.send(make_batch(plan, index, examples, augmenter))
            pipe.send(None)
        except BrokenPipeError:
            raise
        except Exception:
            pipe.send(traceback.format_exc())
