"""What a bundle makes of a set, as a device would hear it: streamed, chunk by chunk.

    evaluation = evaluate(Path("bundles/en-demo"), read_set("guard", path), Hearing(), cache)

Shards of a set are heard by processes of their own, whose memory is measured with it, and each
shard's result is a file.  Results are addressed by what they depend on (the bundle's manifest,
which has the digest of every file; the set; how it was heard), so nothing is ever heard twice, and
an evaluation that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotrain_cloud.gate.sets import EvalSet
from edge_runtime.bundle import Bundle
from edge_runtime.contract.bundle import MANIFEST_NAME
from edge_runtime.errors import BackendError
from edge_runtime.files import write_atomically
from edge_runtime.metrics import ErrorCounts
from edge_runtime.precision import AUTO, Processor, choose

VERSION = 1  # of what is in a result; another one is heard anew
SHARD = 64  # utterances: seconds of work
_DEVICE = Processor("x86_64", frozenset({"avx512_vnni"}))
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Progress = Callable[[int, int], None]  # shards done, shards in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """How a set is heard."""

    precision: str = AUTO  # "auto": what ships to devices that are fast at INT8
    chunk_ms: int | None = None  # None: the bundle's default
    beam: int = 0  # hypotheses, with the bundle's language model; 0: greedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One utterance, heard."""

    text: str
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    confidence: float  # of the utterance: letters' mean over its finals
    words: tuple[tuple[str, float, bool], ...]  # word, confidence, right
    audio_s: float
    cpu_s: float

    @property
    def counts(self) -> ErrorCounts:
        return ErrorCounts(self.hits, self.substitutions, self.deletions, self.insertions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A bundle on a set; `outcomes` are in the set's order."""

    bundle: str  # SHA-256 of its manifest
    precision: str  # that was run
    chunk_ms: int
    eval_set: EvalSet
    outcomes: tuple[Outcome, ...] = field(repr=False)
    peak_rss_mb: float  # of the largest process
    digest: str  # of the result itself

    @property
    def cpu_per_audio_s(self) -> float:
        seconds = sum(outcome.audio_s for outcome in self.outcomes)
        return sum(outcome.cpu_s for outcome in self.outcomes) / seconds if seconds else 0.0

    @property
    def words_per_minute(self) -> float:
        """Of speech heard: what it is for a set without speech is made up."""
        minutes = sum(outcome.audio_s for outcome in self.outcomes) / 60
        heard = sum(len(outcome.words) for outcome in self.outcomes)
        return heard / minutes if minutes else 0.0


def bundle_digest(path: Path) -> str:
    """SHA-256 of the manifest, which vouches for every file. Of a verified bundle."""
    return hashlib.sha256((path / MANIFEST_NAME).read_bytes()).hexdigest()


def shipping_precision(bundle: Bundle, wanted: str = AUTO) -> str:
    """The precision that devices will run; `wanted`, unless it is "auto".

    Not what this machine would choose: integer arithmetic is the same on every x86 processor, and
    what is judged is what the fleet gets.
    """
    return choose(bundle.manifest.precisions, _DEVICE)[0] if wanted == AUTO else wanted


def evaluate(
    bundle: Path,
    eval_set: EvalSet,
    hearing: Hearing,
    cache: Path,
    *,
    jobs: int = 1,
    on_shard: Progress = lambda done, total: None,
) -> Evaluation:
    """Hears the set, or what of it is not in `cache` yet.

    Raises BundleError or ConfigError for a bundle that cannot be heard so, BackendError with what
    a process said before it died.
    """
    opened = Bundle.open(bundle)
    precision = shipping_precision(opened, hearing.precision)
    opened.model(precision)
    chunk_ms = hearing.chunk_ms or opened.manifest.default_chunk_ms
    settings = {"precision": precision, "chunk_ms": chunk_ms, "beam": hearing.beam}
    about = {
        "version": VERSION,
        "bundle": bundle_digest(bundle),
        "set": eval_set.digest,
        **settings,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    target = cache / f"{key}.jsonl"
    try:
        return _load(target, about, eval_set)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not whole
    folder = cache / key
    shards = _hear(bundle, eval_set, settings, folder, jobs, on_shard)
    peak = max(shard["peak_rss_mb"] for shard in shards)
    lines = [{**about, "count": len(eval_set.recordings), "peak_rss_mb": peak}]
    for shard in shards:
        lines += shard["outcomes"]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    write_atomically(target, content)
    shutil.rmtree(folder, ignore_errors=True)
    return _load(target, about, eval_set)


def _load(path: Path, about: Mapping[str, Any], eval_set: EvalSet) -> Evaluation:
    content = path.read_bytes()
    head, *lines = content.decode().splitlines()
    fields = json.loads(head)
    if {name: fields[name] for name in about} != about or len(lines) != fields["count"]:
        raise ValueError("not the result that its name says")
    outcomes = []
    for line in lines:
        one = json.loads(line)
        words = tuple((word, confidence, right) for word, confidence, right in one.pop("words"))
        outcomes.append(Outcome(words=words, **one))
    return Evaluation(
        bundle=fields["bundle"],
        precision=fields["precision"],
        chunk_ms=fields["chunk_ms"],
        eval_set=eval_set,
        outcomes=tuple(outcomes),
        peak_rss_mb=fields["peak_rss_mb"],
        digest=hashlib.sha256(content).hexdigest(),
    )


def _hear(
    bundle: Path,
    eval_set: EvalSet,
    settings: Mapping[str, Any],
    folder: Path,
    jobs: int,
    on_shard: Progress,
) -> list[dict[str, Any]]:
    """The shards' results in order, each from its file or else from a process."""
    todo = []
    first = range(0, len(eval_set.recordings), SHARD)
    paths = [folder / f"{start // SHARD:05}.json" for start in first]
    for start, path in zip(first, paths, strict=True):
        if not path.is_file():
            part = eval_set.recordings[start : start + SHARD]
            todo.append((path, [(r.utterance.audio_filepath, r.utterance.text) for r in part]))
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_shard, bundle, settings, part): path for path, part in todo}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                write_atomically(running[future], json.dumps(future.result()).encode())
                on_shard(len(paths) - len(todo) + done, len(paths))
        finally:
            for future in running:
                future.cancel()
    return [json.loads(path.read_text("utf-8")) for path in paths]


def _shard(
    bundle: Path, settings: Mapping[str, Any], part: Sequence[tuple[Path, str]]
) -> dict[str, Any]:
    audio = [(str(path.absolute()), text) for path, text in part]
    return in_process("hear", bundle=str(bundle.absolute()), audio=audio, **settings)


def in_process(task: str, **options: Any) -> dict[str, Any]:
    """Runs a function of `autotrain_cloud.gate.worker` in a fresh process.

    Raises BackendError with what it said before it died.
    """
    done = subprocess.run(
        [sys.executable, "-m", "autotrain_cloud.gate.worker", task],
        input=json.dumps(options),
        capture_output=True,
        text=True,
        env={**os.environ, **_ONE_THREAD},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise BackendError(f"{options['bundle']}: {said[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
