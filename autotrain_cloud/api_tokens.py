"""Tokens of people and programs that use the API: a name, a role, an end.

A secret is shown once, when it is made; the store has its digest only. Whoever finds the database
learns no token from it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from autotrain_cloud.store.schema import api_tokens
from edge_runtime.errors import ConfigError

ROLES = ("viewer", "operator", "admin")  # each may what those before it may
PREFIX = "vct_"  # by which scanners find tokens that were published by mistake
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


def add(db: Connection, name: str, role: str, *, now_ms: int, valid_ms: int) -> str:
    """-> the secret. Raises ConfigError for a name that is taken, even by a token that has ended:
    the journal has it.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: expected 1 to 64 letters, digits, '.', '_', '@' and '-'")
    if role not in ROLES:
        raise ConfigError(f"role: {role!r} (expected {', '.join(ROLES)})")
    if db.scalar(select(api_tokens.c.name).where(api_tokens.c.name == name)) is not None:
        raise ConfigError(f"{name}: there is a token of this name; take another name")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = {
        "name": name, "digest": _digest(secret), "role": role, "created_ms": now_ms,
        "expires_ms": now_ms + valid_ms, "revoked_ms": None,
    }  # fmt: skip
    db.execute(insert(api_tokens), row)
    return secret


def find(db: Connection, secret: str, *, now_ms: int) -> Caller | None:
    """Whose token it is; None: nobody's, or not any more."""
    digest = _digest(secret)
    row = db.execute(select(api_tokens).where(api_tokens.c.digest == digest)).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    if row.revoked_ms is not None or now_ms >= row.expires_ms or row.role not in ROLES:
        return None
    return Caller(row.name, row.role)


def revoke(db: Connection, name: str, *, now_ms: int) -> None:
    """Ends it now. Raises ConfigError for a name that nobody has."""
    mine = (api_tokens.c.name == name) & api_tokens.c.revoked_ms.is_(None)
    if not db.execute(update(api_tokens).where(mine).values(revoked_ms=now_ms)).rowcount:
        raise ConfigError(f"{name}: there is no such token that is still valid")


def all_tokens(db: Connection) -> Sequence[Row[Any]]:
    """The newest first, without what could be guessed from."""
    columns = [column for column in api_tokens.c if column.name != "digest"]
    return db.execute(select(*columns).order_by(api_tokens.c.created_ms.desc())).all()


def _digest(secret: str) -> str:
    """No salt, no stretching: a secret has 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
