"""From alarms to runs of the pipeline, and from what they published to a rollout.

The pipeline keeps its own record (`autotrain_cloud.pipeline.record`); here is only what ties it to
alarms, rollouts and the store's lineage. Every step begins by comparing the two, so it does not
matter where the one before was cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, func, select, update

from autotrain_cloud.pipeline import promotions
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.pipeline.policy import Alarm as Cause
from autotrain_cloud.pipeline.policy import Decision
from autotrain_cloud.pipeline.record import OPEN, Run
from autotrain_cloud.rollout.plan import Plan, Release
from autotrain_cloud.service import journal
from autotrain_cloud.service.remember import remember_run
from autotrain_cloud.service.roll import Rolling
from autotrain_cloud.service.watch import open_alarms, slices_of
from autotrain_cloud.settings import RolloutSettings
from autotrain_cloud.store import Store
from autotrain_cloud.store.schema import alarms, monitor, segments
from autotrain_cloud.store.sql import upsert
from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.errors import ConfigError

AUTHOR = "pipeline"
MINUTE_MS = 60_000


class Learn:
    """See the module. One process at a time."""

    def __init__(
        self, store: Store, controller: Controller, rolling: Rolling, settings: RolloutSettings
    ) -> None:
        self._store = store
        self._controller = controller
        self._rolling = rolling
        self._settings = settings
        self._seen: set[str] = set()  # every run there is
        self._following: set[str] = set()  # those whose end was not told yet
        self._told: dict[str, str] = {}  # run or alarm -> what was said of it last
        with store.read() as db:
            for row in db.execute(select(monitor).where(monitor.c.key.like("told/%"))):
                self._told[row.key.removeprefix("told/")] = row.state

    def answer_alarms(self, now_ms: int) -> None:
        """Starts a run for an alarm that asks for one, as soon as the policy lets it.

        Raises what the pipeline's files or the store do, and then goes on the next time.
        """
        with self._store.read() as db:
            asking = [alarm for alarm in open_alarms(db) if alarm.may_retrain]
            answered = dict(db.execute(select(alarms.c.id, alarms.c.run)).all())
            fresh = {a.id: _new_minutes(db, a.name, a.change_ms) for a in asking}
        rollouts = self._rolling.under_way()
        for alarm in asking:
            if answered[alarm.id]:
                continue
            cause = Cause(
                scope="slice" if alarm.level == "slice" else "fleet", subject=alarm.name or "fleet"
            )
            run = ""
            if rollouts:  # the model that the alarm is about is on its way out
                decision = Decision(verdict="later", reason=f"rollout {rollouts[0]} is not over")
            else:
                decision, run = self._controller.alarm(
                    cause,
                    why=alarm.text, new_minutes=fresh[alarm.id], since_ms=alarm.change_ms,
                    now=now_ms / 1000,
                )  # fmt: skip
            if run:
                with self._store.begin() as db:
                    db.execute(update(alarms).where(alarms.c.id == alarm.id).values(run=run))
            about = f"{decision.verdict}: {decision.reason}"
            # How many minutes there are so far changes all the time, and is not news.
            kind = decision.verdict + decision.reason.split("minutes")[-1]
            if self._told.get(f"alarm/{alarm.id}") != kind:
                subject = alarm.name or "fleet"
                self._tell(f"alarm/{alarm.id}", "retraining", subject, about, now_ms, kind)

    def follow_runs(self, now_ms: int) -> None:
        """Tells what became of runs, and hands over what they published.

        Raises what a run's files or the store do, and then goes on the next time.
        """
        runs = self._controller.runs
        known = set(runs.ids())  # a short one may have begun and ended since the last time
        self._following |= known - self._seen | {run.id for run in runs.open()}
        self._seen = known
        for id in sorted(self._following):
            run = runs.read(id)
            about = f"{run.state}: {run.reason}" if run.reason else run.state
            step = run.steps[-1] if run.steps and run.state == "running" else None
            if step is not None:
                about = f"running {step.name}"
            if self._told.get(f"run/{id}") != about:
                if run.state == "done":
                    self._hand_over(run, now_ms)
                self._tell(f"run/{id}", "run", id, about, now_ms)
            if run.state not in OPEN:
                self._following.discard(id)

    # -- inside ------------------------------------------------------------------------------------

    def _hand_over(self, run: Run, now_ms: int) -> None:
        """What was published goes to the devices; what it was made of is kept."""
        made = run.step("calibrate")
        if made is None or run.step("publish") is None:
            return
        plan = self._controller.runs.plan(run.id)
        bundle, previous = Path(made.folder) / "bundle", Path(plan.inputs["champion"][0])
        with self._store.begin() as db:
            remember_run(db, run, now_ms=now_ms)
        settings = self._settings
        try:
            self._rolling.begin(
                Plan(
                    id=run.id,
                    release=_release(bundle),
                    previous=_release(previous),
                    author=AUTHOR,
                    approvals=settings.approvals,
                    shares=settings.shares,
                    soak_ms=round(settings.soak_minutes * MINUTE_MS),
                    holdback=settings.holdback,
                    devices_per_minute=settings.devices_per_minute,
                    timeout_ms=round(settings.timeout_minutes * MINUTE_MS),
                    least_looks=settings.least_looks,
                ),
                bundle=bundle,
                previous=previous,
                now_ms=now_ms,
            )
        except ConfigError as error:
            with self._store.begin() as db:
                journal.note(db, "rollout", run.id, f"cannot begin: {error}", now_ms=now_ms)

    def _tell(
        self, key: str, kind: str, subject: str, text: str, now_ms: int, remember: str = ""
    ) -> None:
        """Says something once, whatever happens in between."""
        with self._store.begin() as db:
            journal.note(db, kind, subject, text, now_ms=now_ms)
            statement = upsert(db, monitor)
            db.execute(
                statement.on_conflict_do_update(
                    index_elements=["key"], set_={"state": statement.excluded.state}
                ),
                {"key": f"told/{key}", "state": remember or text},
            )
        self._told[key] = remember or text


def republisher(
    publish: Callable[[Bundle], None], folder: Path, ledger: Path | None = None
) -> Callable[[Path, Release], Release]:
    """Publishes a bundle of before again, one above the release it is to replace.

    `publish` must do nothing for a bundle that is the release already. `ledger`: of promotions.
    """

    def again(bundle: Path, above: Release) -> Release:
        before = Bundle.open(bundle)
        counter = above.counter + 1
        target = folder / f"{before.manifest.name}-{counter}"
        if not target.exists():
            manifest = dataclasses.replace(before.manifest, release_counter=counter, files={})
            files: dict[str, Path | bytes] = {
                name: before.file(name) for name in before.manifest.files
            }
            write_bundle(target, manifest, files)
        publish(Bundle.open(target))
        if ledger is not None:
            reason = f"release {above.counter} was taken back"
            body = {"release_counter": counter, "version": before.manifest.version}
            promotions.enter(ledger, "rollback", "the rollout", {**body, "reason": reason})
        return Release(version=before.manifest.version, counter=counter)

    return again


def _release(bundle: Path) -> Release:
    manifest = Bundle.open(bundle).manifest
    return Release(version=manifest.version, counter=manifest.release_counter)


def _new_minutes(db: Connection, slice: str, since_ms: int) -> float:
    """Of speech that arrived from a slice's devices since its change; of all without a slice."""
    heard = select(segments.c.device, func.sum(segments.c.duration_s)).where(
        segments.c.received_ms >= since_ms
    )
    seconds = dict(db.execute(heard.group_by(segments.c.device)).all())
    belongs = slices_of(db)
    mine = [s for name, s in seconds.items() if not slice or belongs.get(name) == slice]
    return float(sum(mine)) / 60
