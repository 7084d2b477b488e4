"""The small facts that outlive the agent: its session number, the day's budget, consents."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

from edge_runtime.agent.sampling import Budget
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.messages import Consent
from edge_runtime.errors import ContractError, StorageError
from edge_runtime.files import sync_directory, write_atomically

log = logging.getLogger("edge_runtime.agent")

SESSION, BUDGET, CONSENT = "session", "budget.json", "consent.cbor"


def next_session(directory: Path) -> int:
    """A number greater than that of every start before; on the disk when this returns.

    Where the file is damaged, the seconds since 1970: more starts than that there never were.
    Raises StorageError.
    """
    path = directory / SESSION
    try:
        session = int(path.read_bytes()) + 1
    except FileNotFoundError:
        session = 1
    except (OSError, ValueError):
        log.warning("%s: is damaged: the next session is numbered by the clock", path)
        session = int(time.time())
    _write(path, str(session).encode())
    return session


def last_session(directory: Path) -> int | None:
    """The number of the last start, if there was one."""
    try:
        return int((directory / SESSION).read_bytes())
    except (OSError, ValueError):
        return None


def load_budget(directory: Path) -> Budget | None:
    """What is spent of the day; None where nobody can say any more."""
    path = directory / BUDGET
    try:
        fields: Any = json.loads(path.read_bytes())
        budget = Budget(**fields)
        kinds = [type(value) for value in dataclasses.astuple(budget)]
        if kinds != [str, int, int, int, int]:
            raise ValueError("holds other fields")
    except FileNotFoundError:
        return Budget()
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s: is damaged (%s): the budget of this day counts as spent", path, error)
        return None
    return budget


def save_budget(directory: Path, budget: Budget) -> None:
    """Raises StorageError."""
    _write(directory / BUDGET, json.dumps(dataclasses.asdict(budget)).encode())


def load_consent(directory: Path) -> Consent | None:
    """What the cloud said last. A damaged file is no consent."""
    path = directory / CONSENT
    try:
        message = decode(path.read_bytes(), allowed=(Consent,))
    except FileNotFoundError:
        return None
    except (OSError, ContractError) as error:
        log.warning("%s: is damaged (%s): nothing is kept until the cloud repeats it", path, error)
        return None
    return message if isinstance(message, Consent) else None


def save_consent(directory: Path, consent: Consent) -> None:
    """Raises StorageError."""
    _write(directory / CONSENT, encode(consent))


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content, mode=0o600)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
