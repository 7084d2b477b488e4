"""The whole loop on one machine: a fleet drifts, the cloud notices, retrains, gates and rolls out.

Three devices (`vitconformer agent run`) play audio faster than real time through real software: a
mosquitto with mutual TLS, `cloud ingest`, `cloud learn`, a signed repository behind a web server.
All first hear voices that the model knows. Then those of the slice `kitchen` hear the scenario.
From there on nobody touches anything: telemetry raises an alarm, segments of the slice are labelled
by pocketsphinx, filtered by whether the recogniser's own beam search agrees, selected, and trained
on; the INT8 bundle that comes out is judged against the one that runs, signed, and given to one
device and then to the others.

Scenarios: `voice`, one that the model was never trained on (`--voice`, flite-rms);
`readers`, real ones from a manifest (`--speech`), whose utterances are divided into those that
devices play, those of the gate, and those that only the report hears.

WER before and after is measured on utterances that nobody trained on: of the drifted slice, and of
known voices (`guard`). All sentences come from one small grammar, which training learns as well as
the voice; `-other` are read by the same voices from sentences that it does not make. Times are of
the wall clock of this machine, from the first drifted utterance.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from autotrain_cloud.service import journal, watch
from autotrain_cloud.settings import CloudSettings, read_cloud_settings
from autotrain_cloud.store import Store, consents
from edge_runtime.manifest import read_manifest
from tests.broker import Broker

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "en-demo"
DEVICES = {"kitchen-1": "kitchen", "kitchen-2": "kitchen", "hall-1": "hall"}
KNOWN = "flite,festival,espeak-ng"
CONSENT = "loop-2026"

# Sentences of our own: what the voices say is nobody's book.
_WHO = (
    "the old teacher|my younger sister|a tall sailor|the baker|our neighbour|the new doctor"
    "|every farmer|a quiet child|the tired driver|his uncle|the captain|some visitors"
    "|the young nurse|her grandmother|an honest lawyer|the painter|two soldiers|the musician"
).split("|")
_DID = (
    "carried|found|painted|forgot|opened|repaired|borrowed|sold|described|counted|followed"
    "|remembered|noticed|cleaned|watched|hid|brought|measured|promised|collected"
).split("|")
_WHAT = (
    "a heavy box|the broken window|three silver coins|the garden gate|a letter|the yellow boat"
    "|seven apples|an empty bottle|the map of the island|a warm blanket|the kitchen table|bread"
    "|a wooden chair|the church bell|his old watch|the last ticket|a basket of fish|the mirror"
).split("|")
_WHERE = (
    "near the harbour|behind the mill|across the river|in the village|under the bridge|at market"
    "|beside the road|on the hill|inside the station|by the fire|along the northern shore"
    "|in the front garden|above the shop|outside the town|at the end of the street"
).split("|")
_WHEN = (
    "before breakfast|late in the evening|last winter|on a sunday|after the storm|every morning"
    "|in the first week of june|when the rain stopped|without a word|for the second time"
    "|as quickly as possible|while we waited"
).split("|")


def sentences(count: int, seed: int) -> list[str]:
    """Different ones for different seeds, but for chance."""
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        parts = [draw.choice(each) for each in (_WHO, _DID, _WHAT, _WHERE)]
        if draw.random() < 0.5:
            parts.append(draw.choice(_WHEN))
        text = " ".join(parts)
        found[text[0].upper() + text[1:] + "."] = None
    return list(found)


def other_sentences() -> list[str]:
    lines = (ROOT / "benchmarks" / "sentences.txt").read_text("utf-8").splitlines()
    return [f"{line[0].upper()}{line[1:]}." for line in lines if line]


def vitconformer(*words: object) -> list[str]:
    return [sys.executable, "-m", "edge_runtime", *map(str, words)]


@dataclass
class World:
    """Folders, settings and processes of one run."""

    out: Path
    args: argparse.Namespace
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    # -- audio -------------------------------------------------------------------------------------

    def speech(self) -> None:
        """Every set of utterances, as a manifest under `sets`."""
        jobs = [
            ("known-play", KNOWN, 3 * self.args.known, 1),
            ("replay", KNOWN, self.args.replay, 2),
            ("guard-dev", KNOWN, self.args.guard_dev, 3),
            ("guard", KNOWN, self.args.guard, 4),
            ("guard-other", KNOWN, 120, 8),
        ]
        if self.args.scenario == "voice":
            jobs += [
                ("drift-play", self.args.voice, 2 * self.args.drift, 5),
                ("target", self.args.voice, self.args.target, 6),
                ("held-out", self.args.voice, self.args.held_out, 7),
                ("held-out-other", self.args.voice, 40, 9),
            ]
        for name, voices, count, seed in jobs:
            folder = self.out / "sets" / name
            if (folder / "manifest.jsonl").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "text.txt").exists():
                # Training knows the grammar after a while: what it does for other words is another
                # question, which the sentences of the benchmarks answer.
                other = name.endswith("-other")
                texts = other_sentences() if other else sentences(count + 50, seed)
                (folder / "text.txt").write_text("\n\n".join(texts) + "\n")
            exclude = ["--exclude-voices", "held-out"] if voices == KNOWN else []
            self.call(
                "synth", "--text", folder / "text.txt", "--out", folder, "--utterances", count,
                "--voices", voices, *exclude, "--seed", seed, "--jobs", 2,
            )  # fmt: skip
            parts = sorted(folder.glob("*/manifest.jsonl"))  # train, dev, test: all one to us
            lines = [
                u.to_json() | {"audio_filepath": str(u.audio_filepath.resolve())}
                for part in parts
                for u in read_manifest(part)
            ]
            _write(folder / "manifest.jsonl", lines)
        if self.args.scenario == "readers":
            self._readers()
        self._noise()
        for name in ("target", "guard", "held-out", "guard-dev"):
            self._mark(name)
        self._playlists()

    def _readers(self) -> None:
        """Utterances of the manifest, dealt to what is played, the gate and the report."""
        found = sorted(read_manifest(self.args.speech), key=lambda u: str(u.audio_filepath))
        random.Random(0).shuffle(found)
        shares = {"held-out": 0.25, "target": 0.25, "drift-play": 0.5}
        start = 0.0
        for name, share in shares.items():
            some = found[round(start * len(found)) : round((start + share) * len(found))]
            start += share
            folder = self.out / "sets" / name
            folder.mkdir(parents=True, exist_ok=True)
            lines = [u.to_json() | {"audio_filepath": str(u.audio_filepath)} for u in some]
            _write(folder / "manifest.jsonl", lines)

    def _noise(self) -> None:
        """A minute in which nobody speaks."""
        folder = self.out / "sets" / "noise"
        folder.mkdir(parents=True, exist_ok=True)
        rng, lines = np.random.default_rng(0), []
        for number in range(6):
            path = folder / f"{number}.flac"
            noise = np.cumsum(rng.normal(size=160_000)) * 0.001 + rng.normal(size=160_000) * 0.01
            soundfile.write(path, np.clip(noise - noise.mean(), -1, 1).astype(np.float32), 16_000)
            lines.append({"audio_filepath": str(path), "duration": 10.0, "text": "",
                          "speaker": f"noise-{number}", "label_source": "source"})  # fmt: skip
        _write(folder / "manifest.jsonl", lines)

    def _mark(self, name: str) -> None:
        """Says who labelled a set, and makes blocks of it for the gate.

        A slice with one voice has no speakers to resample: blocks of utterances stand for them.
        """
        path = self.out / "sets" / name / "manifest.jsonl"
        lines = []
        for number, utterance in enumerate(read_manifest(path)):
            line = utterance.to_json()
            speaker = f"{line.get('speaker') or name}-{name}"
            if name == "target":
                speaker = f"{speaker}-{number % 8}"
            lines.append(line | {
                "audio_filepath": str(utterance.audio_filepath.resolve()), "speaker": speaker,
                "label_source": "source",
            })  # fmt: skip
        _write(path.with_name(f"{name}.jsonl"), lines)

    def _playlists(self) -> None:
        """What each device hears: known voices, then its part of the drift, again and again."""
        for kind, names in (("known-play", list(DEVICES)), ("drift-play", list(DEVICES)[:2])):
            files = [u.audio_filepath for u in read_manifest(self.set(kind))]
            for number, name in enumerate(names):
                folder = self.out / "devices" / name / kind
                folder.mkdir(parents=True, exist_ok=True)
                for place, file in enumerate(files[number :: len(names)]):
                    link = folder / f"{place:04}{file.suffix}"
                    if not link.is_symlink():
                        link.symlink_to(file.resolve())

    def set(self, name: str) -> Path:
        """Its manifest; with who labelled it, where somebody asks."""
        marked = self.out / "sets" / name / f"{name}.jsonl"
        return marked if marked.exists() else marked.with_name("manifest.jsonl")

    # -- settings ----------------------------------------------------------------------------------

    def configure(self, broker: Broker, url: str) -> CloudSettings:
        """cloud.toml, pipeline.toml, gate.toml, and agent.toml of every device."""
        out = self.out
        certificate, key = broker.identity("_ingest")
        (out / "cloud.toml").write_text(f"""
[store]
url = "sqlite:///{out}/store.db"
blobs = "{out}/blobs"
[broker]
host = "127.0.0.1"
port = {broker.service_port}
ca = "{broker.ca}"
certificate = "{certificate}"
key = "{key}"
[monitor]
look_ms = 10000
warmup_looks = 3
warmup_utterances = 30
full_utterances = 10
false_alarms = 1.0
false_tickets = 1.0
[rollout]
shares = [0.34, 1.0]
holdback = 0.0
soak_minutes = 0.2
look_minutes = 0.5
least_looks = 0
timeout_minutes = 10.0
""")
        (out / "label.toml").write_text(f"""
[teacher]
name = "pocketsphinx"
[second]
name = "bundle"
model = "{BUNDLE}"
""")
        (out / "select.toml").write_text(
            "dev_share = 0.1\nmax_device_hours = 5.0\nreplay_share = 0.0\n"
        )
        (out / "gate.toml").write_text("""
[test]
margin = 0.1
min_speakers = 4
[bounds]
cpu_ratio = 1.5
memory_ratio = 1.5
runs = 3
seconds = 20.0
[trust]
max_known_texts = 1.0
""")
        (out / "pipeline.toml").write_text(f"""
folder = "pipeline"
engine = "dbos"
[inputs]
champion = "{BUNDLE}"
checkpoint = "{BUNDLE}.safetensors"
tokenizer = "{BUNDLE}.tokenizer"
replay = "{self.set("replay")}"
guard_dev = "{self.set("guard-dev")}"
gate_target = "{self.set("target")}"
gate_guard = "{self.set("guard")}"
gate_noise = "{self.set("noise")}"
cloud = "{out}/cloud.toml"
label_settings = "{out}/label.toml"
select_settings = "{out}/select.toml"
gate_settings = "{out}/gate.toml"
[settings]
train_set = ["optim.steps={self.args.steps}"]
threads = 2
targets = "dynamic"
chunks = 500
repository = "{out}/repository"
keys = "{out}/keys"
ledger = "{out}/ledger.jsonl"
[policy]
min_new_minutes = {self.args.minutes}
cool_down_hours = 0.0
max_runs_per_week = 2
""")
        for name in DEVICES:
            self._device(name, broker, url)
        return read_cloud_settings(out / "cloud.toml")

    def _device(self, name: str, broker: Broker, url: str) -> None:
        folder = self.out / "devices" / name
        certificate, key = broker.identity(name)
        again = "drift-play" if (folder / "drift-play").exists() else "known-play"
        files = [folder / "known-play", *[folder / again] * 50]
        listed = ", ".join(f'"{file}"' for file in files)
        (folder / "agent.toml").write_text(f"""
[device]
state = "{folder}/state"
[recognizer]
bundle = "{BUNDLE}"
language = "en"
[audio]
files = [{listed}]
speed = {self.args.speed}
[broker]
host = "127.0.0.1"
port = {broker.port}
ca = "{broker.ca}"
certificate = "{certificate}"
key = "{key}"
[sampling]
confidence_below = 0.9
random_share = 0.05
daily_segments = 5000
daily_bytes = 500_000_000
[telemetry]
interval_s = 4
[update]
url = "{url}"
root = "{self.out}/repository/metadata/1.root.json"
state = "{folder}/update"
golden = "{BUNDLE}"
assigned = true
poll_minutes = 0.2
hint_spread_s = 1.0
least_free_bytes = 0
[update.test]
least_agreement = 0.9
most_real_time_factor = 2.0
[update.probation]
utterances = 10
minutes = 0.2
confidence_drop = 0.3
most_real_time_factor = 5.0
""")

    # -- processes ---------------------------------------------------------------------------------

    def call(self, *words: object) -> None:
        """To its end; the loop ends with it if it fails."""
        log = self.out / "logs" / "setup.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            done = subprocess.run(vitconformer(*words), stdout=sink, stderr=sink, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"{words[0]} failed with {done.returncode}; see {log}")

    def start(self, name: str, *words: object) -> None:
        with (self.out / "logs" / f"{name}.log").open("ab") as sink:
            self.processes.append(
                subprocess.Popen(vitconformer(*words), stdout=sink, stderr=sink, cwd=self.out)
            )

    def stop(self) -> None:
        for process in self.processes[::-1]:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
        self.processes.clear()


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server of the standard library."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    def handler(*args: Any) -> Quiet:
        return Quiet(*args, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Story:
    """What happened, with seconds since the first drifted utterance."""

    events: list[tuple[float, str, str, str]] = field(default_factory=list)
    number: int = 0
    over: str = ""  # how it ended

    def read(self, store: Store, begun: float) -> list[str]:
        """-> what is new, as lines."""
        with store.read() as db:
            rows = journal.since(db, self.number)
        lines = []
        for row in rows:
            self.number = row.number
            at = row.at_ms / 1000 - begun
            self.events.append((round(at, 1), row.kind, row.subject, row.text))
            lines.append(f"{at:7.0f} s  {row.kind:<10} {row.subject:<16} {row.text[:150]}")
            first = row.text.split(":")[0]
            if row.kind == "rollout" and first in ("completed", "reverted"):
                self.over = first
            if row.kind == "run" and first in ("rejected", "parked", "cancelled"):
                self.over = row.text
        return lines

    def first(self, kind: str, begins: str = "") -> float | None:
        return next(
            (at for at, k, _, text in self.events if k == kind and text.startswith(begins)), None
        )


def drifted_at(world: World, begun: float) -> float:
    """When the kitchens' known voices were over: playing is paced, so it can be computed."""
    files = sorted((world.out / "devices" / "kitchen-1" / "known-play").iterdir())
    seconds = sum(float(soundfile.info(file).duration) for file in files)
    return begun + seconds / float(world.args.speed)


def word_error_rate(bundle: Path, manifest: Path) -> dict[str, Any]:
    """Greedy, at the bundle's own chunk size, as a device would run it."""
    from edge_runtime.events import Final
    from edge_runtime.metrics import ErrorCounts, word_errors
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle)
    counts = ErrorCounts()
    for utterance in read_manifest(manifest):
        samples, _ = soundfile.read(utterance.audio_filepath, dtype="float32")
        stream = recognizer.stream()
        events = (*stream.push(samples), *stream.finish())
        text = " ".join(e.text for e in events if isinstance(e, Final) and e.text)
        counts += word_errors(utterance.text, text)
    return {"wer": round(counts.rate, 4), "words": counts.reference_length}


def report(world: World, store: Store, story: Story) -> dict[str, Any]:
    """What came of it, as JSON values."""
    found: dict[str, Any] = {"scenario": world.args.scenario, "over": story.over}
    paths = sorted((world.out / "pipeline" / "runs").glob("*/run.json"))
    runs = [json.loads(path.read_text()) for path in paths]
    over = [run for run in runs if run["state"] in ("done", "rejected")]  # a second may have begun
    run = (over or runs or [{"steps": []}])[0]
    steps = {step["name"]: step for step in run["steps"]}
    found["stages_s"] = {
        "alarm": story.first("alarm"),
        "retraining began": story.first("run"),
        "published": story.first("run", "done"),
        "fleet updated": story.first("rollout", "completed"),
    }
    found["steps_s"] = {
        name: round(step["finished"] - step["started"], 1) for name, step in steps.items()
        if step["finished"]
    }  # fmt: skip
    found["steps_cpu_s"] = {name: round(step["cpu_seconds"], 1) for name, step in steps.items()}
    found["alarms"] = [text for _, kind, _, text in story.events if kind == "alarm"]
    if "select" in steps:
        folder = Path(steps["select"]["folder"])
        found["selected"] = sum(1 for _ in (folder / "train.jsonl").open())
    if "gate" in steps and (Path(steps["gate"]["folder"]) / "verdict.json").exists():
        verdict = json.loads((Path(steps["gate"]["folder"]) / "verdict.json").read_text())
        found["gate"] = {"promote": verdict["promote"], "reasons": verdict["reasons"]}
    if "calibrate" in steps and steps["calibrate"]["state"] == "done":
        bundle = Path(steps["calibrate"]["folder"]) / "bundle"
        found["wer"] = {
            name: {
                "before": word_error_rate(BUNDLE, world.set(name)),
                "after": word_error_rate(bundle, world.set(name)),
            }
            for name in ("held-out", "held-out-other", "guard", "guard-other")
            if world.set(name).exists()
        }
    with store.read() as db:
        from sqlalchemy import func, select

        from autotrain_cloud.store.schema import segments, updates

        found["segments"] = db.scalar(select(func.count()).select_from(segments))
        found["updates"] = [
            [row.device, row.state, row.target, row.error]
            for row in db.execute(select(updates).order_by(updates.c.received_ms))
            if row.state in ("committed", "failed", "rolled-back")
        ]
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("loop"), help="folder (default: loop)")
    parser.add_argument("--scenario", choices=("voice", "readers"), default="voice")
    parser.add_argument("--voice", default="flite-rms", help="of the scenario `voice`")
    parser.add_argument("--speech", type=Path, help="manifest of the scenario `readers`")
    parser.add_argument("--speed", type=float, default=5.0, help="times real time (default: 5)")
    parser.add_argument("--known", type=int, default=110, help="utterances per device before")
    parser.add_argument("--drift", type=int, default=190, help="per device of the slice")
    parser.add_argument("--replay", type=int, default=420)
    parser.add_argument("--guard-dev", type=int, default=300)
    parser.add_argument("--guard", type=int, default=250)
    parser.add_argument("--target", type=int, default=120)
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--minutes", type=float, default=12.0, help="of new speech that start it")
    parser.add_argument("--patience", type=float, default=60.0, help="minutes, then it gives up")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    configure(parser)
    args = parser.parse_args()
    if (args.scenario == "readers") != (args.speech is not None):
        parser.error("--speech goes with --scenario readers")
    args.out = args.out.resolve()
    world = World(args.out, args)
    for name in ("store.db", "pipeline", "repository", "keys", "blobs", "broker", "ledger.jsonl"):
        path = args.out / name  # of a run before; its audio is kept
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in DEVICES:
        for part in ("state", "update"):
            shutil.rmtree(args.out / "devices" / name / part, ignore_errors=True)
    (args.out / "broker").mkdir(parents=True)
    print(f"speech, in {args.out}/sets ...", flush=True)
    world.speech()
    world.call("release", "--repo", args.out / "repository", "--keys", args.out / "keys",
               "init", "en-demo")  # fmt: skip
    with Broker.start(args.out / "broker") as broker, served(args.out / "repository") as url:
        settings = world.configure(broker, url)
        store = Store.open(settings.store)
        with store.begin() as db:
            for name, slice in DEVICES.items():
                consents.grant(db, name, CONSENT, now_ms=round(time.time() * 1000))
                watch.set_slice(db, name, slice)
        try:
            world.start("ingest", "cloud", "ingest", "--config", args.out / "cloud.toml")
            world.start("learn", "cloud", "learn", "--config", args.out / "cloud.toml",
                        "--pipeline", args.out / "pipeline.toml")  # fmt: skip
            time.sleep(3)
            for name in DEVICES:
                world.start(name, "agent", "run", "--config",
                            args.out / "devices" / name / "agent.toml")  # fmt: skip
            begun = drifted_at(world, time.time())
            story = Story()
            until = begun + args.patience * 60
            while not story.over and time.time() < until:
                for line in story.read(store, begun):
                    print(line, flush=True)
                time.sleep(2)
            time.sleep(5)
        finally:
            world.stop()
        found = report(world, store, story)
        store.close()
    (args.out / "report.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))
    return 0 if story.over == "completed" else 1


if __name__ == "__main__":
    raise SystemExit(main())
