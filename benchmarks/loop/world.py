"""The fleet and its cloud as processes on this machine, and the files that configure them.

Three devices (`vitconformer agent run`) play audio faster than real time through real software: a
mosquitto with mutual TLS, `cloud ingest`, `cloud learn`, a signed repository behind a web server.
Clocks that take days in a fleet take seconds here.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from autotrain_cloud.pipeline import supervise
from autotrain_cloud.service import watch
from autotrain_cloud.settings import CloudSettings, read_cloud_settings
from autotrain_cloud.store import Store, consents
from benchmarks.loop.speech import Speech
from edge_runtime.manifest import read_manifest
from tests.broker import Broker

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "en-demo"
DEVICES = {"kitchen-1": "kitchen", "kitchen-2": "kitchen", "hall-1": "hall"}
DRIFTING = tuple(name for name, slice in DEVICES.items() if slice == "kitchen")
CONSENT = "loop-2026"
# Threads of a step would wait for each other, spinning, while devices have the other core.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_OF_A_RUN = ("store.db", "pipeline", "repository", "keys", "blobs", "broker", "logs", "devices",
             "ledger.jsonl")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast things happen, and how much is learnt from."""

    speed: float  # times real time, of what devices play
    steps: int  # of training
    minutes: float  # of new speech that start a retraining
    rounds: int  # of training, in a retraining
    replay_share: float = 0.5  # of what is trained on


@dataclass
class World:
    """Folders, settings and processes of one run. `out` is the scenario's own folder."""

    out: Path
    speech: Speech
    pace: Pace
    bundle: Path = BUNDLE  # what devices begin with; its .safetensors and .tokenizer are beside it
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def clear(self) -> None:
        """Away with what a run before left; its audio lies elsewhere."""
        for name in _OF_A_RUN:
            path = self.out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (self.out / "broker").mkdir(parents=True)
        (self.out / "logs").mkdir()

    def begin(self, broker: Broker, url: str) -> tuple[Store, float]:
        """Starts everything. -> the store, and when the kitchens drift (Unix time, s)."""
        self._playlists()
        settings = self._configure(broker, url)
        store = Store.open(settings.store)
        with store.begin() as db:
            for name, slice in DEVICES.items():
                consents.grant(db, name, CONSENT, now_ms=round(time.time() * 1000))
                watch.set_slice(db, name, slice)
        self._start("ingest", "cloud", "ingest", "--config", self.out / "cloud.toml")
        self._start("learn", "cloud", "learn", "--config", self.out / "cloud.toml",
                    "--pipeline", self.out / "pipeline.toml")  # fmt: skip
        time.sleep(3)
        begun = time.time()
        for name in DEVICES:
            config = self.out / "devices" / name / "agent.toml"
            self._start(name, "agent", "run", "--config", config)
        files = (self.out / "devices" / DRIFTING[0] / "known-play").iterdir()
        quiet_s = sum(float(soundfile.info(file).duration) for file in files)
        return store, begun + quiet_s / self.pace.speed

    def _playlists(self) -> None:
        """What each device hears: known voices, then its part of the drift, again and again."""
        for kind, names in (("known-play", tuple(DEVICES)), ("drift-play", DRIFTING)):
            files = [u.audio_filepath for u in read_manifest(self.speech.manifest(kind))]
            for number, name in enumerate(names):
                folder = self.out / "devices" / name / kind
                folder.mkdir(parents=True)
                for place, file in enumerate(files[number :: len(names)]):
                    (folder / f"{place:04}{file.suffix}").symlink_to(file)

    def _configure(self, broker: Broker, url: str) -> CloudSettings:
        """cloud.toml, pipeline.toml, gate.toml, and agent.toml of every device."""
        out, sets = self.out, self.speech.manifest
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
denoise_below_db = 18.0
[second]
name = "bundle"
model = "{self.bundle}"
[triage]
sure_confidence = 0.7
ahead_confidence = 0.5
""")
        (out / "select.toml").write_text(
            "dev_share = 0.2\nmax_device_hours = 5.0\nreplay_share = 0.0\n"
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
champion = "{self.bundle}"
checkpoint = "{self.bundle}.safetensors"
tokenizer = "{self.bundle}.tokenizer"
replay = "{sets("replay")}"
guard_dev = "{sets("guard-dev")}"
gate_target = "{sets("target")}"
gate_guard = "{sets("guard")}"
gate_noise = "{self.speech.noise}"
cloud = "{out}/cloud.toml"
label_settings = "{out}/label.toml"
select_settings = "{out}/select.toml"
gate_settings = "{out}/gate.toml"
[settings]
tolerance = 0.01
train_set = ["optim.steps={self.pace.steps}", "data.replay_share={self.pace.replay_share}"]
threads = 1
targets = "dynamic"
chunks = 500
repository = "{out}/repository"
keys = "{out}/keys"
ledger = "{out}/ledger.jsonl"
[policy]
min_new_minutes = {self.pace.minutes}
cool_down_hours = 0.0
max_runs_per_week = 2
rounds = {self.pace.rounds}
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
bundle = "{self.bundle}"
language = "en"
[audio]
files = [{listed}]
repeat = true
speed = {self.pace.speed}
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
golden = "{self.bundle}"
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

    def call(self, *words: object) -> None:
        """To its end; the loop ends with it if it fails."""
        log = self.out / "logs" / "setup.log"
        with log.open("ab") as sink:
            done = subprocess.run(vitconformer(*words), stdout=sink, stderr=sink, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"{words[0]} failed with {done.returncode}; see {log}")

    def _start(self, name: str, *words: object) -> None:
        with (self.out / "logs" / f"{name}.log").open("ab") as sink:
            self.processes.append(
                subprocess.Popen(
                    vitconformer(*words),
                    stdout=sink,
                    stderr=sink,
                    cwd=self.out,
                    env=os.environ | _ONE_THREAD,
                )
            )

    def stop(self) -> None:
        """Ends every process, those of a step too, which would go on without whoever began it."""
        for process in self.processes[::-1]:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
        self.processes.clear()
        for job in self.out.glob("pipeline/results/*/*.work/job/job.json"):
            supervise.end_all(json.loads(job.read_text())["id"])


def vitconformer(*words: object) -> list[str]:
    return [sys.executable, "-m", "edge_runtime", *map(str, words)]


@dataclass
class Served:
    """A web server of the standard library."""

    url: str
    bytes: int = 0  # sent as bodies so far


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Serves a folder on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def copyfile(self, source: Any, outputfile: Any) -> None:
            body = source.read()
            outputfile.write(body)
            found.bytes += len(body)

    def handler(*args: Any) -> Quiet:
        return Quiet(*args, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        found = Served(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
