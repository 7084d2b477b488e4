"""Nothing is lost and nothing is kept twice while broker and ingest are killed at random.

Three devices send segments to a broker with the project's configuration and have each answered;
they send again what has no receipt after five seconds. Meanwhile, every few seconds, either the
ingest (SIGKILL, which ends its process with the store too) or the broker (SIGKILL, half of the
times with everything it had saved deleted) is killed and started again. At every receipt the store
is asked whether the segment is there. In the end it is counted.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Table

DEVICES = 3
SIZE = 4000  # bytes of audio


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--segments", type=int, default=12_000, help="(default: 12000)")
    parser.add_argument("--seed", type=int, default=1, help="(default: 1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from sqlalchemy import func, select

    from autotrain_cloud.settings import StoreSettings
    from autotrain_cloud.store import Store, segments
    from autotrain_cloud.store.schema import blobs
    from tests.autotrain_cloud.fleet import segment
    from tests.autotrain_cloud.processes import Device, IngestProcess
    from tests.broker import Broker

    rng = random.Random(args.seed)
    kills = {"ingest": 0, "broker": 0}
    each = -(-args.segments // DEVICES)
    early: list[str] = []
    finished: list[int] = []
    over = threading.Event()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        (folder / "broker").mkdir()
        settings = StoreSettings(url=f"sqlite:///{folder}/store.db", blobs=str(folder / "blobs"))
        store = Store.open(settings)
        with (
            Broker.start(folder / "broker") as broker,
            IngestProcess(broker, settings, folder) as ingest,
        ):

            def kill() -> None:
                while not over.wait(rng.uniform(1.5, 5)):
                    if rng.random() < 0.35:
                        kills["broker"] += 1
                        broker.kill()
                        broker.restart(forget=rng.random() < 0.5)
                    else:
                        kills["ingest"] += 1
                        ingest.kill()
                        ingest.start()

            def is_there(id: str) -> None:
                with store.read() as db:
                    if segments.get(db, id) is None:
                        early.append(id)

            def send(device: int) -> None:
                numbers = range(device * each, (device + 1) * each)
                with Device(broker, f"soak-{device}", resend_s=5) as sender:
                    sender.deliver((segment(n, size=SIZE) for n in numbers), is_there)
                finished.append(device)

            senders = [threading.Thread(target=send, args=(n,)) for n in range(DEVICES)]
            killer = threading.Thread(target=kill)
            for thread in (*senders, killer):
                thread.start()
            for thread in senders:
                thread.join()
            over.set()
            killer.join()
        with store.read() as db:
            rows = segments.count(db)
            audio = db.scalar(select(func.count()).select_from(blobs)) or 0
        store.close()
    sent = each * DEVICES
    return {
        "sent": sent,
        "devices_finished": len(finished),
        "lost": max(0, sent - rows),
        "twice": max(0, rows - sent),
        "blobs": audio,
        "receipts_before_commit": len(early),
        "kills": kills,
        "seconds": time.monotonic() - start,
    }


def table(results: dict[str, Any]) -> Table:
    kills = results["kills"]
    return [
        ["segments", "lost", "twice", "early receipts", "kills of ingest", "of the broker", "time"],
        [
            str(results["sent"]),
            str(results["lost"]),
            str(results["twice"]),
            str(results["receipts_before_commit"]),
            str(kills["ingest"]),
            str(kills["broker"]),
            f"{results['seconds']:.0f} s",
        ],
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
