"""What is known of a run, in a folder for people and programs: what it is of, and how it went.

    RUNS/ID/plan.json    what was asked for; written once
    RUNS/ID/run.json     its state, and every step with inputs, result, times and CPU
    RUNS/ID/cancel       its presence asks a running step to stop

`run.json` is written by the process that goes through the run, after every change and atomically.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from autotrain_cloud.locks import locked
from autotrain_cloud.remembered import Remembered
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.files import write_atomically

RunState = Literal[
    "queued",
    "running",
    "waiting",  # for a person's approval
    "parked",  # something is wrong that will not mend itself; `resume` goes on from there
    "rejected",  # by the gate, or by a person
    "cancelled",
    "done",
]
StepState = Literal["running", "retrying", "done", "parked", "rejected", "cancelled"]
OPEN: tuple[RunState, ...] = ("queued", "running", "waiting")
RESUMABLE: tuple[RunState, ...] = ("parked", "cancelled")

KEPT = 2000  # records in memory, of some kilobytes each
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@contextlib.contextmanager
def alone(path: Path, *, unless: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """One at a time of all processes and threads; -> False, without a turn, when `unless` holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if unless():
        yield False
        return
    with locked(path.with_name(f"{path.name}.lock"), give_up=unless) as mine:
        yield mine is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is of. All of it is decided when it is asked for."""

    id: str
    why: str  # an alarm's own words, or a person's
    code: str  # `steps.code_version` of when it was asked for
    commands: Mapping[str, str]  # that replace those of the table
    inputs: Mapping[str, tuple[str, ...]]  # files and folders
    settings: Mapping[str, str | tuple[str, ...]]
    needs_approval: bool = False
    created: float = 0.0  # s since 1970

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ConfigError(f"run {self.id!r}: expected lower-case letters, digits and dashes")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """How one step went. Times are in s since 1970."""

    name: str
    state: StepState
    key: str = ""
    folder: str = ""  # of its result
    again: bool = False  # the result was there already, of this run or another
    argv: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)  # input -> digest or key
    started: float = 0.0
    finished: float = 0.0
    cpu_seconds: float = 0.0  # of every attempt whose end is known
    tries: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a run went so far."""

    id: str
    state: RunState = "queued"
    attempt: int = 1  # rises with every `resume`
    reason: str = ""
    started: float = 0.0
    changed: float = 0.0
    approved_by: str = ""
    steps: tuple[StepRecord, ...] = ()

    def step(self, name: str) -> StepRecord | None:
        return next((step for step in self.steps if step.name == name), None)

    def with_step(self, step: StepRecord) -> Run:
        """The same with one step added, or in the place of that of its name."""
        if self.step(step.name) is None:
            return replace(self, steps=(*self.steps, step))
        return replace(self, steps=tuple(step if s.name == step.name else s for s in self.steps))

    @property
    def cpu_seconds(self) -> float:
        """Of what this run itself computed."""
        return sum(step.cpu_seconds for step in self.steps if not step.again)


def _plan_of(path: Path) -> Plan:
    fields = json.loads(path.read_text("utf-8"))
    for name in ("inputs", "settings"):
        fields[name] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in fields[name].items()
        }
    return Plan(**fields)


def _run_of(path: Path) -> Run:
    fields = json.loads(path.read_text("utf-8"))
    steps = [{**step, "argv": tuple(step["argv"])} for step in fields.pop("steps")]
    return Run(steps=tuple(StepRecord(**step) for step in steps), **fields)


class Runs:
    """All runs of a folder. Threads share it; a record that has not changed is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._over: dict[str, int] = {}  # run -> when its record was last changed, ns
        self._created: dict[str, float] = {}  # run -> when it was asked for; that never changes
        self._plans = Remembered(_plan_of, most=KEPT)
        self._runs = Remembered(_run_of, most=KEPT)

    def create(self, plan: Plan) -> bool:
        """Whether the run is new. Raises StorageError."""
        path = self.folder / plan.id / "plan.json"
        if path.exists():
            return False
        self.write(Run(id=plan.id, changed=time.time()))
        self._write(path, asdict(plan))  # last: a run without it was not asked for
        return True

    def ids(self) -> list[str]:
        """In the order in which they were asked for."""
        found = []
        for id in self._folders():
            if id not in self._created:
                if not (self.folder / id / "plan.json").exists():
                    continue
                self._created[id] = self.plan(id).created
            found.append(id)
        return sorted(found, key=lambda id: (self._created[id], id))

    def open(self) -> list[Run]:
        """Those that are not over. Reads only what changed since it was last called."""
        found = []
        for path in sorted(self.folder.glob("*/run.json")):
            id, changed = path.parent.name, path.stat().st_mtime_ns
            if self._over.get(id) == changed or not (path.parent / "plan.json").exists():
                continue
            run = self.read(id)
            if run.state in OPEN:
                found.append(run)
            else:
                self._over[id] = changed
        return found

    def plan(self, id: str) -> Plan:
        """Raises ConfigError for a run that nobody asked for."""
        return self._plans.get(self._path(id, "plan.json"))

    def read(self, id: str) -> Run:
        """Raises ConfigError for a run that nobody asked for."""
        return self._runs.get(self._path(id, "run.json"))

    def write(self, run: Run) -> None:
        """Raises StorageError."""
        self._write(
            self.folder / run.id / "run.json", asdict(replace(run, changed=round(time.time(), 3)))
        )

    def ask_to_cancel(self, id: str, *, again: bool = False) -> None:
        """`again`: it is to be resumed when what it was stopped for is done."""
        self._write(self.folder / id / "cancel", {"again": again})

    def forget_cancel(self, id: str) -> None:
        (self.folder / id / "cancel").unlink(missing_ok=True)

    def is_cancelled(self, id: str) -> bool:
        return (self.folder / id / "cancel").exists()

    def is_to_begin_again(self, id: str) -> bool:
        try:
            asked = json.loads((self.folder / id / "cancel").read_text("utf-8"))
        except FileNotFoundError:
            return False
        return bool(asked.get("again"))

    def _folders(self) -> list[str]:
        try:
            return [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []

    def _path(self, id: str, name: str) -> Path:
        path = self.folder / id / name
        if not _ID.fullmatch(id) or not path.exists():
            known = ", ".join(self.ids()[-5:]) or "none"
            raise ConfigError(f"there is no run {id!r}; the newest are: {known}")
        return path

    def _write(self, path: Path, fields: Mapping[str, Any]) -> None:
        try:
            write_atomically(path, json.dumps(fields, indent=1).encode())
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
