"""Nothing is lost and nothing is kept twice while broker and ingest are killed at random.

Three devices send segments to a broker with the project's configuration and have each answered;
they send again what has no receipt after five seconds. Meanwhile, every few seconds, either the
ingest (SIGKILL, which ends its process with the store too) or the broker (SIGKILL, half of the
times with everything it had saved deleted) is killed and started again. At every receipt the store
is asked whether the segment is there: early receipts are those where it is not. In the end all
segments and their audio are read: `lost` are sent and not there, `twice` are rows beyond the first
of an id, `unknown` were never sent.
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
    from benchmarks.chaos import Intake
    from tests.autotrain_cloud.fleet import segment

    rng = random.Random(args.seed)
    each = -(-args.segments // DEVICES)
    early: list[str] = []
    finished: list[int] = []
    over = threading.Event()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name, Intake(Path(name)) as intake:

        def kill() -> None:
            while not over.wait(rng.uniform(1.5, 5)):
                intake.kill("broker" if rng.random() < 0.35 else "ingest", rng)

        def check(id: str) -> None:
            if not intake.has(id):
                early.append(id)

        def send(device: int) -> None:
            numbers = range(device * each, (device + 1) * each)
            with intake.device(f"soak-{device}") as sender:
                sender.deliver((segment(n, size=SIZE) for n in numbers), check)
            finished.append(device)

        senders = [threading.Thread(target=send, args=(n,)) for n in range(DEVICES)]
        killer = threading.Thread(target=kill)
        for thread in (*senders, killer):
            thread.start()
        for thread in senders:
            thread.join()
        over.set()
        killer.join()
        return {
            **intake.counts([segment(n, size=1).id for n in range(each * DEVICES)]),
            "devices_finished": len(finished),
            "receipts_before_commit": len(early),
            "kills": dict(intake.kills),
            "seconds": time.monotonic() - start,
        }


def table(results: dict[str, Any]) -> Table:
    kills = results["kills"]
    counted = ("sent", "lost", "twice", "unknown", "receipts_before_commit")
    return [
        ["segments", "lost", "twice", "unknown", "early receipts", "kills of ingest",
         "of the broker", "time"],
        [
            *(str(results[name]) for name in counted),
            str(kills.get("ingest", 0)), str(kills.get("broker", 0)),
            f"{results['seconds']:.0f} s",
        ],
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
