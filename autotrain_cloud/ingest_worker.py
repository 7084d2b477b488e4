"""The process that has the store: it takes batches from a pipe and says what became of them.

The shell (ingest_mqtt.py) talks to the broker and recognises the usual, this process judges the
rest and talks to the database and the disk; each has a core. The packets themselves stay in memory
that both see; through the pipe goes what the shell found in them, as plain data. Every request gets
one reply, in their order. When the shell ends, however it ends, so does this process.
"""

from __future__ import annotations

import gc
import logging
import marshal
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
from typing import TYPE_CHECKING, Any, NamedTuple

from autotrain_cloud.settings import CloudSettings
from autotrain_cloud.slabs import Slabs
from autotrain_cloud.store.outbox import Outgoing
from edge_runtime.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from autotrain_cloud.ingest import Ingest, Judged, Sketch


# A packet: where its payload lies in the slabs, its topic, and its sketch, if it has one.
Placed = tuple[int, int, str, "Sketch | None"]


class Begin(NamedTuple):
    """The broker is connected. Reply: Done, with what is unfinished."""

    now_ms: int
    broker_forgot: bool


class Commit(NamedTuple):
    """Packets, and the outgoing rows that the broker has. Reply: Done or Unavailable."""

    packets: Sequence[Placed]
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

_PIPE_BYTES = 1 << 20  # that wait in the pipe, if the system allows it; a request has 200 kB


def collect_rarely() -> None:
    """Has Python look for cycles among what it has made more seldom: in thousands of messages a
    second there are none, and looking was a fifth of the time. What is there now is left out.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)


class Worker:
    """The process, from the shell's side."""

    def __init__(self, settings: CloudSettings, slabs: Slabs) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from {__name__} import main; main()",
                    str(theirs.fileno()),
                    str(slabs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), slabs.fileno()],
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
            self._pipe.send_bytes(_to_bytes(request))
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


def _to_bytes(request: Request) -> bytes:
    """Both processes run the same Python, whose own format takes a third of pickle's time."""
    fields: Any = tuple(request)
    return marshal.dumps((isinstance(request, Commit), fields))


def _from_bytes(data: bytes) -> Request:
    is_commit, fields = marshal.loads(data)
    return Commit(*fields) if is_commit else Begin(*fields)


def serve(pipe: Connection, slabs: Slabs) -> None:
    """The process, from the inside."""
    from autotrain_cloud.ingest import Ingest, judge_sketched
    from autotrain_cloud.store import Store
    from autotrain_cloud.store.secrets import secret
    from autotrain_cloud.store.upkeep import Upkeep

    try:
        settings, level = pipe.recv()
    except (EOFError, OSError):
        return
    logging.basicConfig(level=level, format="vitconformer: %(name)s: %(message)s")
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(pipe, requests), daemon=True)
    reader.start()
    store: Store | None = None
    upkeep: Upkeep | None = None
    ingest: Ingest | None = None
    try:
        while (data := requests.get()) is not None:
            request = _from_bytes(data)
            try:
                if store is None or ingest is None or upkeep is None:
                    store = store or Store.open(settings.store)
                    store.blobs.check()  # else devices would be told to send
                    ingest = Ingest(store, settings.ingest, settings.retention)
                    upkeep = Upkeep(store, settings.retention)
                    upkeep.start()
                    collect_rarely()
                reply: Reply
                if isinstance(request, Begin):
                    reply = Done(_begin(ingest, request), secret(store, "group"))
                else:
                    if request.packets:
                        upkeep.busy()
                    judged = [
                        judge_sketched(topic, slabs.memory[start:end], sketched)
                        for start, end, topic, sketched in request.packets
                    ]
                    reply = Done(_commit(ingest, request, judged))
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


def _read(pipe: Connection, requests: queue.SimpleQueue[bytes | None]) -> None:
    """Never waits for the other thread, so the shell never waits for long to be heard."""
    try:
        while True:
            requests.put(pipe.recv_bytes())
    except (EOFError, OSError):
        pass  # the shell has ended
    finally:
        requests.put(None)


def _begin(ingest: Ingest, request: Begin) -> list[Outgoing]:
    return ingest.begin(now_ms=request.now_ms, broker_forgot=request.broker_forgot)


def _commit(ingest: Ingest, request: Commit, judged: list[Judged]) -> list[Outgoing]:
    outgoing = ingest.commit_judged(judged, now_ms=request.now_ms, finished=request.finished)
    if request.claim:
        outgoing += ingest.claim(now_ms=request.now_ms)
    return outgoing


def main() -> None:
    """Of the process that `Worker` starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the shell's to handle; then the pipe ends
    pipe, memory = map(int, sys.argv[1:])
    os.set_inheritable(pipe, False)
    os.set_inheritable(memory, False)
    serve(Connection(pipe), Slabs(memory))
