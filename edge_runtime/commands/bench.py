"""`vitconformer bench [FILE...]`: what recognition costs on this machine.

Definitions, all over the same sound, medians over `--runs` passes:

* RTF: CPU seconds per second of sound, all threads, without reading the file.  It is split into
  `features` (log-mel), `graph` (the engine) and `rest` (decoding, words, confidence, buffering).
* step: wall time of a push that ran the graph: what a chunk waits for, beyond the chunk itself.
* peak memory: the largest resident set of a process that does nothing else.
* cold start: CPU and wall time of `vitconformer transcribe` of the first file, start to exit.

Every chunk size is measured in a process of its own, so that none warms up or bloats another.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edge_runtime.cli import OK, USAGE
from edge_runtime.commands import options
from edge_runtime.errors import ConfigError, EdgeError

if TYPE_CHECKING:
    from edge_runtime.recognizer import Recognizer

NAME = "bench"
HELP = "measure speed, latency and memory on this machine"

COLD_STARTS = 3
SAMPLES = Path(__file__).parents[2] / "samples"  # of the checkout


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio (default: samples/*.flac)")
    parser.add_argument("--runs", type=options.positive, default=5, metavar="N", help="default: 5")
    parser.add_argument("--json", action="store_true", help="all numbers as one JSON object")
    options.add_decoding_options(parser, several_chunks=True)
    options.add_model_options(parser)
    # What a child process is started with: measure one chunk size and print its numbers.
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    files = args.files or sorted(map(str, SAMPLES.glob("*.flac")))
    if "-" in files:
        raise ConfigError("standard input cannot be measured several times: name a file")
    if not files:
        raise ConfigError(f"nothing to measure: name audio files, there are none in {SAMPLES}")
    if args.measure:
        args.chunk_ms = args.chunk_ms[0] if args.chunk_ms else None
        recognizer = options.open_recognizer(args)
        sys.stdout.write(json.dumps(measure(recognizer, files, args.runs)))
        return OK
    from edge_runtime.contract.bundle import Manifest

    bundle = options.find_bundle(args.bundle)
    manifest = Manifest.from_json((bundle / "manifest.json").read_bytes())
    report: dict[str, Any] = {
        "machine": machine(),
        "bundle": {"name": manifest.name, "version": manifest.version},
        "files": len(files),
        "runs": args.runs,
        "cold_start": _cold_start(args, files[0]),
        "chunks": [
            _in_own_process(args, chunk_ms, files)
            for chunk_ms in args.chunk_ms or manifest.chunks_ms
        ],
    }
    if args.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _table(report)))
    return OK


def measure(recognizer: Recognizer, files: list[str], runs: int) -> dict[str, Any]:
    """The numbers of one chunk size, in this process."""
    import numpy as np

    from edge_runtime.audio import open_audio

    block_s = recognizer.chunk_ms / 1000
    sounds = []
    for name in files:
        with open_audio(name) as source:
            sounds.append(list(source.blocks(block_s)))
    audio_s = sum(len(block) for sound in sounds for block in sound) / recognizer.sample_rate
    if not audio_s:
        raise ConfigError("nothing to measure: the files hold no sound")

    timer = Timer()
    timed = timer.around(recognizer)
    passes = []  # CPU seconds: (all, features, graph)
    steps: list[float] = []  # wall seconds
    for number in range(runs + 1):
        # Every pass is made twice: looking at watches takes time too.
        total = 0.0
        for blocks in sounds:
            stream = recognizer.stream()
            begin = time.process_time()
            for block in blocks:
                stream.push(block)
            stream.finish()
            total += time.process_time() - begin
        timer.reset()
        if number == 1:
            steps.clear()
        for blocks in sounds:
            stream = timed.stream()
            for block in blocks:
                done, before = timer.graph_runs, time.perf_counter()
                stream.push(block)
                if new := timer.graph_runs - done:
                    steps.append((time.perf_counter() - before) / new)
            stream.finish()
        passes.append((total, timer.seconds["features"], timer.seconds["graph"]))
    # Without the first pass, which grows arenas: what that costs is part of the cold start.
    rtf, features, graph = (
        float(np.median(column)) / audio_s for column in zip(*passes[1:], strict=True)
    )
    return {
        "chunk_ms": recognizer.chunk_ms,
        "audio_s": round(audio_s, 3),
        "rtf": rtf,
        "rtf_features": features,
        "rtf_graph": graph,
        "rtf_rest": rtf - features - graph,
        "step_ms": {
            f"p{share}": float(np.percentile(steps, share)) * 1000 for share in (50, 90, 99)
        },
        "peak_rss_mb": peak_rss_bytes() / 1e6,
    }


class Timer:
    """CPU time of feature extraction and graph, taken where they are called."""

    def __init__(self) -> None:
        self.reset()

    def around(self, recognizer: Recognizer) -> Recognizer:
        """The same recogniser, with stop-watches around these two parts of it."""
        from edge_runtime.engine import Engine

        def bind(shapes: Any) -> Any:
            binding: Any = recognizer.engine._backend.bind(shapes)
            binding.run = self._watch(binding.run, "graph")
            return binding

        def stream() -> Any:
            features = recognizer.frontend.stream()
            return SimpleNamespace(
                push=self._watch(features.push, "features"),
                finish=self._watch(features.finish, "features"),
            )

        backend: Any = SimpleNamespace(source=recognizer.engine._backend.source, bind=bind)
        frontend: Any = SimpleNamespace(stream=stream)
        return dataclasses.replace(
            recognizer, engine=Engine(backend, recognizer.engine.spec), frontend=frontend
        )

    def reset(self) -> None:
        self.seconds = {"features": 0.0, "graph": 0.0}
        self.graph_runs = 0

    def _watch(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            begin = time.process_time()
            try:
                return method(*args)
            finally:
                self.seconds[part] += time.process_time() - begin
                self.graph_runs += part == "graph"

        return watched


def peak_rss_bytes() -> int:
    """The largest resident set this process has had."""
    try:  # getrusage would include what the parent held before exec
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import importlib.metadata

    cpu = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                cpu = line.partition(":")[2].strip()
    except OSError:
        pass
    return {
        "cpu": f"{cpu or platform.machine()} x {os.cpu_count()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "date": time.strftime("%Y-%m-%d"),
    }


def _in_own_process(args: argparse.Namespace, chunk_ms: int, files: list[str]) -> dict[str, Any]:
    _say(f"measuring {chunk_ms} ms…")
    command = [*_command("bench", args), "--measure", "--runs", str(args.runs)]
    result = subprocess.run(
        [*command, "--chunk-ms", str(chunk_ms), "--", *files], capture_output=True, check=False
    )
    _say("")
    _check(result.returncode, result.stderr)
    numbers: dict[str, Any] = json.loads(result.stdout)
    return numbers


def _cold_start(args: argparse.Namespace, file: str) -> dict[str, float]:
    """Medians of whole processes."""
    command = [*_command("transcribe", args), "--quiet", "--", file]
    cpu, wall = [], []
    for number in range(COLD_STARTS):
        _say(f"cold start {number + 1} of {COLD_STARTS}…")
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)  # the only way to one child's CPU time
        wall.append(time.perf_counter() - begin)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu.append(usage.ru_utime + usage.ru_stime)
        _say("")
        process.stderr.close()
        _check(process.returncode, errors)
    middle = COLD_STARTS // 2
    return {"cpu_s": sorted(cpu)[middle], "wall_s": sorted(wall)[middle]}


def _check(returncode: int, errors: bytes) -> None:
    """Passes on what a child process complained about."""
    if returncode:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        problem = last.rpartition("error: ")[2] or f"a measurement ended with code {returncode}"
        raise ConfigError(problem) if returncode == USAGE else EdgeError(problem)


def _command(verb: str, args: argparse.Namespace) -> list[str]:
    """A verb of this installation with the same model and decoder."""
    command = [sys.executable, "-m", "edge_runtime", verb]
    command += ["--bundle", str(options.find_bundle(args.bundle))]
    for name in ("precision", "backend", "threads", "beam", "lm_weight", "hotwords", "nbest"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    for phrase in args.hotword:
        command += ["--hotword", phrase]
    return [*command, *(["--no-endpoint"] if args.no_endpoint else [])]


def _say(text: str) -> None:
    """A line on stderr, rewritten in place, for whoever watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _table(report: dict[str, Any]) -> list[str]:
    facts, cold = report["machine"], report["cold_start"]
    lines = [
        f"{report['bundle']['name']} {report['bundle']['version']} on {facts['cpu']}, "
        f"onnxruntime {facts['onnxruntime']}, {facts['date']}",
        f"{report['chunks'][0]['audio_s']:.1f} s of sound in {report['files']} files, "
        f"medians of {report['runs']} runs",
        f"cold start to exit: {cold['cpu_s']:.2f} s CPU, {cold['wall_s']:.2f} s wall",
        "",
        "           CPU seconds per second of sound       ms per step         peak",
        "chunk      all     features  graph     rest     p50    p90    p99   memory",
    ]
    for chunk in report["chunks"]:
        shares = (chunk[f"rtf_{part}"] / chunk["rtf"] for part in ("features", "graph", "rest"))
        step = chunk["step_ms"]
        lines.append(
            f"{chunk['chunk_ms']:4} ms  {chunk['rtf']:.5f}  "
            + "".join(f"{share:8.1%} " for share in shares)
            + f"  {step['p50']:6.2f} {step['p90']:6.2f} {step['p99']:6.2f}"
            f"  {chunk['peak_rss_mb']:4.0f} MB"
        )
    return lines
