"""A Ray cluster of this machine, with a token of its own, gone when the block ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autotrain_cloud.pipeline.ray_jobs import RayJobs
from edge_runtime.errors import StorageError

START_S = 120.0


@dataclass(frozen=True)
class Cluster:
    """Where it is, and what opens it."""

    url: str  # for the setting `executor`
    token: str

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    @property
    def jobs(self) -> RayJobs:
        return RayJobs(self.url.replace("ray://", "http://"), token=self.token)


@contextlib.contextmanager
def ray_cluster(cpus: int = 4) -> Iterator[Cluster]:
    """A head node with so many CPUs on paper. Raises RuntimeError if none comes."""
    # Not pytest's folder: Ray's sockets lie below it, and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    port, client_port = _free_ports(2)
    cluster = Cluster(f"ray://127.0.0.1:{port}", secrets.token_hex(32))
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
                "--node-ip-address=127.0.0.1", "--port=0", "--dashboard-host=127.0.0.1",
                f"--dashboard-port={port}", f"--ray-client-server-port={client_port}",
                "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0",
                f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={100 << 20}",
                f"--temp-dir={folder}", "--disable-usage-stats",
            ],
            stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **cluster.environment},
        )  # fmt: skip
    try:
        _wait_for(cluster, head, folder)
        yield cluster
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(cluster: Cluster, head: subprocess.Popen[bytes], folder: Path) -> None:
    """Until a job can be taken: the job server is there before the node's agent is."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            cluster.jobs.submit("begin", "true")
            return
        except StorageError as error:
            if head.poll() is not None or time.monotonic() > deadline:
                words = (folder / "log").read_text("utf-8", "replace")[-2000:]
                raise RuntimeError(f"no Ray cluster ({error}): {words}") from error
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
