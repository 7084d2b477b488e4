"""Everything is killed, again and again: how many segments are lost, how many stored twice?

A device (`device` below: the agent's own outbox and MQTT, segments of 300 bytes in place of a
recogniser) puts segments until there are enough, and writes down each that the outbox took. Broker
(mosquitto with the project's configuration), ingest (`vitconformer cloud ingest` over SQLite) and
device are killed with -9 at random moments and started again; now and then the broker has forgotten
everything. When all is quiet, what was written down is looked up in the store.

lost: written down, and not in the store. twice: more than one row for an id. unknown: in the store
and never put. All three must be 0.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for the broker of the tests

from sqlalchemy import func, select  # noqa: E402

from autotrain_cloud.store import schema  # noqa: E402
from benchmarks import measure  # noqa: E402
from benchmarks.chaos import PARTS, Intake, shown  # noqa: E402
from benchmarks.measure import Table  # noqa: E402
from edge_runtime.agent.clock import now_ms  # noqa: E402
from edge_runtime.agent.config import BrokerSettings  # noqa: E402
from edge_runtime.agent.mqtt import Link  # noqa: E402
from edge_runtime.agent.outbox import Item, Outbox  # noqa: E402
from edge_runtime.agent.problems import Problems  # noqa: E402
from edge_runtime.agent.state import next_session  # noqa: E402
from edge_runtime.contract.codec import encode  # noqa: E402
from edge_runtime.contract.messages import Birth, Segment  # noqa: E402
from edge_runtime.contract.records import Model, new_id  # noqa: E402
from tests.broker import Broker  # noqa: E402

DEVICE = "soak-1"
AHEAD = 300  # segments in the outbox, at most: so that all of the run is under fire
MODEL = Model(
    name="none", version="1", release_counter=1, manifest_sha256=bytes(32), precision="float32"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--segments", type=int, default=10_000, metavar="N", help="default: 10000")
    parser.add_argument("--seed", type=int, default=1, help="of the kills (default: 1)")
    parser.add_argument(
        "--pause", type=float, default=8.0, metavar="S", help="between kills, mean (default: 8)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(args.seed)
    kills: Counter[str] = Counter()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Intake(Path(name)) as intake:
        device = Device(Path(name), intake.broker, args.segments)
        device.start()
        while not device.finished():
            time.sleep(rng.expovariate(1 / args.pause))
            victim = rng.choice((*PARTS, "device"))
            if device.finished():
                break
            kills[victim] += 1
            if victim == "device":
                device.kill()
                time.sleep(rng.uniform(0, 1))
                device.start()
            else:
                intake.kill(victim, rng, away_s=2)
            measure.say(f"{device.written():6} segments, kills {shown(kills)}")
        seconds = time.monotonic() - begin
        return {
            **_judged(Path(name), intake),
            "kills": dict(kills),
            "seconds": round(seconds, 1),
        }


def _judged(folder: Path, intake: Intake) -> dict[str, Any]:
    written = (folder / "written").read_text("ascii").split("\n")
    ids = {line for line in written if len(line) == 32}  # a kill may cut the last line
    with intake.store.read() as db:
        rows = list(db.scalars(select(schema.segments.c.id)))
        letters = db.scalar(select(func.count()).select_from(schema.dead_letters))
    with Outbox.open(folder / "state", quota_bytes=1 << 30) as outbox:
        waiting = outbox.stats().queued
        put = {id for id in rows if outbox.fate(id) is not None}
    return {
        # Put and not written down, because the kill came in between, is not unknown.
        **intake.counts(ids | put),
        "segments": len(ids),
        "rows": len(rows),
        "still_waiting": waiting,
        "dead_letters": letters,
    }


class Device:
    """The process below."""

    def __init__(self, folder: Path, broker: Broker, total: int) -> None:
        certificate, key = broker.identity(DEVICE)
        arguments = (folder, broker.port, broker.ca, certificate, key, total)
        self._command = [sys.executable, __file__, "--device", *map(str, arguments)]
        self._written = folder / "written"
        self._log = folder / "device.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def finished(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        if code not in (None, 0):
            raise SystemExit(f"the device ended with {code}: {self._log.read_text()[-2000:]}")
        return code == 0

    def written(self) -> int:
        return self._written.stat().st_size // 33 if self._written.exists() else 0


def device(folder: Path, port: int, ca: Path, certificate: Path, key: Path, total: int) -> None:
    """Puts segments until `total` are written down, and ends when the outbox is empty."""
    state = folder / "state"
    with Outbox.open(state, quota_bytes=1 << 30) as outbox:
        session = next_session(state)
        link = Link(
            BrokerSettings(host="127.0.0.1", port=port, ca=ca, certificate=certificate, key=key),
            device=DEVICE,
            session=session,
            outbox=lambda: outbox,
            birth=lambda: Birth(
                session=session, connected_ms=now_ms(), clock_is_set=True, agent="soak", model=None
            ),
            hand_on=lambda message: None,
            problems=Problems(),
        )
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        link.start()
        written = os.open(folder / "written", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        count = os.fstat(written).st_size // 33
        os.write(written, b"\n")  # after a line that a kill cut off
        sequence = 0
        while not stop.is_set():
            waiting = outbox.stats().queued
            if count < total and waiting < AHEAD:
                for _ in range(20):
                    item = _item(session, sequence)
                    if outbox.put(item, now_ms=now_ms()) == "kept":
                        os.write(written, item.id.encode() + b"\n")
                        count += 1
                    sequence += 1
                link.wake()
            elif count >= total and not waiting:
                break
            else:
                stop.wait(0.05)
        link.stop()
        os.close(written)


def _item(session: int, sequence: int) -> Item:
    audio = secrets.token_bytes(300)
    segment = Segment(
        id=new_id(now_ms(), secrets.token_bytes(10)),
        session=session,
        sequence=sequence,
        captured_ms=now_ms(),
        clock_is_set=True,
        duration_s=0.01,
        sample_rate=16_000,
        codec="pcm16",
        audio=audio,
        audio_sha256=hashlib.sha256(audio).digest(),
        model=MODEL,
        text="",
        words=(),
        confidence=0.5,
        deletion_score=0.0,
        reasons=("unsure",),
        inclusion_probability=1.0,
        random_probability=0.01,
        consent="c-1",
    )
    return Item(
        id=segment.id,
        consent="c-1",
        value=0.5,
        inclusion_probability=1.0,
        expires_ms=now_ms() + 86_400_000,
        payload=encode(segment),
    )


def table(results: dict[str, Any]) -> Table:
    return [
        ["segments", "kills", "lost", "twice", "unknown", "seconds"],
        [
            str(results["segments"]),
            shown(results["kills"]),
            *(str(results[name]) for name in ("lost", "twice", "unknown")),
            f"{results['seconds']:.0f}",
        ],
    ]


def headline(results: dict[str, Any]) -> str:
    return f"soak: {results['lost']} lost, {results['twice']} twice of {results['segments']}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--device"]:
        place, number, *files, wanted = sys.argv[2:]
        device(Path(place), int(number), *map(Path, files), int(wanted))
    else:
        sys.exit(measure.main(sys.modules[__name__]))
