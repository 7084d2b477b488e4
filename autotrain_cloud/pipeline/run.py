"""One run, from its first step to its last: the workflow.

    do = Pipeline(folder, executor)
    open_engine("dbos", do.pipeline, ...)

    FOLDER/runs/          see `record`
    FOLDER/results/STEP/KEY/        what a step made, and result.json: whole, or not there
    FOLDER/results/STEP/KEY.work/   while it is being made; a killed step goes on in it
    FOLDER/champion.json  the bundle that was published last, and the weights it came from

A failed step is tried again where that can help: the process was killed, ran out of time or of
disk, or failed in a way that is perhaps over in a minute.  A wrong option or file (exit code 2) is
for a person, as is what has failed too often: then the run is parked with the step's last words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotrain_cloud.pipeline import promotions, steps
from autotrain_cloud.pipeline.executor import Executor, Job, Outcome, spent
from autotrain_cloud.pipeline.record import Plan, Run, Runs, StepRecord, alone
from autotrain_cloud.pipeline.steps import Step
from autotrain_cloud.pipeline.workflows import Context, Json
from edge_runtime.contract.bundle import MANIFEST_NAME
from edge_runtime.errors import ConfigError, EdgeError, StorageError
from edge_runtime.files import sync_directory, write_atomically

APPROVAL = "approval"  # the topic of what people decide
APPROVAL_DAYS = 14.0
WHO = "the pipeline"  # publishes, where nobody has to approve
USAGE = 2  # exit code: an option or a file is wrong


class Pipeline:
    """The workflow function, with where it works."""

    def __init__(self, folder: Path, executor: Executor, *, back_off_s: float = 5.0) -> None:
        self.folder = folder.absolute()
        self.runs = Runs(self.folder / "runs")
        self._executor = executor
        self._back_off_s = back_off_s  # before the second try; doubles

    # -- the workflow: decides by its argument and the results of its steps alone ------------------

    def pipeline(self, context: Context, argument: Json) -> Json:
        """Goes through a run; -> its last state. `argument` is {"run": id, "attempt": n}."""
        run, attempt = argument["run"], argument["attempt"]
        begun = context.step(self.begin, run, attempt)
        results: dict[str, str] = {}
        for name in begun["steps"]:
            if name == "publish" and begun["needs_approval"]:
                said = self._approval(context, run, results)
                if said is not None:
                    return said
            tried = 0
            while True:
                tried += 1
                found = context.step(self.do, run, attempt, name, tried, results)
                if found["state"] != "retrying":
                    break
                context.sleep(self._back_off_s * 2 ** min(tried - 1, 6))
            if found["state"] != "done":
                return context.step(self.end, run, found["state"], f"{name}: {found['reason']}")
            results[name] = found["key"]
        return context.step(self.end, run, "done", "")

    def _approval(self, context: Context, run: str, results: dict[str, str]) -> Json | None:
        """None when the run may go on, else its last state."""
        if not context.step(self.ask, run):
            return None
        said = context.wait(APPROVAL, APPROVAL_DAYS * 86400)
        if said is None:
            reason = f"publish: nobody approved it within {APPROVAL_DAYS:g} days"
            return context.step(self.end, run, "parked", reason)
        if said["cancel"]:
            return context.step(self.end, run, "cancelled", f"cancelled by {said['by']}")
        if not said["approve"]:
            context.step(self.refused, run, said["by"], said["why"], results)
            reason = f"publish: {said['by']} said no: {said['why'] or 'without a reason'}"
            return context.step(self.end, run, "rejected", reason)
        context.step(self.approved, run, said["by"], results)
        return None

    # -- its steps: each may happen twice ----------------------------------------------------------

    def begin(self, run: str, attempt: int) -> Json:
        plan, known = self.runs.plan(run), self.runs.read(run)
        started = known.started or time.time()
        self.runs.write(
            replace(known, state="running", attempt=attempt, reason="", started=started)
        )
        return {
            "steps": [step.name for step in self._table(plan)],
            "needs_approval": plan.needs_approval,
        }

    def ask(self, run: str) -> bool:
        """Whether a person must still approve; says so in the record."""
        known = self.runs.read(run)
        if known.approved_by:
            return False
        self.runs.write(replace(known, state="waiting", reason="publish: waits for approval"))
        return True

    def approved(self, run: str, by: str, results: dict[str, str]) -> Json:
        self._enter(self.runs.plan(run), "approval", by, results)
        known = self.runs.read(run)
        self.runs.write(replace(known, state="running", reason="", approved_by=by))
        return by

    def refused(self, run: str, by: str, why: str, results: dict[str, str]) -> Json:
        self._enter(self.runs.plan(run), "refusal", by, results, reason=why)
        return by

    def end(self, run: str, state: Any, reason: str) -> Json:
        self.runs.write(replace(self.runs.read(run), state=state, reason=reason))
        return state

    def do(self, run: str, attempt: int, name: str, tried: int, results: dict[str, str]) -> Json:
        """One try at a step; -> its state, and the key of its result or the reason."""
        plan = self.runs.plan(run)
        step = next(step for step in self._table(plan) if step.name == name)
        record = StepRecord(name=name, state="running", started=time.time(), tries=tried)
        try:
            record = self._do(plan, step, record, f"{run}-{attempt}-{tried}", results)
        except ConfigError as error:
            record = replace(record, state="parked", reason=str(error))
        except (EdgeError, OSError) as error:  # a full disk, a store that went away
            state: Any = "retrying" if tried < step.tries else "parked"
            record = replace(record, state=state, reason=str(error))
        with contextlib.suppress(StorageError):  # without room for the record, there is its result
            self._note(run, replace(record, finished=time.time()))
        return {"state": record.state, "key": record.key, "reason": record.reason}

    # -- inside ------------------------------------------------------------------------------------

    def _do(
        self, plan: Plan, step: Step, record: StepRecord, attempt: str, results: dict[str, str]
    ) -> StepRecord:
        if self.runs.is_cancelled(plan.id):
            return replace(record, state="cancelled", reason="cancelled")
        digests = {
            name: " ".join(steps.digest(Path(path)) for path in paths)
            for name, paths in plan.inputs.items()
            if name in step.needs
        }
        key = steps.key(step, plan.code, digests, plan.settings, results)
        needs = digests | {name: key for name, key in results.items() if name in step.needs}
        folder = self.folder / "results" / step.name / key
        record = replace(record, key=key, folder=str(folder), needs=needs)
        with alone(folder, unless=lambda: self.runs.is_cancelled(plan.id)) as mine:
            if not mine:
                return replace(record, state="cancelled", reason="cancelled")
            if (folder / "result.json").exists():
                facts = json.loads((folder / "result.json").read_text("utf-8"))
                record = replace(
                    record, state="done", again=facts["attempt"] != attempt,
                    argv=tuple(facts["argv"]), cpu_seconds=facts["cpu_seconds"],
                )  # fmt: skip
            else:
                work = folder.with_name(f"{key}.work")
                argv = step.argv(self._values(plan, results, work))
                record = replace(record, argv=argv)
                self._note(plan.id, record)
                job = Job(
                    id=f"{step.name}-{key}", attempt=attempt, argv=argv, folder=work / "job",
                    cwd=self.folder, timeout_s=step.timeout_s,
                )  # fmt: skip
                outcome = self._executor.run(job, cancelled=lambda: self.runs.is_cancelled(plan.id))
                said_no = outcome.code == 1 and (work / (step.verdict or "-")).exists()
                if outcome.ended == "failed" and said_no:
                    outcome = replace(outcome, ended="done", reason="")
                record = replace(
                    self._judge(step, record, outcome), cpu_seconds=round(spent(job), 3)
                )
                if record.state == "done":
                    self._finish(step, record, job, work, folder)
        if record.state == "done" and step.verdict:
            record = _verdict(record, folder / step.verdict)
        if record.state == "done" and step.name == "publish":
            self._published(plan, results)
            self._crown(results)
        return record

    def _judge(self, step: Step, record: StepRecord, outcome: Outcome) -> StepRecord:
        record = replace(record, reason=outcome.reason)
        if outcome.ended == "done":
            return replace(record, state="done")
        if outcome.ended == "cancelled":
            return replace(record, state="cancelled")
        wrong = outcome.ended == "failed" and outcome.code in (USAGE, 127)
        if wrong or record.tries >= step.tries:
            often = "" if wrong else f" (after {record.tries} tries)"
            return replace(record, state="parked", reason=f"{outcome.reason}{often}")
        return replace(record, state="retrying")

    def _finish(self, step: Step, record: StepRecord, job: Job, work: Path, folder: Path) -> None:
        """Gives the result its name, which it has only when it is whole."""
        for name in step.makes:
            if not (work / name).exists():
                raise ConfigError(
                    f"its command succeeded without making {name}, which the next step needs"
                )
        if job.out.exists():
            shutil.copyfile(job.out, work / "stdout")
        steps.keep(
            work,
            {
                "step": step.name, "key": record.key, "attempt": job.attempt,
                "argv": record.argv, "needs": record.needs, "cpu_seconds": record.cpu_seconds,
                "started": record.started, "finished": time.time(),
                "files": {name: steps.digest(work / name) for name in step.makes},
            },
        )  # fmt: skip
        sync_directory(work)
        work.replace(folder)
        sync_directory(folder.parent)

    def _values(
        self, plan: Plan, results: Mapping[str, str], out: Path
    ) -> dict[str, str | tuple[str, ...]]:
        values: dict[str, str | tuple[str, ...]] = {step.name: "" for step in steps.STEPS}
        values |= plan.settings
        for name, paths in plan.inputs.items():
            values[name] = paths[0] if len(paths) == 1 else paths
        for name, key in results.items():
            values[name] = str(self.folder / "results" / name / key)
        values[steps.OUT] = str(out)
        return values

    def _table(self, plan: Plan) -> tuple[Step, ...]:
        return steps.plan(plan.commands, [*plan.inputs, *plan.settings])

    def _note(self, run: str, record: StepRecord) -> None:
        self.runs.write(self.runs.read(run).with_step(record))

    def _published(self, plan: Plan, results: Mapping[str, str]) -> None:
        """For the ledger; what a command of somebody's own published is not known here."""
        from autotrain_cloud.gate.evidence import Model  # numpy, which who only lists runs spares

        bundle = self.folder / "results" / "calibrate" / results.get("calibrate", "") / "bundle"
        if plan.settings.get("ledger") and (bundle / MANIFEST_NAME).exists():
            model = dataclasses.asdict(Model.of(bundle))
            self._enter(
                plan, "publication", WHO, results,
                challenger=model, release_counter=model["release_counter"],
            )  # fmt: skip

    def _enter(
        self, plan: Plan, kind: str, who: str, results: Mapping[str, str], **body: Any
    ) -> None:
        """Into the promotion ledger, if there is one."""
        path = plan.settings.get("ledger")
        if not path:
            return
        verdict = ""
        if "gate" in results:
            folder = self.folder / "results" / "gate" / results["gate"]
            verdict = promotions.verdict_digest(folder / "verdict.json")
        promotions.enter(Path(str(path)), kind, who, {"run": plan.id, "verdict": verdict, **body})

    def _crown(self, results: Mapping[str, str]) -> None:
        """The next run goes on from what was published."""
        made = {name: self.folder / "results" / name / key for name, key in results.items()}
        weights = made.get(steps.newest("bundle", made))
        if "calibrate" in made and weights:
            fields = {
                "champion": str(made["calibrate"] / "bundle"),
                "checkpoint": str(weights / "model.safetensors"),
            }
            write_atomically(self.folder / "champion.json", json.dumps(fields).encode())


def _verdict(record: StepRecord, path: Path) -> StepRecord:
    """The gate's word: a file with `promote` and `reasons`. Raises ConfigError."""
    try:
        verdict = json.loads(path.read_text("utf-8"))
        if verdict["promote"] is True:
            return record
        reasons = "; ".join(map(str, verdict.get("reasons", ()))) or "without a reason"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is no verdict: {error!r}") from error
    return replace(record, state="rejected", reason=reasons)


def state_of(run: Run) -> str:
    """A line for people."""
    now = run.steps[-1].name if run.steps and run.state == "running" else ""
    return f"{run.state}{f' ({now})' if now else ''}{f': {run.reason}' if run.reason else ''}"
