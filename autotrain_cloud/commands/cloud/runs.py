"""`vitconformer cloud runs`: retrainings, from the alarm to the fleet."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotrain_cloud.pipeline.controller import Controller
    from autotrain_cloud.pipeline.record import Run

HELP = "retrainings: list, show, start, resume, approve, cancel; work runs them"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions to `parser`."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--settings", type=Path, default=Path("pipeline.toml"), metavar="FILE",
        help="of the pipeline (default: pipeline.toml)",
    )  # fmt: skip
    common.add_argument("--json", action="store_true", help="JSON on stdout")
    actions = parser.add_subparsers(dest="runs_action", required=True, metavar="ACTION")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help, parents=[common])

    add("list", "all runs, oldest first")
    one = {
        "show": add("show", "one run: every step with its result, times and reason"),
        "resume": add("resume", "go on with a parked or cancelled run; nothing is made twice"),
        "approve": add("approve", "let a run publish, or not"),
        "cancel": add("cancel", "stop a run"),
    }
    for action in one.values():
        action.add_argument("run", metavar="RUN")
    for name in ("approve", "cancel"):
        one[name].add_argument("--by", required=True, metavar="NAME", help="who decides")
    one["approve"].add_argument("--reject", action="store_true", help="do not publish it")
    one["approve"].add_argument("--why", default="", metavar="TEXT")
    start = add("start", "ask for a run; with --scope, if the policy lets an alarm start one")
    start.add_argument("--why", default="by hand", metavar="TEXT", help="kept with the run")
    start.add_argument("--id", default="", help="of the run; the same twice is one run")
    start.add_argument(
        "--scope", choices=("fleet", "slice", "device"), help="of the alarm that asks"
    )
    start.add_argument("--subject", default="", metavar="NAME", help="the slice or device")
    start.add_argument(
        "--new-minutes", type=float, default=0.0, metavar="M", help="of new labelled speech"
    )
    work = add("work", "run what is queued, until stopped; whatever is cut off goes on at the next")
    work.add_argument("--once", action="store_true", help="until nothing is left to run")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.pipeline.controller import Controller

    controller = Controller.open(args.settings)
    if args.runs_action == "work":
        return _work(controller, args)
    try:
        return _act(controller, args)
    finally:
        controller.close()


def _act(controller: Controller, args: argparse.Namespace) -> int:
    from autotrain_cloud.pipeline.policy import Alarm
    from autotrain_cloud.pipeline.run import state_of

    runs = controller.runs
    if args.runs_action == "list":
        found = [runs.read(id) for id in runs.ids()]
        lines = [f"{run.id:24} {_age(run)} {state_of(run)}" for run in found]
        _say(args, [_facts(run, controller) for run in found], lines or ["no runs yet"])
        return 0
    if args.runs_action == "start":
        if args.scope is None:
            id = controller.start(why=args.why, id=args.id, slice=args.subject)
            _say(args, {"run": id, "verdict": "start"}, [id])
            return 0
        alarm = Alarm(scope=args.scope, subject=args.subject or args.scope)
        decision, id = controller.alarm(alarm, why=args.why, new_minutes=args.new_minutes)
        facts = {"run": id, "verdict": decision.verdict, "reason": decision.reason}
        _say(args, {**facts, "at": decision.at}, [id or f"{decision.verdict}: {decision.reason}"])
        return 0 if id else 1
    if args.runs_action == "resume":
        controller.resume(args.run)
    elif args.runs_action == "approve":
        controller.approve(args.run, by=args.by, yes=not args.reject, why=args.why)
    elif args.runs_action == "cancel":
        controller.cancel(args.run, by=args.by)
    run = runs.read(args.run)
    _say(args, _facts(run, controller), _lines(run, controller))
    return 0


def _work(controller: Controller, args: argparse.Namespace) -> int:
    """Ends as if it were killed: what was running goes on where it was."""
    import os
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with controller.at_work():
        print("at work", file=sys.stderr, flush=True)
        while not stop.wait(0.5):
            if args.once and not controller.runs.open():
                break
    sys.stdout.flush()
    os._exit(0)  # a step may wait for its process for hours; that process outlives us


def _facts(run: Run, controller: Controller) -> dict[str, Any]:
    import dataclasses

    plan = controller.runs.plan(run.id)
    return {
        **dataclasses.asdict(run), "why": plan.why, "created": plan.created,
        "cpu_seconds": round(run.cpu_seconds, 3),
    }  # fmt: skip


def _lines(run: Run, controller: Controller) -> list[str]:
    from autotrain_cloud.pipeline.run import state_of

    lines = [f"{run.id}: {state_of(run)}", f"why: {controller.runs.plan(run.id).why}"]
    for step in run.steps:
        took = f"{step.finished - step.started:8.1f} s" if step.finished else " " * 10
        again = ", made before" if step.again else ""
        tries = f", try {step.tries}" if step.tries > 1 else ""
        about = f"{step.name:16} {step.state:10} {took} {step.cpu_seconds:8.1f} s CPU{tries}{again}"
        lines += [about, *([f"    {step.reason}"] if step.reason else []), f"    {step.folder}"]
    return lines


def _age(run: Run) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.changed))


def _say(args: argparse.Namespace, facts: Any, lines: list[str]) -> None:
    if args.json:
        print(json.dumps(facts))
    else:
        print("\n".join(lines))
