"""A real PostgreSQL from Debian's package, with a socket in a temporary folder, for tests.

with Postgres.start(folder) as postgres:
    url = postgres.new_store()
    postgres.stop("immediate")        # as a crash
    postgres.go()

It refuses to run as root, so there it runs as the user `postgres`.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import NullPool, create_engine, text

BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]


class Postgres:
    """Made by `start`."""

    def __init__(self, folder: Path, shared_buffers: str) -> None:
        self._folder = folder
        self._shared_buffers = shared_buffers
        self._numbers = itertools.count(1)
        self._become: Callable[[], None] | None = None
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)

            def become() -> None:
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)

            self._become = become

    @classmethod
    def start(cls, *, shared_buffers: str = "32MB") -> Postgres:
        """In a folder of its own: paths of Unix sockets must be short, and open to its user."""
        assert BIN, "Debian: apt install postgresql"
        postgres = cls(Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")), shared_buffers)
        postgres._run(
            "initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale",
            "--pgdata", str(postgres._folder / "data"),
        )  # fmt: skip
        postgres.go()
        return postgres

    def go(self) -> None:
        """fsync is on, as it is by default."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder}"
        options += f" -c shared_buffers={self._shared_buffers} -c max_connections=40"
        log = str(self._folder / "log")
        self._ctl("start", "--wait", "--silent", "--log", log, "--options", options)

    def stop(self, mode: str = "fast") -> None:
        """`immediate`: as if its machine had lost power, but for the disk's cache."""
        self._ctl("stop", "--wait", "--silent", "--mode", mode)

    @property
    def pid(self) -> int:
        """Of the first process; the others are its children."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def new_store(self) -> str:
        """-> URL of a place without tables: a schema, which is made faster than a database."""
        name = f"store_{next(self._numbers)}"
        url = f"postgresql+psycopg://postgres@/postgres?host={self._folder}"
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as db:
            db.execute(text(f"CREATE SCHEMA {name}"))
        return f"{url}&options=-csearch_path%3D{name}"

    def close(self) -> None:
        self._ctl("stop", "--wait", "--silent", "--mode", "immediate", check=False)
        shutil.rmtree(self._folder)

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ctl(self, *arguments: str, check: bool = True) -> None:
        self._run("pg_ctl", "--pgdata", str(self._folder / "data"), *arguments, check=check)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [str(BIN[0] / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            cwd=self._folder,
            preexec_fn=self._become,
            timeout=60,
        )
        assert done.returncode == 0 or not check, done.stderr
