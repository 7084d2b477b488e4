"""The feature store: log-mel frames of a whole corpus, ready to be mapped into memory.

    build_store([Path("train.jsonl")], Path("store"), jobs=8)
    store = FeatureStore.open(Path("store"))
    features, text = store[17]          # f16 [frames, 80] view of the mapping, "so it was"

Training then touches neither audio nor filter bank.  A second of speech is 16 kB (100 frames of 80
float16), so 100 hours are 5.8 GB, and the page cache holds what is being used.  float16 keeps
log-mel values to 0.004 or better, a tenth of the fluctuation of one frame of noise.

    store.json              written last: its presence makes the directory a store
    build.json              what is being built, so that another corpus is never mixed in
    shard-00000.npy         f16 [frames, 80], the utterances of the shard end to end
    shard-00000.jsonl       a line per utterance: frames, text, speaker, duration, audio

Shards are cut by the durations in the manifest alone, each is written by one process under a
temporary name and renamed, index last.  So the content does not depend on the number of jobs, and a
build killed at any moment is continued by starting it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edge_runtime.audio import open_audio
from edge_runtime.errors import AudioError, ConfigError
from edge_runtime.features import FEATURE_DIM, open_frontend
from edge_runtime.files import write_atomically
from edge_runtime.manifest import Utterance, read_manifest

log = logging.getLogger(__name__)

Samples: TypeAlias = NDArray[np.float32]

FORMAT = 1
FRONTEND = "knf_nemo"
FRAMES_PER_S = 100
MIN_SHARD_S = 600.0  # s of audio: below this a build would have too few shards to share out
MAX_SHARDS = 256  # every open shard is a file descriptor, and 1024 are customary


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Waveform augmentation at build time: `copies` altered copies beside the original."""

    preset: str = "full"
    copies: int = 1
    seed: int = 0


class FeatureStore:
    """A finished store, open for reading.  Pickles as its path, so processes share one mapping."""

    def __init__(
        self,
        path: Path,
        shards: list[NDArray[np.float16]],
        shard_of: NDArray[np.int32],
        offsets: NDArray[np.int64],
        frames: NDArray[np.int32],
        texts: list[str],
        speakers: list[str],
        audio: list[str],
    ) -> None:
        self.path = path
        self.frames = frames  # (utterances,) of 10 ms
        self.texts = texts
        self.speakers = speakers
        self.audio = audio  # where each came from, as the manifest named it
        self._shards = shards
        self._shard_of = shard_of
        self._offsets = offsets

    @classmethod
    def open(cls, path: Path | str) -> FeatureStore:
        """Map a store. Raises ConfigError: missing, unfinished, of another version, or damaged."""
        path = Path(path)
        try:
            about = json.loads((path / "store.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            state = "unfinished" if (path / "build.json").exists() else "not there"
            raise ConfigError(
                f"{path}: this feature store is {state}; run `vitconformer features`"
            ) from error
        if about.get("format") != FORMAT:
            raise ConfigError(
                f"{path}: a store of format {about.get('format')!r}, this version reads {FORMAT}"
            )
        shards, shard_of, frames, lines = [], [], [], []
        for number in range(about["shards"]):
            shard, index = _shard_files(path, number)
            try:
                entries = [json.loads(line) for line in index.read_text("utf-8").splitlines()]
                # Mapped as a plain array: np.memmap slices cost 5 µs each.
                mapped = np.asarray(np.load(shard, mmap_mode="r"))
            except (OSError, EOFError, ValueError) as error:
                raise ConfigError(
                    f"{path}: shard {number} is missing or damaged: {error}"
                ) from error
            if mapped.shape != (sum(entry["frames"] for entry in entries), FEATURE_DIM):
                raise ConfigError(f"{shard}: {mapped.shape} does not fit {index.name}")
            shards.append(mapped)
            shard_of += [number] * len(entries)
            frames += [entry["frames"] for entry in entries]
            lines += entries
        counts = np.array(frames, np.int32)
        where = np.array(shard_of, np.int32)
        ends = np.cumsum(counts, dtype=np.int64)
        first = np.array([0, *np.cumsum([len(shard) for shard in shards])], np.int64)
        return cls(
            path,
            shards,
            where,
            ends - counts - first[where],
            counts,
            [entry["text"] for entry in lines],
            [entry["speaker"] for entry in lines],
            [entry["audio"] for entry in lines],
        )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float16], str]:
        """Features f16 [frames, 80] (a read-only view of the file) and text of one utterance."""
        start = self._offsets[index]
        shard = self._shards[self._shard_of[index]]
        return shard[start : start + self.frames[index]], self.texts[index]

    def __iter__(self) -> Iterator[tuple[NDArray[np.float16], str]]:
        return (self[index] for index in range(len(self)))

    def altered(self, features: Sequence[NDArray[np.floating]]) -> FeatureStore:
        """The same utterances with these features, one [frames, 80] each; in memory only."""
        frames = np.array([len(one) for one in features], np.int32)
        whole = np.concatenate([np.asarray(one, np.float16) for one in features])
        offsets = np.cumsum(frames, dtype=np.int64) - frames
        return FeatureStore(
            self.path, [whole], np.zeros_like(frames), offsets, frames, self.texts, self.speakers,
            self.audio,
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        """Speech in the store."""
        return int(self.frames.sum()) / FRAMES_PER_S

    def __reduce__(self) -> tuple[object, ...]:
        return FeatureStore.open, (self.path,)


def build_store(
    manifests: Sequence[Path],
    out: Path,
    *,
    jobs: int = 1,
    augment: Augmentation | None = None,
    allow_empty: bool = False,
    progress: bool = False,
) -> FeatureStore:
    """Compute the features of every utterance of `manifests` into `out`, continuing a killed build.

    With `augment`, every utterance is stored 1 + copies times. `allow_empty`: manifests without a
    line make a store without an utterance.

    Raises:
        ConfigError: a manifest is wrong, or `out` holds the store of something else.
        AudioError: a recording cannot be read or holds no sound.
    """
    utterances = [utterance for path in manifests for utterance in read_manifest(path)]
    if not utterances and not allow_empty:
        raise ConfigError(f"{', '.join(map(str, manifests))}: no utterances")
    shards = _cut(utterances, augment.copies if augment else 0) if utterances else []
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, utterances, augment)
    if (out / "store.json").exists():
        return FeatureStore.open(out)
    todo = [
        _Shard(out, number, items, augment)
        for number, items in enumerate(shards)
        if not _shard_files(out, number)[1].exists()
    ]
    if len(todo) < len(shards):
        log.info("%s: continuing, %d of %d shards done", out, len(shards) - len(todo), len(shards))
    speech = sum(shard.seconds for shard in todo)
    with tqdm(total=round(speech), unit="s", desc=out.name, disable=not progress) as bar:
        if jobs > 1 and len(todo) > 1:
            # "spawn": the caller may have threads (torch's), and those do not survive a fork.
            with multiprocessing.get_context("spawn").Pool(min(jobs, len(todo))) as pool:
                for done in pool.imap_unordered(_build_shard, todo):
                    bar.update(round(done))
        else:
            for shard in todo:
                bar.update(round(_build_shard(shard)))
    for leftover in out.glob(".*.tmp"):  # of builds that were killed
        leftover.unlink()
    about = {"format": FORMAT, "frontend": FRONTEND, "shards": len(shards)}
    write_atomically(out / "store.json", json.dumps(about).encode())
    return FeatureStore.open(out)


@dataclass(frozen=True, slots=True)
class _Item:
    """One entry of the store: an utterance as recorded, or its `copy`-th altered copy."""

    utterance: Utterance
    position: int  # in the corpus
    copy: int  # 0: as recorded


@dataclass(frozen=True, slots=True)
class _Shard:
    """What one process writes."""

    store: Path
    number: int
    items: list[_Item]
    augment: Augmentation | None

    @property
    def seconds(self) -> float:
        return sum(item.utterance.duration for item in self.items)


def _cut(utterances: Sequence[Utterance], copies: int) -> list[list[_Item]]:
    """The corpus in order, in shards of equal duration."""
    total = sum(utterance.duration for utterance in utterances) * (1 + copies)
    size = max(MIN_SHARD_S, total / MAX_SHARDS)
    shards: list[list[_Item]] = [[]]
    filled = 0.0
    for position, utterance in enumerate(utterances):
        for copy in range(1 + copies):
            if filled >= size and len(shards) < MAX_SHARDS:
                shards.append([])
                filled = 0.0
            shards[-1].append(_Item(utterance, position, copy))
            filled += utterance.duration
    return shards


def _claim(out: Path, utterances: Sequence[Utterance], augment: Augmentation | None) -> None:
    """Make `out` the place of exactly this build."""
    digest = hashlib.sha256(repr((FORMAT, FRONTEND, augment)).encode())
    for utterance in utterances:
        digest.update(json.dumps(utterance.to_json()).encode())
    mine = {"build": digest.hexdigest()}
    claim = out / "build.json"
    if not claim.exists():
        write_atomically(claim, json.dumps(mine).encode())
    elif json.loads(claim.read_text("utf-8")) != mine:
        raise ConfigError(
            f"{out}: holds the features of other manifests or settings; remove it or choose another"
        )


def _shard_files(store: Path, number: int) -> tuple[Path, Path]:
    """Frames and index."""
    return store / f"shard-{number:05d}.npy", store / f"shard-{number:05d}.jsonl"


def _build_shard(shard: _Shard) -> float:
    """Write one shard; -> seconds of speech in it."""
    frontend = open_frontend(FRONTEND)
    frames_file, index_file = _shard_files(shard.store, shard.number)
    frames, lines = [], []
    for item in shard.items:
        utterance = item.utterance
        samples = read_samples(utterance.audio_filepath)
        if item.copy and shard.augment is not None:
            samples = _altered(samples, item, shard.augment)
        features = frontend.compute(samples).astype(np.float16)  # [frames, 80]
        if not len(features):
            raise AudioError(
                f"{utterance.audio_filepath}: holds no sound; remove it from the manifest"
            )
        frames.append(features)
        entry = {
            "frames": len(features),
            "text": utterance.text,
            "speaker": utterance.speaker,
            "audio": str(utterance.audio_filepath),
        }
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(frames))
    write_atomically(frames_file, buffer.getbuffer())
    write_atomically(index_file, "".join(lines).encode())
    return shard.seconds


def _altered(samples: Samples, item: _Item, augment: Augmentation) -> Samples:
    from training.augment import AUGMENTATIONS, Augmenter  # scipy: only where asked for

    rng = np.random.default_rng([augment.seed, item.position, item.copy])
    return Augmenter(AUGMENTATIONS[augment.preset])(samples, rng)


def read_samples(path: Path) -> Samples:
    """A whole recording, any format and rate libsndfile reads: f32 [n], mono, 16 kHz.

    Raises AudioError: unreadable, damaged, or NaN samples.
    """
    with open_audio(path) as source:
        blocks = list(source.blocks(30.0))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
