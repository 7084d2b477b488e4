"""Synthetic speech corpora: text and voices in, FLAC files and NeMo-style manifests out.

A corpus is a pure function of its `Settings`.  Whatever is random about utterance *i* is drawn from
generators seeded with the seed, a purpose ("line", "finish", ...) and *i* alone, so neither the
number of workers nor an interruption can change it.  Work is done in shards::

    OUT/settings.json           what the corpus is made of; another corpus in OUT is refused
    OUT/audio/00012/*.flac      shard 12: written under another name, renamed when complete
    OUT/audio/00012/shard.json  its manifest lines, and what was skipped and why
    OUT/manifest.jsonl          the finished shards 0..k in order, replaced after every shard

A killed run is continued by running it again: complete shards are read back, the rest is made.  The
manifest can be read at any time.  Asking for more hours later extends a corpus, and for fewer
shortens its manifest (no audio is deleted), since the hours are not part of the settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from edge_runtime.errors import ConfigError, EdgeError
from training.augment import AUGMENTATIONS, Augmenter
from training.text import Utterance
from training.voices import VOICES, Line, Samples, Voice, require, speak

log = logging.getLogger(__name__)

RATE = 16_000  # Hz
_GOLDEN = (5**0.5 - 1) / 2
_MAX_SILENCE = 0.3  # s kept at either end
_WORDS_PER_SECOND = (1.0, 7.0)  # outside of this an engine has failed: skipped words, or hung


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a corpus depends on."""

    utterances: tuple[Utterance, ...]  # of one split, in any order
    voices: tuple[str, ...]
    seed: int = 0
    augment: str = "none"  # a key of training.augment.AUGMENTATIONS
    tract: float = 0.0  # vocal tracts are scaled by up to exp(±tract): many speakers of few voices
    shard: int = 128  # utterances: a few seconds of work, and one festival start per voice

    def fingerprint(self) -> dict[str, Any]:
        """What is stored beside a corpus to recognise it."""
        spoken = "\n".join(u.spoken for u in self.utterances)
        return {
            "text_sha256": hashlib.sha256(spoken.encode()).hexdigest(),
            "voices": list(self.voices),
            "seed": self.seed,
            "augment": self.augment,
            **({"tract": self.tract} if self.tract else {}),
            "rate": RATE,
            "shard": self.shard,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A finished shard: manifest entries in order, and how many utterances were skipped, why."""

    entries: tuple[dict[str, Any], ...]
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One utterance to make."""

    index: int
    utterance: Utterance
    voice: Voice
    line: Line


def _rng(settings: Settings, purpose: str, index: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, *purpose.encode(), index])


def plan(settings: Settings, shard: int) -> list[Job]:
    """The jobs of one shard: texts in random order, another in each epoch; voices by share."""
    n = len(settings.utterances)
    voices = [VOICES[name] for name in settings.voices]
    edges = np.cumsum([voice.share for voice in voices])
    first = shard * settings.shard
    order: dict[int, Any] = {}  # epoch -> permutation
    jobs = []
    for i in range(first, first + settings.shard):
        epoch, place = divmod(i, n)
        if epoch not in order:
            order[epoch] = _rng(settings, "order", epoch).permutation(n)
        utterance = settings.utterances[order[epoch][place]]
        # Multiples of the golden ratio fill the unit interval more evenly than random numbers do:
        # every stretch of the corpus has every voice in its share.
        at = (i * _GOLDEN + 0.5) % 1.0 * edges[-1]
        voice = voices[min(int(np.searchsorted(edges, at, side="right")), len(voices) - 1)]
        rng = _rng(settings, "line", i)
        line = Line(
            spoken=utterance.spoken,
            speed=float(np.exp(np.clip(rng.normal(0.0, 0.08), -0.18, 0.18))),
            pitch=float(rng.uniform(-1, 1)),
            tract=float(np.exp(settings.tract * rng.uniform(-1, 1))),
        )
        jobs.append(Job(index=i, utterance=utterance, voice=voice, line=line))
    return jobs


def speech_span(samples: Samples) -> tuple[int, int]:
    """First and last+1 sample of what is heard: 10 ms frames within 45 dB of the loudest."""
    frame = RATE // 100
    n = -(-len(samples) // frame)
    power = np.zeros(n * frame, np.float32)
    power[: len(samples)] = samples
    power = (power.reshape(n, frame) ** 2).mean(axis=1)  # [n * 160] -> [n]
    heard = np.flatnonzero(power > max(power.max(initial=0.0) * 10**-4.5, 1e-9))
    if not len(heard):
        return 0, 0
    return int(heard[0]) * frame, min(int(heard[-1] + 1) * frame, len(samples))


def finish(samples: Samples, n_words: int, rng: np.random.Generator) -> Samples | str:
    """Trim to at most 0.3 s of silence at either end, set a level and a noise floor, all random.

    samples: f32 [n] at 16 kHz.  Returns f32 [m] in [-1, 1], or the reason to skip the utterance.
    """
    start, end = speech_span(samples)
    if start == end:
        return "silent"
    slowest, fastest = _WORDS_PER_SECOND
    seconds = (end - start) / RATE
    # One long word may take a second: the slow limit begins there.
    if not n_words / fastest <= seconds <= n_words / slowest + 0.5:
        return "too fast" if seconds < n_words / fastest else "too slow"
    before, after = (int(rng.uniform(0.02, _MAX_SILENCE) * RATE) for _ in range(2))
    speech = samples[max(start - before, 0) : end + after]
    missing = max(before - start, 0), max(after - (len(samples) - end), 0)
    speech = np.pad(speech, missing)
    peak = 10 ** (rng.uniform(-18.0, -1.0) / 20)
    speech = speech * np.float32(peak / np.abs(speech).max())
    # Converters hiss; digital silence would be a feature value no microphone ever gives.
    floor = 10 ** (rng.uniform(-90.0, -68.0) / 20)
    noise = rng.standard_normal(len(speech), np.float32) * np.float32(floor)
    return np.clip(speech + noise, -1.0, 1.0)


def make_shard(settings: Settings, out: Path, index: int) -> Shard:
    """Make shard `index` under `out`, or read it back where it is complete."""
    folder = out / "audio" / f"{index:05d}"
    done = folder / "shard.json"
    if done.exists():
        stored = json.loads(done.read_text(encoding="utf-8"))
        return Shard(entries=tuple(stored["entries"]), skipped=stored["skipped"])

    jobs = plan(settings, index)
    by_voice: dict[str, list[Job]] = {}
    for job in jobs:
        by_voice.setdefault(job.voice.name, []).append(job)
    takes: dict[int, Samples | str] = {}
    for batch in by_voice.values():
        recordings = speak(batch[0].voice, [job.line for job in batch])
        for job, recording in zip(batch, recordings, strict=True):
            if recording is None:
                takes[job.index] = "engine failed"
                continue
            samples = recording.samples
            if recording.rate != RATE:
                samples = soxr.resample(samples, recording.rate, RATE)
            n_words = len(job.utterance.text.split())
            takes[job.index] = finish(samples, n_words, _rng(settings, "finish", job.index))

    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    augment = Augmenter(AUGMENTATIONS[settings.augment])
    clean = [take for take in takes.values() if not isinstance(take, str)]
    entries: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    for job in jobs:
        take = takes[job.index]
        if isinstance(take, str):
            skipped[take] += 1
            log.debug("skipped %s by %s: %s", job.utterance.text, job.voice.name, take)
            continue
        take = augment(take, _rng(settings, "augment", job.index), babble=clean)
        name = f"{job.index:07d}-{job.voice.name}.flac"
        soundfile.write(partial / name, take, RATE, format="FLAC", subtype="PCM_16")
        entries.append(
            {
                "audio_filepath": f"audio/{folder.name}/{name}",
                "duration": round(len(take) / RATE, 4),
                "text": job.utterance.text,
                "speaker": job.voice.name,
                "engine": job.voice.engine,
            }
        )
    shard = Shard(entries=tuple(entries), skipped=dict(sorted(skipped.items())))
    (partial / "shard.json").write_text(json.dumps(dataclasses.asdict(shard)), encoding="utf-8")
    try:
        partial.replace(folder)
    except OSError:  # a worker of a killed run was faster: what it made is the same
        if not done.exists():
            raise
        shutil.rmtree(partial)
    return shard


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


# A worker is told the settings once, not with every shard.
_settings: Settings


def _begin(settings: Settings, parent: int) -> None:
    global _settings
    _settings = settings
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(out: Path, index: int) -> Shard:
    return make_shard(_settings, out, index)


def _shards(settings: Settings, out: Path, jobs: int) -> Iterator[Shard]:
    """Shards 0, 1, 2, ... without end, in order, made by `jobs` processes a little ahead."""
    if jobs == 1:
        index = 0
        while True:
            yield make_shard(settings, out, index)
            index += 1
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(settings, os.getpid())
    ) as pool:
        ahead: list[Future[Shard]] = [pool.submit(_work, out, i) for i in range(2 * jobs)]
        submitted = len(ahead)
        try:
            while True:
                yield ahead.pop(0).result()
                ahead.append(pool.submit(_work, out, submitted))
                submitted += 1
        except BrokenProcessPool as e:
            raise EdgeError("a worker died (out of memory?); run again to go on from here") from e
        finally:
            pool.shutdown(cancel_futures=True)


def synthesise(
    settings: Settings,
    out: Path,
    *,
    hours: float | None = None,
    count: int | None = None,
    jobs: int = 1,
    progress: Callable[[float, int], object] = lambda seconds, n: None,
) -> Counter[str]:
    """Make (or continue) a corpus of at least `hours`, or of exactly `count` utterances.

    `progress` is called after every shard with the seconds and utterances that are in the manifest.
    Returns how many utterances were skipped, by reason.

    Raises ConfigError where a voice is not installed, `out` holds a corpus made of something else,
    or the voices fail on nearly everything.
    """
    if (hours is None) == (count is None):
        raise ValueError("give either hours or count")
    if not settings.utterances:
        raise ConfigError("no text is left to read in this split")
    if settings.augment not in AUGMENTATIONS:
        raise ConfigError(
            f"no augmentation {settings.augment!r}; there are: {', '.join(AUGMENTATIONS)}"
        )
    for name in settings.voices:
        require(VOICES[name])
    out.mkdir(parents=True, exist_ok=True)
    identity = json.dumps(settings.fingerprint(), indent=1) + "\n"
    record = out / "settings.json"
    if record.exists() and record.read_text(encoding="utf-8") != identity:
        raise ConfigError(
            f"{out}: holds a corpus of other text, voices, seed or augmentation; "
            "choose another folder or delete this one"
        )
    _replace_text(record, identity)
    for stale in (out / "audio").glob(".*"):  # of a killed run
        shutil.rmtree(stale)

    manifest = out / "manifest.jsonl"
    before = manifest.read_text(encoding="utf-8").count("\n") if manifest.exists() else 0
    lines: list[str] = []
    skipped: Counter[str] = Counter()
    seconds = 0.0
    shards = _shards(settings, out, jobs)
    try:
        for made, shard in enumerate(shards, 1):
            for entry in shard.entries:
                if count is not None and len(lines) == count:
                    break
                lines.append(json.dumps(entry) + "\n")
                seconds += entry["duration"]
            skipped.update(shard.skipped)
            if len(lines) > before:  # reading back does not take away what readers have
                _replace_text(manifest, "".join(lines))
            progress(seconds, len(lines))
            if len(lines) == count or (hours is not None and seconds >= hours * 3600):
                break
            if sum(skipped.values()) > 0.5 * made * settings.shard:
                raise ConfigError(f"most utterances fail, the voices are broken: {dict(skipped)}")
    finally:
        shards.close()  # type: ignore[attr-defined]
    _replace_text(manifest, "".join(lines))
    return skipped
