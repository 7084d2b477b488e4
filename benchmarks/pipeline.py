"""Retrainings while everything that carries them is killed at random.

A number of pipelines run, each for a family of models of its own: the real controller, the real
engine, real processes, and a real signed repository that they publish to. Each family has a device,
which sends segments over a real broker (the project's configuration) to the real ingest; its run is
asked for when the first of them have their receipts, and begins with the real `cloud gather` on the
store that the ingest fills. The device sends on until all pipelines are over or it has nothing
left. The other steps are light: they sleep where a real one computes. Meanwhile SIGKILL hits, at
random, the controller (which is started again at once), a process of a step, the one that watches
it included (`trainer`: of the step `retrain`), the ingest, or the broker, which half of the times
has then forgotten all that it had saved.

Counted are pipelines that finished, those that did not within the time limit (`stuck`), and
publications: versions of a family's signed metadata that name another release than the version
before. `overlaps` are steps that ran twice at the same time, `signed` are families whose release
the newest timestamp leads to, `gathered whole` are runs whose first step found every segment that
had a receipt before the run was asked for. Of the segments, `lost` are sent and not in the store
with their audio, `twice` are rows beyond the first of an id, `unknown` were never sent.
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
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotrain_cloud.pipeline.controller import Controller
    from benchmarks.chaos import Intake
    from edge_runtime.contract.messages import Segment
    from tests.autotrain_cloud.processes import Device

FIRST, REST = 20, 60  # segments of a device before its run is asked for, and after
SIZE = 4000  # bytes of audio


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=30, help="pipelines (default: 30)")
    parser.add_argument(
        "--engine", nargs="+", choices=("dbos", "sqlite", "postgresql"), default=["dbos", "sqlite"],
        help="of the pipelines, one after another; postgresql: DBOS and the store on a PostgreSQL "
        "of its own (default: dbos sqlite)",
    )  # fmt: skip
    parser.add_argument("--every", type=float, default=2.0, help="mean s between kills (2)")
    parser.add_argument("--limit", type=float, default=1500.0, help="s until stuck (1500)")
    parser.add_argument("--at-once", type=int, default=6, help="pipelines at a time (default: 6)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for engine in args.engine:
        with tempfile.TemporaryDirectory(prefix="vitconformer-chaos-") as folder:
            found[engine] = chaos(Path(folder), engine, args)
            sys.stderr.write(f"{engine}: {json.dumps(found[engine])}\n")
    return found


def chaos(folder: Path, engine: str, args: argparse.Namespace) -> dict[str, Any]:
    from autotrain_cloud.pipeline.controller import Controller
    from autotrain_cloud.release import Repository
    from benchmarks.chaos import Intake

    families = [f"family-{number:02d}" for number in range(args.runs)]
    Repository.create(folder / "repo", folder / "keys", families)
    with _databases(engine) as new_url, Intake(folder, new_url()) as intake:
        settings = folder / "pipeline.toml"
        settings.write_text(_settings(engine, new_url(), args.at_once), encoding="utf-8")
        controller = Controller.open(settings)
        try:
            fleet = _Fleet(intake, controller, families, args.at_once)
            found = _under_fire(folder, settings, intake, controller, fleet, args)
        finally:
            controller.close()
        found["segments"] = intake.counts(fleet.sent)
        found["gathered_whole"] = sum(
            fleet.first[family] <= _gathered(folder, family) for family in fleet.first
        )
    runs = [controller.runs.read(id) for id in controller.runs.ids()]
    publications = {family: _publications(folder / "repo", family) for family in families}
    return _outcomes(runs) | found | {
        "published_once": sum(count == 1 for count in publications.values()),
        "published_twice": sum(count > 1 for count in publications.values()),
        "signed": sum(_leads_to(folder / "repo", family) for family in families),
        "overlaps": len(list((folder / "overlaps").glob("*"))),
    }  # fmt: skip


@contextmanager
def _databases(engine: str) -> Iterator[Any]:
    """-> what makes URLs of new databases; "" where SQLite in a folder will do."""
    from tests.postgres import Postgres

    if engine != "postgresql":
        yield lambda: ""
        return
    with Postgres.start() as postgres:
        yield postgres.new_store


class _Fleet:
    """A device for each family, as many at a time as pipelines may run."""

    def __init__(
        self, intake: Intake, controller: Controller, families: list[str], at_once: int
    ) -> None:
        self.sent: set[str] = set()
        self.first: dict[str, set[str]] = {}  # by family: what had a receipt before its run
        self.errors: list[str] = []
        self._intake, self._controller = intake, controller
        self._waiting = iter(enumerate(families))
        self._turn = threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(at_once)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def is_over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while True:
                with self._turn:
                    number, family = next(self._waiting, (0, ""))
                if not family:
                    return
                self._serve(number, family)
        except Exception as error:  # is counted, and the others go on
            self.errors.append(repr(error))

    def _serve(self, number: int, family: str) -> None:
        from autotrain_cloud.pipeline.record import OPEN
        from autotrain_cloud.service.watch import set_slice
        from tests.autotrain_cloud.fleet import segment

        each = FIRST + REST
        made = [segment(n, size=SIZE) for n in range(number * each, (number + 1) * each)]
        name = f"{family}-device"
        with self._intake.device(name) as device:
            self._send(device, made[:FIRST])
            with self._turn:
                with self._intake.store.begin() as db:
                    set_slice(db, name, family)
                self.first[family] = {one.id for one in made[:FIRST]}
                self._controller.start(why="chaos", id=family, slice=family)
            for start in range(FIRST, each, 5):
                self._send(device, made[start : start + 5])
                time.sleep(0.5)
        while self._controller.runs.read(family).state in OPEN:
            time.sleep(0.2)

    def _send(self, device: Device, some: list[Segment]) -> None:
        """Returns when all have their receipts."""
        self.sent.update(one.id for one in some)
        device.deliver(some)


def _under_fire(
    folder: Path, settings: Path, intake: Intake, controller: Controller, fleet: _Fleet,
    args: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    rng = random.Random(args.seed)
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

    began, killed = time.monotonic(), Counter[str]()
    process = start()
    fleet.start()
    try:
        while not fleet.is_over() and time.monotonic() - began < args.limit:
            time.sleep(rng.expovariate(1 / args.every))
            what = rng.choice(("controller", "step", "trainer", "ingest", "broker"))
            if what in ("ingest", "broker"):
                intake.kill(what, rng)
                continue
            if what == "controller":
                process.kill()
                process.wait()
                process = start()
            elif steps := _step_processes(folder, "retrain" if what == "trainer" else ""):
                try:
                    os.kill(rng.choice(steps), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            else:
                continue
            killed[what] += 1
        elapsed = time.monotonic() - began
    finally:
        if not fleet.is_over():  # stuck: nobody will end what they wait for
            for run in controller.runs.open():
                controller.cancel(run.id, by="the time limit")
        fleet.join()
        process.kill()
        process.wait()
        for pid in _step_processes(folder):
            os.kill(pid, signal.SIGKILL)
    return {
        "killed": dict(killed + intake.kills),
        "seconds": round(elapsed, 1),
        "devices_failed": fleet.errors,
    }


def _outcomes(runs: list[Any]) -> dict[str, Any]:
    from autotrain_cloud.pipeline.record import OPEN

    return {
        "runs": len(runs),
        "done": sum(run.state == "done" for run in runs),
        "stuck": sum(run.state in (*OPEN, "cancelled") for run in runs),
        "other": {run.id: f"{run.state}: {run.reason}" for run in runs
                  if run.state not in (*OPEN, "cancelled", "done")},
        "tries_above_one": sum(step.tries > 1 for run in runs for step in run.steps),
    }  # fmt: skip


def _gathered(folder: Path, family: str) -> set[str]:
    """Ids in the shards of a run's first step."""
    from autotrain_cloud.pipeline.record import Runs

    step = Runs(folder / "pipeline" / "runs").read(family).step("gather")
    shards = Path(step.folder).glob("segments-*.jsonl") if step else ()
    lines = (line for path in shards for line in path.read_text("utf-8").splitlines())
    return {json.loads(line)["id"] for line in lines}


def table(results: dict[str, Any]) -> list[list[str]]:
    from benchmarks.chaos import shown

    rows = [["what", *results]]
    each = results.values()
    for name in ("runs", "done", "stuck", "published_once", "published_twice", "signed",
                 "overlaps", "gathered_whole", "tries_above_one"):  # fmt: skip
        rows.append([name.replace("_", " "), *(str(one[name]) for one in each)])
    for name in ("sent", "lost", "twice", "unknown"):
        rows.append([f"segments {name}", *(str(one["segments"][name]) for one in each)])
    rows.append(["killed", *(shown(one["killed"]) for one in each)])
    rows.append(["seconds", *(f"{one['seconds']:.0f}" for one in each)])
    problems = [str([*one["other"].items(), *one["devices_failed"]]) for one in each]
    return rows if set(problems) == {"[]"} else [*rows, ["problems", *problems]]


def _settings(engine: str, database: str, at_once: int) -> str:
    light = f"{sys.executable} {Path(__file__).absolute()} step {{out}}"
    commands = {
        "label": f"{light} label 0.3 {{gather}}/segments-0001.jsonl",
        "select": f"{light} select 0.3 {{label}}/made",
        "features": f"{light} features 0.3 {{select}}/made",
        "dev_features": "",
        "guard_features": "",
        "replay_features": "",
        "noise": "",
        "noise_features": "",
        "retrain": f"{light} retrain 2.0 {{features}}/made",
        "interpolate": f"{light} interpolate 0.3 {{retrain}}/made",
        "export": f"{light} export 0.3 {{interpolate}}/made",
        "confidence": "",
        "bundle": f"{light} bundle 0.3 {{export}}/made",
        "calibrate": f"{light} calibrate 0.3 {{bundle}}/made {{slice}}",
        "gate": f"{light} gate 0.3 {{calibrate}}/made",
    }
    if engine == "postgresql":
        engine = "dbos"
    lines = [
        'folder = "pipeline"', f'engine = "{engine}"', f'database = "{database}"',
        f"concurrency = {at_once}", "back_off_s = 0.2",
        "[inputs]", 'cloud = "cloud.toml"',
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


def _step_processes(folder: Path, step: str = "") -> list[int]:
    """Of the jobs of this folder (of this step's): watchers, commands, and what those started."""
    from autotrain_cloud.pipeline.supervise import MARK

    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={step}".encode() in environment and str(folder).encode() in environment:
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
