"""What the store does not have any more goes from the pipeline's folder too.

A run copies what it learns from: audio, labels, data sets, features. `gather` names the copies of
audio by their segments, so its folders tell what a run is made of, and the command line that every
result keeps tells which other results it was made from. A result with something in it that was
erased, or has outlived its retention, is deleted whole, with all that was made of it; it can be
made again. Of runs that are done, models and verdicts stay (`Step.outlives`): which models these
are is the lineage's answer. A run that is under way is stopped for an erasure, and begins anew
without what was erased when its copies are gone; for what is only too old it is left in peace.

Doing it again does what is left, wherever it was cut off: what was made from a result goes before
the result, and the folder of `gather` last.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from autotrain_cloud.pipeline import steps
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.pipeline.record import OPEN, Run, alone
from autotrain_cloud.service.remember import remember_run
from autotrain_cloud.store import Store
from autotrain_cloud.store.schema import erasures, segments, tombstones
from autotrain_cloud.store.segments import slices
from edge_runtime.errors import StorageError

HOUR_MS = 3_600_000
WHO = "an erase request"
_KEY = re.compile(r"[0-9a-f]{32}")
_ORDER = {step.name: number for number, step in enumerate(steps.STEPS)}
_OUTLIVES = {step.name for step in steps.STEPS if step.outlives}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was done, and what must wait."""

    results: int  # folders deleted
    stopping: tuple[str, ...]  # runs that still have copies, and are about to stop
    begun_anew: tuple[str, ...]  # runs


@dataclass(frozen=True, slots=True)
class _Result:
    """A folder of a step, finished or not."""

    path: Path
    key: str
    needs: frozenset[str]  # keys of what it was made from

    @property
    def step(self) -> str:
        return self.path.parent.name


def forget(store: Store, controller: Controller, *, now_ms: int) -> Forgotten:
    """Raises StorageError where database or disk do not answer, ConfigError for a damaged run."""
    with alone(controller.settings.folder / "forget"):
        return _forget(store, controller, now_ms)


def _forget(store: Store, controller: Controller, now_ms: int) -> Forgotten:
    folder = controller.settings.folder / "results"
    for half in folder.glob("*/*.gone"):
        _delete(half)
    results = list(_results(folder))
    gone, erased = _missing(store, results)
    touched, urgent = _made_from(gone, results), _made_from(erased, results)
    runs = [controller.runs.read(id) for id in controller.runs.ids()]
    stopping = [run for run in runs if run.state in OPEN and _keys(run) & urgent]
    for run in stopping:
        if not controller.runs.is_cancelled(run.id):
            controller.cancel(run.id, by=WHO, again=True)
    kept: set[tuple[str, str]] = set()
    for run in runs:
        if run.state in OPEN:
            kept |= {(step.name, step.key) for step in run.steps}
        elif run.state == "done" and _keys(run) & touched:
            kept |= {(step.name, step.key) for step in run.steps if step.name in _OUTLIVES}
            with store.begin() as db:  # the lineage, before what it is read from is gone
                remember_run(db, run, now_ms=now_ms)
    doomed = [one for one in results if one.key in touched and (one.step, one.key) not in kept]
    for one in sorted(doomed, key=lambda one: _ORDER.get(one.step, 0), reverse=True):
        aside = one.path.with_name(f"{one.path.name}.gone")
        try:
            one.path.rename(aside)
        except OSError as error:
            raise StorageError(f"{one.path}: cannot be deleted: {error.strerror}") from error
        _delete(aside)
    again = [
        run.id for run in runs
        if run.state == "cancelled" and controller.runs.is_to_begin_again(run.id)
    ]  # fmt: skip
    for id in again:
        controller.resume(id)
    return Forgotten(
        results=len(doomed), stopping=tuple(r.id for r in stopping), begun_anew=tuple(again)
    )


class Forgetting:
    """`forget`, whenever there is reason to: a part of a service."""

    def __init__(self, store: Store, controller: Controller) -> None:
        self._store, self._controller = store, controller
        self._done: object = None  # the erase requests that were seen to
        self._next_ms = 0

    def step(self, now_ms: int) -> None:
        """Raises what `forget` does, and then goes on the next time."""
        with self._store.read() as db:
            asked = db.execute(select(func.max(erasures.c.id), func.count(erasures.c.id))).one()
        if tuple(asked) == self._done and now_ms < self._next_ms:
            return
        found = forget(self._store, self._controller, now_ms=now_ms)
        if not found.stopping:
            self._done, self._next_ms = tuple(asked), now_ms + HOUR_MS


# --- inside ---------------------------------------------------------------------------------------


def _results(folder: Path) -> Iterator[_Result]:
    for path in sorted(folder.glob("*/*")):
        key = path.name.removesuffix(".work")
        if path.is_dir() and _KEY.fullmatch(key):
            try:
                about = (path / "job" / "job.json").read_text("utf-8")
            except FileNotFoundError:  # nothing was started in it yet
                about = ""
            yield _Result(path, key, frozenset(_KEY.findall(about)) - {key})


def _missing(store: Store, results: list[_Result]) -> tuple[set[str], set[str]]:
    """Keys of gathered results with segments that the store has not; that were erased."""
    held = {
        one.key: {_segment_of(path) for path in (one.path / "audio").glob("*")}
        for one in results
        if one.step == "gather"
    }
    every = set().union(*held.values())
    there: set[str] = set()
    dead: set[str] = set()
    with store.read() as db:
        for some in slices(every):
            there |= set(db.scalars(select(segments.c.id).where(segments.c.id.in_(some))))
            graves = (tombstones.c.kind == "segment") & tombstones.c.key.in_(some)
            dead |= set(db.scalars(select(tombstones.c.key).where(graves)))
    return (
        {key for key, ids in held.items() if ids - there},
        {key for key, ids in held.items() if ids & dead},
    )


def _segment_of(audio: Path) -> str:
    """Also of a file that was being written when its process was killed: `.ID.ogg.PID.tmp`."""
    return audio.name.removeprefix(".").partition(".")[0]


def _made_from(keys: set[str], results: list[_Result]) -> set[str]:
    """These and all that were made from them."""
    found = set(keys)
    while more := {one.key for one in results if one.needs & found} - found:
        found |= more
    return found


def _keys(run: Run) -> set[str]:
    return {step.key for step in run.steps}


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be deleted: {error.strerror}") from error
