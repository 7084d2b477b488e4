"""Retrainings while everything that carries them is killed at random.

A number of pipelines run at once, each for a family of models of its own: the real controller, the
real engine, real processes, and a real signed repository that they publish to. Only the steps are
light: they sleep where a real one computes. Meanwhile SIGKILL hits, at random, the controller
(which is started again at once) or a process of a step, the one that watches it included. Counted
are pipelines that finished, those that did not within the time limit, and publications: versions of
a family's signed metadata that name another release than the version before. `overlaps` are steps
that ran twice at the same time, `signed` are families whose release the newest timestamp leads to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=30, help="pipelines (default: 30)")
    parser.add_argument("--engine", choices=("dbos", "sqlite"), default="dbos")
    parser.add_argument("--database", default="", help="URL (default: SQLite)")
    parser.add_argument("--every", type=float, default=1.5, help="mean s between kills (1.5)")
    parser.add_argument("--limit", type=float, default=1500.0, help="s until stuck (1500)")
    parser.add_argument("--at-once", type=int, default=6, help="pipelines at a time (default: 6)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vitconformer-chaos-") as folder:
        return chaos(Path(folder), args)


def chaos(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    from autotrain_cloud.pipeline.controller import Controller
    from autotrain_cloud.pipeline.record import OPEN
    from autotrain_cloud.release import Repository

    rng = random.Random(args.seed)
    families = [f"family-{number:02d}" for number in range(args.runs)]
    Repository.create(folder / "repo", folder / "keys", families)
    settings = folder / "pipeline.toml"
    settings.write_text(_settings(args), encoding="utf-8")
    controller = Controller.open(settings)
    for family in families:
        controller.start(why="chaos", id=family, slice=family)
    command = [sys.executable, "-m", "edge_runtime", "cloud", "runs", "work"]
    command += ["--settings", str(settings)]
    environment = {**os.environ, "VITCONFORMER_CHAOS": str(folder)}

    def start() -> subprocess.Popen[bytes]:
        """A controller; mostly it is left alone until it is at work, or no run would ever end."""
        path = folder / "controller.log"
        with path.open("ab") as log:
            begun = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        seen = path.read_bytes().count(b"at work")
        patient = rng.random() > 0.15
        while patient and path.read_bytes().count(b"at work") == seen and begun.poll() is None:
            time.sleep(0.1)
        return begun

    began, killed = time.monotonic(), {"controller": 0, "step": 0}
    process = start()
    try:
        while controller.runs.open() and time.monotonic() - began < args.limit:
            time.sleep(rng.expovariate(1 / args.every))
            steps = _step_processes(folder)
            if steps and rng.random() < 0.5:
                what, pid = "step", rng.choice(steps)
            else:
                what, pid = "controller", process.pid
            try:
                os.kill(pid, signal.SIGKILL)
                killed[what] += 1
            except ProcessLookupError:
                continue
            if what == "controller":
                process.wait()
                process = start()
        elapsed = time.monotonic() - began
    finally:
        process.kill()
        process.wait()
        for pid in _step_processes(folder):
            os.kill(pid, signal.SIGKILL)
        controller.close()
    found = [controller.runs.read(id) for id in controller.runs.ids()]
    publications = {family: _publications(folder / "repo", family) for family in families}
    return {
        "engine": args.engine,
        "runs": len(found),
        "done": sum(run.state == "done" for run in found),
        "stuck": sum(run.state in OPEN for run in found),
        "other": {run.id: f"{run.state}: {run.reason}" for run in found
                  if run.state not in (*OPEN, "done")},
        "killed": killed,
        "seconds": round(elapsed, 1),
        "published_once": sum(count == 1 for count in publications.values()),
        "published_twice": sum(count > 1 for count in publications.values()),
        "signed": sum(_leads_to(folder / "repo", family) for family in families),
        "tries_above_one": sum(step.tries > 1 for run in found for step in run.steps),
        "overlaps": len(list((folder / "overlaps").glob("*"))),
    }  # fmt: skip


def table(results: dict[str, Any]) -> list[list[str]]:
    shown = {key: value for key, value in results.items() if key != "other" or value}
    return [["what", "measured"], *([key, str(value)] for key, value in shown.items())]


def _settings(args: argparse.Namespace) -> str:
    light = f"{sys.executable} {Path(__file__).absolute()} step {{out}}"
    commands = {
        "gather": "",
        "label": "",
        "select": f"{light} select 0.3",
        "features": f"{light} features 0.3 {{select}}/made",
        "dev_features": "",
        "guard_features": "",
        "replay_features": "",
        "retrain": f"{light} retrain 2.0 {{features}}/made",
        "interpolate": f"{light} interpolate 0.3 {{retrain}}/made",
        "export": f"{light} export 0.3 {{interpolate}}/made",
        "confidence": "",
        "bundle": f"{light} bundle 0.3 {{export}}/made",
        "calibrate": f"{light} calibrate 0.3 {{bundle}}/made {{slice}}",
        "gate": f"{light} gate 0.3 {{calibrate}}/made",
    }
    lines = [
        'folder = "pipeline"', f'engine = "{args.engine}"', f'database = "{args.database}"',
        f"concurrency = {args.at_once}", "back_off_s = 0.2",
        "[settings]", 'repository = "repo"', 'keys = "keys"', "[commands]",
        *(f"{name} = {json.dumps(command)}" for name, command in commands.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def step(out: Path, name: str, seconds: str, *rest: str) -> int:
    """A light step: goes on where a killed one was, and complains when it is not alone."""
    import fcntl

    with (out / "alone").open("w") as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            overlaps = Path(os.environ["VITCONFORMER_CHAOS"]) / "overlaps"
            overlaps.mkdir(exist_ok=True)
            (overlaps / f"{name}-{os.getpid()}").touch()
        if rest and not Path(rest[0]).exists():
            sys.stderr.write(f"{rest[0]} is not there\n")
            return 2
        parts = 10
        for part in range(parts):
            if not (out / f"part-{part}").exists():
                time.sleep(float(seconds) / parts)
                (out / f"part-{part}").touch()
        if name == "calibrate":
            _write_bundle(out / "bundle", rest[1])
        if name == "gate":
            (out / "verdict.json").write_text('{"promote": true, "reasons": []}')
        (out / "made").touch()
    return 0


def _write_bundle(path: Path, family: str) -> None:
    from edge_runtime.bundle import write_bundle
    from edge_runtime.contract.bundle import Manifest

    manifest = Manifest(
        name=family, version="1.0", release_counter=1, created="2026-01-02T03:04:05Z",
        frontend="knf_nemo", sample_rate=16000, chunk_frames=(8,), default_chunk_ms=80,
        precisions={"float32": "encoder.onnx"},
    )  # fmt: skip
    files: dict[str, Path | bytes] = {"encoder.onnx": os.urandom(999), "tokens.txt": b"a b"}
    write_bundle(path, manifest, files)


def _step_processes(folder: Path) -> list[int]:
    """Of the jobs of this folder: watchers, commands, and what those started."""
    from autotrain_cloud.pipeline.supervise import MARK

    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}=".encode() in environment and str(folder).encode() in environment:
            found.append(int(entry.name))
    return found


def _metadata(repo: Path, role: str) -> list[dict[str, Any]]:
    """Every version of a role, oldest first."""
    paths = (repo / "metadata").glob(f"*.{role}.json")
    found = [json.loads(path.read_text("utf-8"))["signed"] for path in paths]
    return sorted(found, key=lambda signed: signed["version"])


def _publications(repo: Path, family: str) -> int:
    before, count = None, 0
    for signed in _metadata(repo, family):
        if signed["targets"] != before and signed["targets"]:
            count += 1
        before = signed["targets"]
    return count


def _leads_to(repo: Path, family: str) -> bool:
    """Whether a device that starts at the timestamp finds the family's newest version."""
    timestamp = json.loads((repo / "metadata" / "timestamp.json").read_text("utf-8"))["signed"]
    wanted = timestamp["meta"]["snapshot.json"]["version"]
    snapshot = next(s for s in _metadata(repo, "snapshot") if s["version"] == wanted)
    newest = _metadata(repo, family)[-1]
    return bool(
        newest["targets"] and snapshot["meta"][f"{family}.json"]["version"] == newest["version"]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        raise SystemExit(step(Path(sys.argv[2]), *sys.argv[3:]))
    from benchmarks import measure  # which a light step does without

    raise SystemExit(measure.main(sys.modules[__name__]))
