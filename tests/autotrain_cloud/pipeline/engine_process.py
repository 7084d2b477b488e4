"""A process that carries workflows, to be killed: engine_process KIND FOLDER EXECUTOR."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from autotrain_cloud.pipeline.workflows import Context, Engine, Json, open_engine

LEASE_S = 2.0


def workflow(context: Context, argument: Json) -> Json:
    """Says what it does in FOLDER/ID, a line for each."""
    path = Path(argument["file"])
    if argument.get("fails"):
        raise RuntimeError("as it was told")

    def note(text: str) -> str:
        with path.open("a") as file:
            file.write(f"{text}\n")
        return text

    def slow() -> float:
        note("slow")
        while not path.with_suffix(".go").exists():
            time.sleep(0.05)
        return time.time()

    context.step(note, "first")
    at = context.step(slow)
    context.sleep(0.5)
    slept = context.step(lambda: time.time() - at >= 0.5)
    message = context.wait("topic", 60.0)
    nothing = context.wait("topic", 0.2)
    context.step(note, f"{slept} {message} {nothing}")
    return None


def engine(kind: str, folder: Path, executor: str) -> Engine:
    found = open_engine(
        kind, workflow, url=f"sqlite:///{folder}/{kind}.db", executor=executor, concurrency=4,
        folder=folder,
    )  # fmt: skip
    found._lease_s = LEASE_S  # type: ignore[attr-defined]
    return found


if __name__ == "__main__":
    carrier = engine(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    carrier.work()
    while True:
        carrier.adopt()
        threading.Event().wait(0.2)
