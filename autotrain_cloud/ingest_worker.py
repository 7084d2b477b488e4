"""The process that has the store: it takes batches from a pipe and says what became of them.

The shell (ingest_mqtt.py) talks to the broker, this process to the database; each has a core. Every
request gets one reply, in their order. While a batch is being committed, which is mostly waiting
for the disk, the next one is judged. When the shell ends, however it ends, so does this process.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from autotrain_cloud.settings import CloudSettings
from autotrain_cloud.store.outbox import Outgoing
from edge_runtime.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from autotrain_cloud.ingest import Ingest, Judged


@dataclass(frozen=True, slots=True)
class Begin:
    """The broker is connected. Reply: Done, with what is unfinished."""

    now_ms: int
    broker_forgot: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """Packets, and the outgoing rows that the broker has. Reply: Done or Unavailable."""

    packets: Sequence[tuple[str, bytes]]
    finished: Collection[int]
    now_ms: int
    claim: bool  # whether to look for what others want published


@dataclass(frozen=True, slots=True)
class Done:
    """All of it is in the store."""

    outgoing: list[Outgoing]
    group: str = ""  # that workers with this store share, after Begin


@dataclass(frozen=True, slots=True)
class Unavailable:
    """None of it is in the store, but it can be tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It is no use: a person has to change something."""

    reason: str


Request = Begin | Commit
Reply = Done | Unavailable | Failed


class Worker:
    """The process, from the shell's side."""

    def __init__(self, settings: CloudSettings) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from {__name__} import main; main()",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._pipe = Connection(ours.detach())
        self._pipe.send((settings, logging.getLogger().level))

    def fileno(self) -> int:
        return self._pipe.fileno()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Request) -> None:
        """The reply can be read when `fileno` becomes readable. Raises EOFError."""
        try:
            self._pipe.send(request)
        except OSError as error:
            raise EOFError from error

    def reply(self) -> Reply:
        """Waits for it. Raises EOFError where the process has ended."""
        try:
            reply: Reply = self._pipe.recv()
        except OSError as error:
            raise EOFError from error
        return reply

    def close(self) -> None:
        """Lets it finish what it is at."""
        self._pipe.close()
        self._process.wait()


def serve(pipe: Connection) -> None:
    """The process, from the inside."""
    from autotrain_cloud.ingest import Ingest
    from autotrain_cloud.store import Store
    from autotrain_cloud.store.secrets import secret
    from autotrain_cloud.store.upkeep import Upkeep

    try:
        settings, level = pipe.recv()
    except (EOFError, OSError):
        return
    logging.basicConfig(level=level, format="vitconformer: %(name)s: %(message)s")
    requests: queue.SimpleQueue[tuple[Request, list[Judged]] | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(pipe, requests), daemon=True)
    reader.start()
    store: Store | None = None
    upkeep: Upkeep | None = None
    ingest: Ingest | None = None
    try:
        while (asked := requests.get()) is not None:
            request, judged = asked
            try:
                if store is None or ingest is None or upkeep is None:
                    store = store or Store.open(settings.store)
                    store.blobs.check()  # else devices would be told to send
                    ingest = Ingest(store, settings.ingest, settings.retention)
                    upkeep = Upkeep(store, settings.retention)
                    upkeep.start()
                if judged:
                    upkeep.busy()
                group = secret(store, "group") if isinstance(request, Begin) else ""
                reply: Reply = Done(_answer(ingest, request, judged), group)
            except StorageError as error:
                reply = Unavailable(str(error))
            except ConfigError as error:
                reply = Failed(str(error))
            pipe.send(reply)
    except OSError:
        pass  # the shell has ended
    finally:
        if upkeep is not None:
            upkeep.close()
        if store is not None:
            store.close()


def _read(
    pipe: Connection, requests: queue.SimpleQueue[tuple[Request, list[Judged]] | None]
) -> None:
    """Never waits for the other thread, so the shell never waits for long to be heard."""
    from autotrain_cloud.ingest import judge

    try:
        while True:
            request = pipe.recv()
            packets = request.packets if isinstance(request, Commit) else ()
            requests.put((request, [judge(topic, payload) for topic, payload in packets]))
    except (EOFError, OSError):
        pass  # the shell has ended
    finally:
        requests.put(None)


def _answer(ingest: Ingest, request: Request, judged: list[Judged]) -> list[Outgoing]:
    if isinstance(request, Begin):
        return ingest.begin(now_ms=request.now_ms, broker_forgot=request.broker_forgot)
    outgoing = ingest.commit_judged(judged, now_ms=request.now_ms, finished=request.finished)
    if request.claim:
        outgoing += ingest.claim(now_ms=request.now_ms)
    return outgoing


def main() -> None:
    """Of the process that `Worker` starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the shell's to handle; then the pipe ends
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    serve(Connection(pipe))
