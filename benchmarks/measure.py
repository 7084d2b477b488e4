"""What the benchmarks share: fair timing, audio, and what is kept about a run.

A benchmark is a module whose docstring says what its numbers mean; the docstring is printed beside
them. It has `configure(parser)`, `run(args) -> results` (JSON values) and `table(results)`, rows of
text of which the first is the header; perhaps `headline(results)`, one line for scripts. `main`
makes a program of it, and these rules hold for all:

* time is the processor's, user and system, not the clock's: other programs on the machine then cost
  less precision, though never none;
* what is compared runs alternately, in an order that turns round, and medians are reported, or in
  slices of one another's time where a few percent count;
* what is compared in memory, or with other people's software, has a process of its own;
* a record names machine, versions, bundle, commit, date and command.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import EdgeError
from edge_runtime.timing import alternate as alternate
from edge_runtime.timing import median_ratio as median_ratio

if TYPE_CHECKING:
    from edge_runtime.manifest import Utterance

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CACHE = ROOT / "data" / "benchmarks"  # not in the repository
SAMPLES = ROOT / "samples" / "manifest.jsonl"
CHECKPOINT = ROOT / "bundles" / "en-demo.safetensors"
SAMPLE_RATE = 16_000  # Hz
PACKAGES = ("numpy", "onnxruntime", "kaldi-native-fbank", "sherpa-onnx", "pocketsphinx", "torch")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Samples = NDArray[np.float32]
Table = list[list[str]]
T = TypeVar("T")

# Reads keyword arguments, writes the result and the memory of this very process: ru_maxrss would
# still hold what the parent used before exec.
_CHILD = """
import importlib, json, sys
module, name = sys.argv[1:]
result = getattr(importlib.import_module(module), name)(**json.load(sys.stdin))
status = open("/proc/self/status").read().split()
peak = int(status[status.index("VmHWM:") + 1]) / 1024
print("\\n" + json.dumps({**result, "peak_rss_mb": peak}))
"""


def main(module: ModuleType) -> int:
    """Runs a benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle",
        type=absolute,
        default=ROOT / "bundles" / "en-demo",
        metavar="DIR",
        help="model to measure (default: bundles/en-demo)",
    )
    parser.add_argument("--json", action="store_true", help="the whole record on stdout")
    module.configure(parser)
    args = parser.parse_args()
    os.environ.update(dict.fromkeys(THREADS, "1"))
    code, load = commit(), Load()  # now: somebody may commit while this runs
    try:
        results = module.run(args)
    except EdgeError as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
    if args.json:
        name = Path(inspect.getfile(module)).stem
        about = record(name, args.bundle, results, code=code, busy_cores=load.others())
        sys.stdout.write(json.dumps(about, indent=1) + "\n")
    else:
        sys.stdout.write(markdown(module.table(results)))
        if hasattr(module, "headline"):
            sys.stdout.write(f"{module.headline(results)}\n")
    return 0


def record(
    name: str, bundle: Path, results: Mapping[str, Any], *, code: str, busy_cores: float
) -> dict[str, Any]:
    """A run's results, with all that is needed to judge or repeat it."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    return {
        "benchmark": name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": code,
        "command": command(["benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": {**machine(), "busy_cores": busy_cores},
        "versions": {"python": platform.python_version(), **_versions()},
        "bundle": {
            "name": manifest["name"],
            "version": manifest["version"],
            "encoder_sha256": manifest["files"]["encoder.onnx"]["sha256"],
        },
        "results": results,
    }


def machine() -> dict[str, Any]:
    """The processor as /proc/cpuinfo names it, its cores, and memory in GiB."""
    cpuinfo = Path("/proc/cpuinfo").read_text("utf-8")
    models = [
        line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.machine(),  # ARM names no model
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str:
    """The commit measured; `+` says that its code or models had been changed."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short=10", "HEAD"], text=True).strip()
        code = ["edge_runtime", "training", "calibration", "autotrain_cloud", "jetson", "deploy",
                "bundles", "tests/*.py", "benchmarks/*.py"]  # fmt: skip
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", *code], text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def command(arguments: Sequence[str]) -> str:
    """A command line as to be repeated, without the places that only this machine has."""
    shown = []
    for argument in arguments:
        name, equals, value = argument.rpartition("=")
        if value.startswith("/"):
            path = Path(value)
            value = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)
        shown.append(name + equals + value)
    return "python " + shlex.join(shown)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def markdown(table: Table) -> str:
    """A table as Markdown; the first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def absolute(text: str) -> Path:
    """An argparse type: a path that a process with another working directory understands."""
    return Path(text).absolute()


class Load:
    """What else the machine did since this was made."""

    def __init__(self) -> None:
        self._start = self._now()

    def others(self) -> float:
        """Cores that were busy, on average, with anything but this process and its children."""
        busy, ours, clock = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return round(max(0.0, busy - ours) / clock, 2) if clock else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: busy of all cores, used by us, elapsed."""
        # user, nice, system, idle, iowait, irq, softirq, steal; idle and iowait are not busy
        ticks = [int(text) for text in Path("/proc/stat").read_text("ascii").split()[1:9]]
        times = os.times()
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return busy, sum(times[:4]), times.elapsed


# --- processes and time --------------------------------------------------------------------------


def child(function: Callable[..., Mapping[str, Any]], **options: Any) -> dict[str, Any]:
    """Calls a module-level function of a benchmark in a fresh process; adds `peak_rss_mb`.

    Options and result are JSON values. Raises RuntimeError with what the process said if it dies.
    """
    name = f"benchmarks.{Path(inspect.getfile(function)).stem}"  # also where that runs as __main__
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, name, function.__name__],
        input=json.dumps(options),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{name}.{function.__name__} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


SLICE_S = 0.1


def take_turns(programs: Mapping[str, Callable[[], subprocess.Popen[bytes]]]) -> dict[str, float]:
    """CPU seconds of programs that run to their ends, one at a time, a slice each in turn.

    So whatever else the machine does in this minute slows all of them down alike, where runs one
    after the other meet different neighbours. Raises SystemExit if one fails.
    """
    waiting, spent = {}, {}
    try:
        for name, begin in programs.items():
            waiting[name] = begin()
            os.kill(waiting[name].pid, signal.SIGSTOP)
        while waiting:
            for name, process in list(waiting.items()):
                os.kill(process.pid, signal.SIGCONT)
                time.sleep(SLICE_S)
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    os.kill(process.pid, signal.SIGSTOP)
                else:
                    spent[name] = cpu_s(process)
                    del waiting[name]
    finally:
        for process in waiting.values():  # also those that stand still, when we are interrupted
            process.kill()
    return spent


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a process, when it is over. Raises SystemExit if it failed."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def percentiles(values: Sequence[float], *ranks: int) -> dict[str, float]:
    """`{"p50": …}`, between the two nearest values where there is none."""
    if not len(values):
        return {f"p{rank}": float("nan") for rank in ranks}
    found = np.percentile(np.asarray(values, float), ranks)
    return {f"p{rank}": float(value) for rank, value in zip(ranks, found, strict=True)}


# --- audio ---------------------------------------------------------------------------------------


def add_manifest_option(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument(
        "--manifest",
        action="append",
        default=[],
        metavar="NAME=FILE[#SPEAKER]",
        help=f"JSON lines of utterances, perhaps only one speaker's; may be repeated ({default})",
    )


def add_checkpoint_option(
    parser: argparse.ArgumentParser, *, default: Path | None = CHECKPOINT
) -> None:
    parser.add_argument(
        "--checkpoint",
        type=absolute,
        default=default,
        metavar="FILE",
        help="the weights the bundle was exported from (default: bundles/en-demo.safetensors)",
    )


def manifests(options: Sequence[str], limit: int | None = None) -> dict[str, list[Utterance]]:
    """`NAME=FILE[#SPEAKER]` options to utterances by name; the sample clips if there are none."""
    from edge_runtime.manifest import read_manifest

    found = {}
    for option in options or [f"samples={SAMPLES}"]:
        name, equals, place = option.partition("=")
        path, _, speaker = place.partition("#")
        if not equals or not name:
            raise SystemExit(f"--manifest {option}: expected NAME=FILE")
        chosen = [u for u in read_manifest(path) if speaker in ("", u.speaker)]
        if not chosen:
            raise SystemExit(f"--manifest {option}: no utterances")
        found[name] = chosen[:limit]
    return found


def load(path: Path) -> Samples:
    """A whole file, f32 [n] at 16 kHz."""
    from edge_runtime.audio import open_audio

    with open_audio(path) as source:
        return np.concatenate([np.zeros(0, np.float32), *source.blocks()])


def blocks(samples: Samples, milliseconds: float) -> Iterator[Samples]:
    """As a sound card would deliver it."""
    size = round(SAMPLE_RATE * milliseconds / 1000)
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def save_clips(clips: Iterable[Samples], folder: Path) -> list[str]:
    """Decoded once, so that no process under measurement decodes; paths for `np.load`."""
    paths = []
    for i, samples in enumerate(clips):
        paths.append(str(folder / f"{i:05}.npy"))
        np.save(paths[-1], samples)
    return paths
