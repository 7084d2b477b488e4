"""Engines that were built on this machine, and the proof that they were.

An engine is code: whoever can slip one in runs what he likes.  So every plan has a record beside
it, `KEY.json`, with the plan's SHA-256, the machine it was built on, and a code (HMAC) under a
secret that never leaves the store.  A plan whose record does not verify, does not match the plan or
does not match this machine is refused, and never handed to TensorRT.

    store/
      secret                 32 random bytes, mode 0600, made with the first engine
      timing-SM-VERSION      TensorRT's timing cache, kept between builds
      KEY-DIGEST.plan        the engine
      KEY.json               the record; its rename is the moment in which an engine is replaced

A crash before that rename leaves the old engine in place, after it the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.backends import TensorSpec
from edge_runtime.errors import BackendError, BundleIncompatible, BundleTampered, ConfigError
from edge_runtime.files import write_atomically
from jetson.machine import Machine

STORE_VARIABLE = "VITCONFORMER_ENGINES"
SCHEMA = 1
_REMEDY = "build it here: vitconformer engine build"
_MAX_RECORD = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a built engine."""

    model: str  # SHA-256 of the bundle's float graph
    stands_for: tuple[str, ...]  # SHA-256 of every graph of that bundle
    machine: Machine
    candidate: str  # what won: int8, fp16
    source: str  # name of the ONNX file it was built from
    source_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    created: str  # ISO 8601
    measured: Mapping[str, Any] = field(default_factory=dict)  # of every candidate
    plan: str = ""  # file name
    plan_sha256: str = ""

    @property
    def key(self) -> str:
        return key_of(self.model, self.machine)

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["machine"] = self.machine.to_json()
        fields["stands_for"] = list(self.stands_for)
        for name in ("inputs", "outputs"):
            specs = getattr(self, name)
            fields[name] = [[spec.name, spec.dtype, list(spec.shape)] for spec in specs]
        return {"schema": SCHEMA, **fields}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Record:
        """The inverse. Raises KeyError, TypeError or ValueError for anything else."""
        known = {name: fields[name] for name in cls.__slots__}
        known["machine"] = Machine(**known["machine"])
        known["stands_for"] = tuple(known["stands_for"])
        for name in ("inputs", "outputs"):
            known[name] = tuple(TensorSpec(n, d, tuple(s)) for n, d, s in known[name])
        return cls(**known)


def key_of(model: str, machine: Machine) -> str:
    """Name of the engine for a model on a machine."""
    facts = json.dumps([model, machine.to_json()], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:24]


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Store:
    """A directory of engines."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Store:
        """$VITCONFORMER_ENGINES, else the user's cache directory."""
        if named := os.environ.get(STORE_VARIABLE):
            return cls(Path(named))
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls(Path(cache).expanduser() / "vitconformer" / "engines")

    def timing_cache(self, machine: Machine) -> Path:
        return self.root / f"timing-{machine.sm}-{machine.tensorrt}"

    def save(self, record: Record, plan: bytes) -> Record:
        """Puts an engine in the place of the one before. -> the record as written."""
        self._prepare()
        digest = hashlib.sha256(plan).hexdigest()
        name = f"{record.key}-{digest[:16]}.plan"
        fields = record.to_json() | {"plan": name, "plan_sha256": digest}
        # For nobody else to write, whatever the umask is.
        write_atomically(self.root / name, plan, mode=0o600)
        sealed = {"record": fields, "hmac": _seal(fields, self._secret())}
        text = json.dumps(sealed, indent=1) + "\n"
        write_atomically(self.root / f"{record.key}.json", text.encode(), mode=0o600)
        self._sweep(record.key, keep=name)
        return Record.from_json(fields)

    def find(self, model: str, machine: Machine) -> Record:
        """The record of the engine that stands for the graph with this digest, on this machine.

        Raises BackendError if there is none, BundleTampered for one that was not written here.
        """
        others = []
        for path in sorted(self.root.glob("*.json")):
            record = self._read(path)
            if model in (record.model, *record.stands_for):
                if record.machine == machine:
                    return record
                others.append(record.machine)
        if others:
            raise BackendError(
                f"the engine in {self.root} was built for {others[0]}; this is {machine}; {_REMEDY}"
            )
        raise BackendError(f"no engine in {self.root} for the model {model[:12]}…; {_REMEDY}")

    def records(self) -> Iterator[Record | BundleTampered]:
        """All of them, and in the place of one that does not verify, why."""
        for path in sorted(self.root.glob("*.json")):
            try:
                yield self._read(path)
            except BundleTampered as error:
                yield error

    def plan(self, record: Record, machine: Machine) -> bytes:
        """The engine itself. Raises BundleTampered or BundleIncompatible; then do not run it."""
        path = self.root / record.plan
        if record.machine != machine:
            raise BundleIncompatible(
                f"was built for {record.machine}",
                file=str(path),
                expected=str(machine),
                remedy=_REMEDY,
            )
        self._check_owner(path)
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise BundleTampered(
                f"cannot be read: {error.strerror}", file=str(path), remedy=_REMEDY
            ) from error
        digest = hashlib.sha256(plan).hexdigest()
        if digest != record.plan_sha256:
            raise BundleTampered(
                f"has SHA-256 {digest[:12]}…",
                file=str(path),
                expected=f"{record.plan_sha256[:12]}… as when it was built",
                remedy=_REMEDY,
            )
        return plan

    @contextmanager
    def building(self) -> Iterator[None]:
        """One build at a time. Raises ConfigError if another process is at it."""
        self._prepare()
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"another build is running in {self.root}") from error
            yield

    def _read(self, path: Path) -> Record:
        def refuse(problem: str, expected: str | None = None) -> BundleTampered:
            return BundleTampered(problem, file=str(path), expected=expected, remedy=_REMEDY)

        self._check_owner(path)
        try:
            with path.open("rb") as source:
                sealed = json.loads(source.read(_MAX_RECORD))
            fields, code = sealed["record"], sealed["hmac"]
            if fields["schema"] != SCHEMA:
                raise refuse(f"has schema {fields['schema']!r}", str(SCHEMA))
            genuine = hmac.compare_digest(str(code), _seal(fields, self._secret(make=False)))
            if not genuine:
                raise refuse("was not written on this machine", "an engine that was built here")
            record = Record.from_json(fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise refuse(f"is not an engine's record: {error!r}") from error
        if Path(record.plan).name != record.plan:
            raise refuse("names a plan elsewhere")
        return record

    def _prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._check_owner(self.root)

    def _check_owner(self, path: Path) -> None:
        """Nobody else may have written it: root and we."""
        try:
            status = path.lstat()
        except OSError:
            return  # whoever opens it will say so
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if status.st_uid not in (0, os.geteuid()) or others or stat.S_ISLNK(status.st_mode):
            raise BundleTampered(
                "could have been written by others",
                file=str(path),
                expected="owned by the user who runs it, writable by nobody else, not a link",
                remedy=_REMEDY,
            )

    def _secret(self, *, make: bool = True) -> bytes:
        path = self.root / "secret"
        if not path.exists() and make:
            write_atomically(path, secrets.token_bytes(32), mode=0o600)
        self._check_owner(path)
        secret = path.read_bytes() if path.exists() else b""
        if len(secret) != 32:
            raise BundleTampered(
                "is not this store's secret",
                file=str(path),
                expected="32 bytes",
                remedy=f"delete {self.root} and build the engines again",
            )
        return secret

    def _sweep(self, key: str, *, keep: str) -> None:
        """Deletes what the record no longer names: older plans, and what a crash left."""
        for path in self.root.glob(f"{key}-*.plan"):
            if path.name != keep:
                path.unlink(missing_ok=True)
        for path in self.root.glob(f".{key}*.tmp"):
            path.unlink(missing_ok=True)


def _seal(fields: Mapping[str, Any], secret: bytes) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
