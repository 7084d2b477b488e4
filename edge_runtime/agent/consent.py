"""Under which consent the device records: what the cloud said last, or a file on the device.

A consent file is TOML with the fields of the message; times may be dates with a time zone:

    id = "reception-desk-2026"
    from = 2026-01-01T00:00:00Z
    purposes = ["training", "monitoring"]

It is there as long as the consent is. Where one is configured it decides, and what the cloud says
can only narrow it: a withdrawal with its id ends it.
"""

from __future__ import annotations

import datetime
import threading
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.state import load_consent, save_consent
from edge_runtime.contract.messages import Consent
from edge_runtime.errors import ConfigError, ContractError
from edge_runtime.settings import build, read_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A consent file."""

    id: str
    version: int = 1
    purposes: tuple[str, ...] = ("training", "monitoring")
    retention_days: int = 14


def read_consent(path: Path) -> Consent | None:
    """The consent in a file, None where there is no file. Raises ConfigError naming the key."""
    if not path.exists():
        return None
    fields = read_toml(path)
    times = {name: fields.pop(name, None) for name in ("from", "until")}
    moments: dict[str, int | None] = {}
    for name, value in times.items():
        if value is not None and (not isinstance(value, datetime.datetime) or not value.tzinfo):
            raise ConfigError(
                f"{path}: {name}: {value} (expected a time such as 2026-01-31T08:00Z)"
            )
        moments[name] = None if value is None else round(value.timestamp() * 1000)
    given = build(_Given, fields, str(path))
    try:
        return Consent(
            id=given.id,
            version=given.version,
            granted=True,
            from_ms=moments["from"] or 0,
            until_ms=moments["until"],
            purposes=given.purposes,
            retention_days=given.retention_days,
        )
    except ContractError as error:
        raise ConfigError(f"{path}: {error}") from error


class Consents:
    """The consent in force. Any thread may ask."""

    def __init__(self, state: Path, file: Path | None) -> None:
        self._state = state
        self._file = file
        self._lock = threading.Lock()
        self._said = load_consent(state)  # by the cloud
        self._given: Consent | None = None  # on the device
        self._stamp: tuple[int, int] | None = None
        self.is_unreadable = False  # the file: a slip of the pen is no withdrawal

    def refresh(self) -> None:
        """Looks at the file again. Raises ConfigError; until it is right there is no consent."""
        if self._file is None:
            return
        try:
            info = self._file.stat()
            stamp = (info.st_mtime_ns, info.st_size)
        except OSError:
            stamp = None
        if stamp is not None and stamp == self._stamp:
            return
        with self._lock:
            self._given, self._stamp, self.is_unreadable = None, None, True
        given = read_consent(self._file)
        with self._lock:
            self._given, self._stamp, self.is_unreadable = given, stamp, False

    def hear(self, message: Consent) -> bool:
        """The cloud says so; -> whether that is news. Raises StorageError, and holds it anyway."""
        with self._lock:
            if self._said is not None and (
                message.version < self._said.version or message == self._said
            ):
                return False
            self._said = message
        save_consent(self._state, message)
        return True

    @property
    def current(self) -> Consent | None:
        """The one in force, perhaps withdrawn."""
        with self._lock:
            if self._file is None:
                return self._said
            given, said = self._given, self._said
        if given is not None and said is not None and not said.granted and said.id == given.id:
            return said
        return given
