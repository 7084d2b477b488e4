"""Scale-out by setting: the same work by one process, by two, and by a Ray cluster of this machine.

Transcription: `vitconformer cloud label` with pocketsphinx over shards of the sample clips, each a
process from its start to its end. The ratios are of throughput: utterances per second of wall time,
so 2 is the best that two workers can do, and the cores that others use count against them. Beside
them the ratio of CPU time. Under Ray the command is a Ray Job that runs the
shards as tasks, and its time is from asking for the job until its result is read; `inside` leaves
out what asking costs. `files_equal` compares the files of labels byte for byte.

Training: `vitconformer train`, twelve steps from the shipped checkpoint, plainly, as a Ray Job, and
under `torchrun` with two processes here and in a Ray Job; ratios of wall time. `weights_equal`
compares the trained weights bit for bit, `losses_equal` the losses that were logged.

What is compared runs alternately, and reported is the median of the ratios of neighbours. The
cluster is one node of this machine: what is measured is what Ray costs, not what more machines
bring.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import ROOT, Table, say

PER_SHARD = 3  # utterances
STEPS = 12


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument(
        "--passes", type=int, default=3, metavar="N",
        help="how often each sample clip is labelled in a round (default: 3)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    from autotrain_cloud.pipeline.executor import open_executor
    from tests.autotrain_cloud.ray_cluster import ray_cluster

    with tempfile.TemporaryDirectory(prefix="vitconformer-scale-") as name, ray_cluster() as found:
        os.environ["RAY_AUTH_TOKEN"] = found.token
        places = {"local": open_executor("local"), "ray": open_executor(found.url)}
        work = Work(Path(name), places)
        return {
            "transcription": transcription(work, args.passes, args.repeats),
            "training": training(work, args.bundle, args.repeats),
        }


class Work:
    """Commands, each in a folder of its own, and what became of them."""

    def __init__(self, folder: Path, places: dict[str, Any]) -> None:
        self.folder = folder
        self._places = places
        self._count = 0

    def do(self, where: str, *argv: str) -> dict[str, Any]:
        """Runs a command, `{out}` in it being its folder; -> seconds, CPU seconds, its folder."""
        import time

        from autotrain_cloud.pipeline.executor import Job

        self._count += 1
        out = self.folder / f"{self._count:03}-{where}"
        out.mkdir()
        job = Job(
            id=f"{self.folder.name}-{self._count}", attempt="1",
            argv=tuple(word.replace("{out}", str(out)) for word in argv), folder=out / "job",
            cwd=ROOT, timeout_s=1800.0,
        )  # fmt: skip
        began = time.monotonic()
        outcome = self._places[where].run(job)
        if outcome.ended != "done":
            raise RuntimeError(f"{' '.join(job.argv)}: {outcome.ended}: {outcome.reason}")
        return {
            "seconds": time.monotonic() - began, "inside_s": outcome.seconds,
            "cpu_s": outcome.cpu_seconds, "out": out, "log": job.log,
        }  # fmt: skip


def transcription(work: Work, passes: int, repeats: int) -> dict[str, Any]:
    shards, count = _shards(work.folder / "shards", passes)
    words = ["vitconformer", "cloud", "label", str(shards), "--teacher", "pocketsphinx", "--json",
             "--out", "{out}/labels"]  # fmt: skip
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "1 worker": lambda: work.do("local", *words, "--jobs", "1"),
        "2 workers": lambda: work.do("local", *words, "--jobs", "2"),
        "ray": lambda: work.do("ray", *words, "--jobs", "2"),
    }
    found = _alternate("transcription", ways, repeats)
    return {
        "utterances": count,
        "shards": len(list(shards.iterdir())),
        "seconds": _medians(found, "seconds"),
        "two_to_one": _ratio(found, "1 worker", "2 workers", "seconds"),
        "two_to_one_cpu": _ratio(found, "2 workers", "1 worker", "cpu_s"),
        "ray_to_local": _ratio(found, "2 workers", "ray", "seconds"),
        "ray_to_local_inside": _ratio(found, "2 workers", "ray", "inside_s"),
        "files_equal": _same(found, lambda out: _digest(sorted((out / "labels").iterdir()))),
    }


def training(work: Work, bundle: Path, repeats: int) -> dict[str, Any]:
    manifest = work.folder / "speech.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in _lines()), "utf-8")
    made = work.do("local", "vitconformer", "features", "--manifest", str(manifest),
                   "--out", "{out}/store")  # fmt: skip
    store = str(made["out"] / "store")
    arguments = [
        "train", "--recipe", "finetune", "--init", f"{bundle}.safetensors",
        "--tokenizer", f"{bundle}.tokenizer", "--train", store, "--replay", store,
        "--threads", "1", "--no-curves", "--out", "{out}/run", "--set", f"optim.steps={STEPS}",
        "optim.warmup_steps=2", "data.max_seconds=20.0", "data.workers=0",
        "run.log_steps=1",
    ]  # fmt: skip
    alone = ["vitconformer", *arguments]
    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "--no-python", sys.executable, "-m", "edge_runtime", *arguments]  # fmt: skip
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "plain": lambda: work.do("local", *alone),
        "ray": lambda: work.do("ray", *alone),
        "torchrun": lambda: work.do("local", *both),
        "ray, torchrun": lambda: work.do("ray", *both),
    }
    found = _alternate("training", ways, repeats)
    results: dict[str, Any] = {"steps": STEPS, "seconds": _medians(found, "seconds")}
    for name, here in (("one_process", "plain"), ("two_processes", "torchrun")):
        there = "ray" if here == "plain" else "ray, torchrun"
        pair = {way: found[way] for way in (here, there)}
        results[name] = {
            "ray_to_local": _ratio(pair, there, here, "seconds"),
            "ray_to_local_inside": _ratio(pair, there, here, "inside_s"),
            "losses": len(_losses(found[here][0]["log"])),
            "losses_equal": _same(found, _losses, "log", pair),
            "weights_equal": _same(
                found, lambda out: _digest(sorted((out / "run").rglob("*.safetensors"))),
                "out", pair,
            ),
        }  # fmt: skip
    return results


def table(results: dict[str, Any]) -> Table:
    heard, trained = results["transcription"], results["training"]
    rows = [
        ["transcription, 2 workers / 1 worker", f"{heard['two_to_one']:.2f}"],
        ["the same, CPU time", f"{heard['two_to_one_cpu']:.2f}"],
        ["transcription, Ray / 2 local workers", f"{heard['ray_to_local']:.2f}"],
        ["the same, without the asking", f"{heard['ray_to_local_inside']:.2f}"],
        ["files of labels equal", str(heard["files_equal"])],
    ]
    for name, what in (("one_process", "plain"), ("two_processes", "torchrun")):
        found = trained[name]
        rows += [
            [f"training, Ray / {what}, wall time", f"{found['ray_to_local']:.2f}"],
            ["the same, without the asking", f"{found['ray_to_local_inside']:.2f}"],
            ["losses, weights equal", f"{found['losses_equal']}, {found['weights_equal']}"],
        ]
    return [["what", "measured"], *rows]


# --- parts ----------------------------------------------------------------------------------------


def _lines() -> Iterator[dict[str, Any]]:
    from edge_runtime.manifest import read_manifest

    for line in read_manifest(ROOT / "samples" / "manifest.jsonl"):
        yield {
            "audio_filepath": str(line.audio_filepath.absolute()), "duration": line.duration,
            "text": line.text, "speaker": line.speaker,
        }  # fmt: skip


def _shards(folder: Path, passes: int) -> tuple[Path, int]:
    from autotrain_cloud.segments import Segment
    from autotrain_cloud.tables import write_rows

    segments = [
        Segment(
            id=f"s{number}-{index}", audio=line["audio_filepath"], duration_s=line["duration"],
            text=line["text"], device="d",
        )
        for number in range(passes)
        for index, line in enumerate(_lines())
    ]  # fmt: skip
    for number, start in enumerate(range(0, len(segments), PER_SHARD)):
        path = folder / f"segments-{number:04}.jsonl"
        write_rows(path, Segment, segments[start : start + PER_SHARD])
    return folder, len(segments)


def _alternate(
    what: str, ways: dict[str, Callable[[], dict[str, Any]]], repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Every way once a round, in turn forwards and backwards."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(repeats):
        for way in list(ways)[:: 1 if number % 2 == 0 else -1]:
            found[way].append(ways[way]())
            say(f"{what}, {way}: {found[way][-1]['seconds']:.1f} s")
    return found


def _ratio(found: dict[str, list[dict[str, Any]]], over: str, under: str, field: str) -> float:
    pairs = zip(found[over], found[under], strict=True)
    return statistics.median(a[field] / b[field] for a, b in pairs)


def _medians(found: dict[str, list[dict[str, Any]]], field: str) -> dict[str, float]:
    return {way: statistics.median(one[field] for one in runs) for way, runs in found.items()}


def _same(
    found: dict[str, list[dict[str, Any]]],
    of: Callable[[Path], Any],
    field: str = "out",
    among: dict[str, list[dict[str, Any]]] | None = None,
) -> bool:
    """Whether every run, of every way, made the same."""
    first, *rest = (of(one[field]) for runs in (among or found).values() for one in runs)
    return bool(first) and all(one == first for one in rest)


def _digest(files: list[Path]) -> list[tuple[str, str]]:
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def _losses(log: Path) -> list[str]:
    return re.findall(r" (step \d+ .*), \d+x real time", log.read_text("utf-8"))


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
