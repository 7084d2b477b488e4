"""One-time tokens for enrolment: SQLite, and of each token its digest only.

A token is for one device, or for any one device whose name begins with a prefix, and until a time.
The first key that is used with it uses it up. That key may come again before the token ends, and
gets the certificate it got: an answer that was lost on the way was not in vain.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edge_runtime.contract.topics import check_device
from edge_runtime.errors import ConfigError, ContractError, StorageError


class TokenRefused(Exception):
    """Says why, as far as whoever asks may know."""


class Tokens:
    """The tokens in a file; made on first use."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self, name: str, now: float, *, valid_s: float, prefix: bool = False) -> str:
        """A new secret. Raises ConfigError for a name that no device may have."""
        try:
            check_device(name)
        except ContractError as error:
            raise ConfigError(str(error)) from error
        secret = secrets.token_urlsafe(32)
        with self._database() as database:
            database.execute("DELETE FROM token WHERE expires < ?", (now - 30 * 86400,))
            database.execute(
                "INSERT INTO token (digest, name, prefix, expires) VALUES (?, ?, ?, ?)",
                (_digest(secret), name, prefix, now + valid_s),
            )
        return secret

    def use(
        self, secret: str, device: str, key: bytes, now: float, sign: Callable[[bool], bytes]
    ) -> bytes:
        """The certificate that `sign` makes, or made for this key before; raises TokenRefused.

        `sign` is told whether the token names the device itself, not a prefix of its name.
        """
        with self._database() as database:
            found = database.execute(
                "SELECT name, prefix, expires, key, certificate FROM token WHERE digest = ?",
                (_digest(secret),),
            ).fetchone()
            if found is None:
                raise TokenRefused("the token is unknown")
            name, prefix, expires, used_by, certificate = found
            if now >= expires:
                raise TokenRefused("the token has expired")
            if not (device.startswith(name) if prefix else device == name):
                raise TokenRefused("the token is for another device")
            if used_by is not None:
                if used_by != device.encode() + b"\0" + key:
                    raise TokenRefused("the token was used already")
                return bytes(certificate)
            made = sign(not prefix)
            database.execute(
                "UPDATE token SET key = ?, certificate = ? WHERE digest = ?",
                (device.encode() + b"\0" + key, made, _digest(secret)),
            )
            return made

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone."""
        try:
            self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=20, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS token (digest BLOB PRIMARY KEY, name TEXT NOT NULL,"
                    " prefix INTEGER NOT NULL, expires REAL NOT NULL, key BLOB, certificate BLOB)"
                )
                yield database
                database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{self._path}: {error}") from error


def _digest(secret: str) -> bytes:
    """No salt, no stretching: a secret has 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()
