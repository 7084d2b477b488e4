"""The port to whatever makes a function survive the process that runs it.

A workflow is a plain function of a context and a JSON value.  What it does to the world it does in
steps, and the result of a step is remembered before the next begins.  After a kill the function is
run again from the top, by this process or another: finished steps return what they returned, and
the first unfinished one is done again.  So a workflow decides by its argument and its steps'
results alone, and what a step does may happen twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from edge_runtime.errors import ConfigError

Json: TypeAlias = Any  # what json.dumps takes

Phase = Literal["queued", "running", "done", "failed"]


class Context(Protocol):
    """What a running workflow has of its engine."""

    def step(self, function: Callable[..., Json], *arguments: Json) -> Json:
        """The function's result; it is called unless the result is remembered."""

    def sleep(self, seconds: float) -> None:
        """Returns that long after it was first called, whatever happened meanwhile."""

    def wait(self, topic: str, seconds: float) -> Json | None:
        """The next message on a topic, or None when none has come in time."""


Workflow: TypeAlias = Callable[[Context, Json], Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where the engine is with a workflow."""

    id: str
    phase: Phase
    error: str = ""  # of a failed one: an exception that left the function


class Engine(Protocol):
    """Starts workflows, and runs them once `work` has been called."""

    def start(self, id: str, argument: Json) -> None:
        """Queues a workflow; one that is known already stays as it is."""

    def send(self, id: str, topic: str, message: Json) -> None:
        """A message for `Context.wait`."""

    def states(self) -> dict[str, State]:
        """Of every workflow, by id."""

    def work(self) -> None:
        """From now on this process runs what is queued, and what it was running when it died."""

    def adopt(self) -> int:
        """Takes over what processes were running that are gone; -> how many workflows."""

    def close(self) -> None:
        """Runs nothing more. What is running is left as if the process were killed."""


def open_engine(
    kind: str, workflow: Workflow, *, url: str, executor: str, concurrency: int, folder: Path
) -> Engine:
    """`dbos`, or the plain `sqlite`. Raises ConfigError for another, or a database that is not.

    Args:
        url: `sqlite:///file` or `postgresql://…`.
        executor: this process's own name among those that share the database; it must be the same
            whenever it starts again.
        folder: for locks.
    """
    if kind == "sqlite":
        from autotrain_cloud.pipeline.sqlite_engine import SqliteEngine

        return SqliteEngine(workflow, url=url, executor=executor, concurrency=concurrency)
    if kind == "dbos":
        from autotrain_cloud.pipeline.dbos_engine import DbosEngine

        return DbosEngine(
            workflow, url=url, executor=executor, concurrency=concurrency, folder=folder
        )
    raise ConfigError(f"engine {kind!r}: 'dbos', or 'sqlite' for one machine without DBOS")
