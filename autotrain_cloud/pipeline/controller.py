"""What starts runs and keeps them going.

controller = Controller.open(Path("pipeline.toml"))
controller.start(why="slice en/kitchen: errors rose")
with controller.at_work():
    ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotrain_cloud.pipeline import steps
from autotrain_cloud.pipeline.executor import open_executor
from autotrain_cloud.pipeline.policy import Alarm, Decision, Past, Policy, decide
from autotrain_cloud.pipeline.record import OPEN, RESUMABLE, Plan, Run, Runs, alone
from autotrain_cloud.pipeline.run import APPROVAL, Pipeline
from autotrain_cloud.pipeline.workflows import Engine, open_engine
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.settings import build, read_toml

log = logging.getLogger(__name__)

OF_A_RUN = ("slice", "since_ms", "until_ms")  # what commands can name of the run itself
TEND_S = 1.0  # between two looks at what is abandoned


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Files and folders; relative ones are meant from where the settings file is."""

    champion: Path | None = None  # the bundle devices run; later the last that was published
    checkpoint: Path | None = None  # the weights it came from
    tokenizer: Path | None = None
    replay: Path | None = None  # manifest of speech like that of the first training
    guard_dev: Path | None = None  # manifest of what must not get worse, for choosing alpha
    cloud: Path | None = None  # cloud.toml: where the store is
    label_settings: Path | None = None
    select_settings: Path | None = None
    gate_settings: Path | None = None
    gate_target: Path | None = None  # manifests: what must get better …
    gate_guard: Path | None = None  # … what must not get worse …
    gate_noise: Path | None = None  # … and what nobody speaks in


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Settings of steps, by the names that commands use."""

    recipe: str = "finetune"
    train_set: tuple[str, ...] = ()  # SECTION.FIELD=VALUE
    train_set_again: tuple[str, ...] = ("optim.lr=4e-4",)  # after these, in a second round
    threads: int = 2
    jobs: int = 2
    own_confidence: float = 0.7  # that the student's words need for its successor to learn them
    tolerance: float = 0.01
    update_step: float = 0.25  # of `export`; 0: large deltas
    confidence_limit: int = 100
    targets: str = "dynamic"
    chunks: int = 1000
    repository: Path | None = None  # of `vitconformer release`
    keys: Path | None = None
    ledger: Path | None = None  # of promotions
    mirror: str = ""  # URL of an MLflow tracking server that is to show it too


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """A settings file. `[commands]` may replace the command of any step."""

    folder: Path = Path("pipeline")  # everything that runs make
    engine: str = "dbos"
    database: str = ""  # empty: SQLite in the folder; postgresql://… for several machines
    executor: str = "local"
    executor_id: str = "controller-1"  # of this process; the same whenever it starts
    concurrency: int = 1  # runs at a time
    back_off_s: float = 5.0
    inputs: Inputs = Inputs()
    settings: Knobs = Knobs()
    policy: Policy = field(default_factory=Policy)
    commands: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> PipelineSettings:
        """Raises ConfigError, naming the file and the field."""
        fields = read_toml(path)
        commands = fields.pop("commands", {})
        if not isinstance(commands, dict) or not all(
            isinstance(value, str) for value in commands.values()
        ):
            raise ConfigError(f"{path}: commands: expected a table of command lines in quotes")
        found = dataclasses.replace(build(cls, fields, str(path)), commands=commands)
        base = path.absolute().parent
        found = dataclasses.replace(
            found,
            folder=base / found.folder,
            inputs=_below(base, found.inputs),
            settings=_below(base, found.settings),
        )
        if found.settings.mirror and found.settings.ledger is None:
            raise ConfigError(f"{path}: settings.mirror: needs settings.ledger, of which it is")
        if found.concurrency < 1 or not found.back_off_s > 0:
            raise ConfigError(f"{path}: concurrency, back_off_s: must be positive")
        names = [*_values(found.inputs), *_values(found.settings), *OF_A_RUN]
        steps.plan(found.replaced, names)
        return found

    @property
    def replaced(self) -> Mapping[str, str]:
        """Commands that stand for those of the table; empty ones leave a step out."""
        left_out = dict.fromkeys(steps.SECOND_ROUND, "") if self.policy.rounds == 1 else {}
        return {**left_out, **self.commands}


def _below(base: Path, section: Any) -> Any:
    paths = {
        name: base / value for name, value in _fields(section).items() if isinstance(value, Path)
    }
    return dataclasses.replace(section, **paths)


def _fields(section: Any) -> dict[str, Any]:
    return {one.name: getattr(section, one.name) for one in dataclasses.fields(section)}


def _values(section: Any) -> dict[str, str | tuple[str, ...]]:
    """As commands want them: text, lists of text, and nothing for what is not set."""
    return {
        name: value if isinstance(value, tuple) else "" if value is None else str(value)
        for name, value in _fields(section).items()
    }


class Controller:
    """Runs, the engine that carries them, and what people may do about them."""

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings
        self._pipeline = Pipeline(
            settings.folder, open_executor(settings.executor), back_off_s=settings.back_off_s
        )
        self.runs: Runs = self._pipeline.runs

    @functools.cached_property
    def _engine(self) -> Engine:
        """Opened when it is needed: who only reads needs no database."""
        settings = self.settings
        return open_engine(
            settings.engine,
            self._pipeline.pipeline,
            url=settings.database or f"sqlite:///{settings.folder.absolute()}/{settings.engine}.db",
            executor=settings.executor_id,
            concurrency=settings.concurrency,
            folder=settings.folder,
        )

    @classmethod
    def open(cls, path: Path) -> Controller:
        """Raises ConfigError, StorageError."""
        return cls(PipelineSettings.load(path))

    def close(self) -> None:
        if "_engine" in self.__dict__:
            self._engine.close()

    # -- what people and alarms ask for ------------------------------------------------------------

    def start(self, *, why: str, id: str = "", slice: str = "", since_ms: int = 0) -> str:
        """Asks for a run; -> its id. An id that is known already changes nothing.

        Raises ConfigError for an input that is missing, or a command that cannot be made of them.
        """
        id = id or f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"
        inputs = {name: (str(value),) for name, value in _values(self._inputs()).items() if value}
        now = time.time()
        of_run = dict(zip(OF_A_RUN, (slice, str(since_ms), str(round(now * 1000))), strict=True))
        knobs = {**_values(self.settings.settings), **of_run}
        absent = dict.fromkeys(_fields(self.settings.inputs).keys() - inputs.keys(), "")
        plan = Plan(
            id=id,
            why=why,
            code=steps.code_version(),
            commands=self.settings.replaced,
            inputs=inputs,
            settings={**knobs, **absent},
            needs_approval=self.settings.policy.approval,
            created=now,
        )
        for step in steps.plan(plan.commands, [*plan.inputs, *plan.settings]):
            for name in step.needs:
                for path in plan.inputs.get(name, ()):
                    if not Path(path).exists():
                        raise ConfigError(
                            f"inputs.{name}: {path} is not there; step {step.name} needs it"
                        )
            made = {name: f"<{name}>" for name in (steps.OUT, *(s.name for s in steps.STEPS))}
            step.argv({**plan.settings, **{k: v[0] for k, v in inputs.items()}, **made})
        self.runs.create(plan)
        self._queue(self.runs.read(id))
        return id

    def alarm(
        self,
        alarm: Alarm,
        *,
        why: str,
        new_minutes: float,
        since_ms: int = 0,
        now: float | None = None,
    ) -> tuple[Decision, str]:
        """Starts a run if the policy lets it; -> its decision, and the run's id or nothing."""
        with alone(self.settings.folder / "alarms"):  # two at once start one run
            past = [
                Past(
                    id=run.id,
                    started=run.started or run.changed,
                    ended=None if run.state in OPEN else run.changed,
                    cpu_seconds=run.cpu_seconds,
                )
                for run in map(self.runs.read, self.runs.ids())
            ]
            decision = decide(
                self.settings.policy, alarm, new_minutes=new_minutes, past=past,
                now=now or time.time(),
            )  # fmt: skip
            if decision.verdict != "start":
                return decision, ""
            part = alarm.subject if alarm.scope == "slice" else ""
            return decision, self.start(why=why, slice=part, since_ms=since_ms)

    def resume(self, id: str) -> None:
        """Goes on with a run that was parked or cancelled; what is made already is not made again.

        Raises ConfigError for a run in another state.
        """
        run = self.runs.read(id)
        if run.state not in RESUMABLE:
            raise ConfigError(f"run {id} is {run.state}; only a parked or cancelled one is resumed")
        self.runs.forget_cancel(id)
        again = dataclasses.replace(run, state="queued", attempt=run.attempt + 1, reason="")
        self.runs.write(again)
        self._queue(again)

    def approve(self, id: str, *, by: str, yes: bool = True, why: str = "") -> None:
        """Raises ConfigError for a run that waits for nobody."""
        run = self.runs.read(id)
        if run.state != "waiting":
            raise ConfigError(f"run {id} is {run.state}; it waits for no approval")
        self._tell(run, {"approve": yes, "cancel": False, "by": by, "why": why})

    def cancel(self, id: str, *, by: str, again: bool = False) -> None:
        """Stops a run, and the process of its step; `again`: somebody will resume it.

        Raises ConfigError for one that is over.
        """
        run = self.runs.read(id)
        if run.state not in OPEN:
            raise ConfigError(f"run {id} is {run.state} already")
        self.runs.ask_to_cancel(id, again=again)
        if run.state == "waiting":
            self._tell(run, {"approve": False, "cancel": True, "by": by, "why": ""})

    def _queue(self, run: Run) -> None:
        self._engine.start(f"{run.id}.{run.attempt}", {"run": run.id, "attempt": run.attempt})

    def _tell(self, run: Run, message: Mapping[str, Any]) -> None:
        self._engine.send(f"{run.id}.{run.attempt}", APPROVAL, message)

    def _inputs(self) -> Inputs:
        """Those of the settings, but for a champion that was published since."""
        try:
            crowned = json.loads((self.settings.folder / "champion.json").read_text("utf-8"))
        except FileNotFoundError:
            return self.settings.inputs
        return dataclasses.replace(
            self.settings.inputs,
            champion=Path(crowned["champion"]),
            checkpoint=Path(crowned["checkpoint"]),
        )

    # -- going through them ------------------------------------------------------------------------

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """This process runs what is queued and what was abandoned, until the end of the block."""
        stop = threading.Event()

        def tend() -> None:
            told = ""
            while not stop.wait(TEND_S):
                trouble = ""
                try:
                    self.tend()
                except Exception as error:  # a database that is down, a disk that is full
                    trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    if trouble != told:
                        log.warning("runs cannot be looked after: %s; trying again", trouble)
                        log.debug("in full", exc_info=True)
                told = trouble

        self._engine.work()
        thread = threading.Thread(target=tend, name="pipeline-tend")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def tend(self) -> None:
        """Adopts what gone processes were running, and mends what a kill left half-done."""
        self._engine.adopt()
        states = self._engine.states()
        for run in self.runs.open():
            state = states.get(f"{run.id}.{run.attempt}")
            if state is None:  # killed between writing the run down and queueing it
                self._queue(run)
            elif state.phase == "failed":
                with contextlib.suppress(StorageError):
                    self.runs.write(dataclasses.replace(run, state="parked", reason=state.error))
