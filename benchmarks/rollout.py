"""Rollouts to 100,000 simulated devices, in virtual time, by the real controller.

Devices: 3 % are offline for the first two days, the others answer within minutes and finish within
an hour; 0.5 % of updates fail and 0.2 % are never heard of again, whatever the release. Telemetry
is looked at every four hours: 10 utterances a device, whose confidences have the device's own mean;
a device's values are changes against its own before the rollout. Stages of 1, 5, 25 and 95 %, each
soaking for a day, 5 % held back for comparison, 500 devices a minute, four eyes.

touched: share of the fleet that was given the release until the halt. hours: until the halt (or
until it was complete); back: until the touched devices ran the previous model again. Releases that
are worse are so on every device: confidences fall (-0.03, -0.05) or rise by 0.06 without a reason
(over-confident: its word errors are as before), the real-time factor is 1.3 times the old one, or
5 % of installations fail. A good release raises confidences by 0.01.

False halts are of releases that are just tolerable, in a smaller fleet so that there can be many:
2 % of updates fail, confidences fall by 0.01.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.log import Entry, Halted, Looked, Targeted
from autotrain_cloud.rollout.plan import Plan, Release
from autotrain_cloud.rollout.states import OVER
from benchmarks import measure
from benchmarks.measure import Table
from edge_runtime.contract.messages import UpdateReport

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START = 1_800_000_000_000
LOOK = 4 * HOUR
UTTERANCES = 10
ATTEMPT = "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A release."""

    name: str
    fails: float = 0.005
    silent: float = 0.002
    confidence: float = 0.0  # change of the mean
    speed: float = 0.0  # of the log of the real-time factor


KINDS = (
    Kind(name="good", confidence=0.01),
    Kind(name="5 % fail to install", fails=0.05),
    Kind(name="confidence -0.03", confidence=-0.03),
    Kind(name="confidence -0.05", confidence=-0.05),
    Kind(name="over-confident", confidence=0.06),
    Kind(name="1.3 times slower", speed=float(np.log(1.3))),
)
AT_THE_BOUND = Kind(name="just tolerable", fails=0.015, silent=0.005, confidence=-0.01)


class Fleet:
    """Simulated devices; they know the controller only by their targets."""

    def __init__(self, count: int, kind: Kind, seed: int) -> None:
        self.kind = kind
        self.rng = np.random.default_rng(seed)
        self.names = [f"device-{i:06}" for i in range(count)]
        self.online_ms = np.where(self.rng.random(count) < 0.03, START + 2 * DAY, 0)
        self.mean = np.clip(self.rng.normal(0.75, 0.05, count), 0.5, 0.9)
        self.before = self.rng.normal(0, 0.15 / np.sqrt(10 * UTTERANCES), count)
        self.events: list[tuple[int, int, str, str]] = []  # when, number, device, state
        self._number = itertools.count()
        self._index = {name: i for i, name in enumerate(self.names)}

    def told(self, entries: list[Entry], rollout: Rollout) -> None:
        """Devices get their targets, and begin when they are online."""
        for entry in entries:
            if not isinstance(entry.event, Targeted):
                continue
            bad = entry.event.counter == rollout.plan.release.counter
            chances = self.rng.random((len(entry.event.devices), 3))
            for device, (fate, first, rest) in zip(
                entry.event.devices, chances.tolist(), strict=True
            ):
                begun = max(entry.at_ms, int(self.online_ms[self._index[device]]))
                begun += int(first * 10 * MINUTE)
                heapq.heappush(self.events, (begun, next(self._number), device, "downloading"))
                kind = self.kind if bad else Kind(name="good")
                if fate < kind.silent:
                    continue
                state = "failed" if fate < kind.silent + kind.fails else "committed"
                end = begun + int((5 + 50 * rest) * MINUTE)
                heapq.heappush(self.events, (end, next(self._number), device, state))

    def changes(self, rollout: Rollout) -> dict[str, dict[str, float]]:
        """What telemetry of the panel says: changes against before the rollout."""
        updated, control = rollout.panel()
        names = updated + control
        index = np.array([self._index[name] for name in names], int)
        treated = np.arange(len(names)) < len(updated)
        spread = 0.15 / np.sqrt(UTTERANCES)
        confidence = self.kind.confidence * treated + self.rng.normal(0, spread, len(names))
        confidence = np.clip(self.mean[index] + confidence, 0, 1)
        confidence -= self.mean[index] + self.before[index]
        speed = self.kind.speed * treated + self.rng.normal(0, 0.05, len(names))
        crashed = (self.rng.random(len(names)) < 0.001).astype(float)
        return {
            name: {"confidence": c, "speed": s, "crashed": x}
            for name, c, s, x in zip(
                names, confidence.tolist(), speed.tolist(), crashed.tolist(), strict=True
            )
        }


def roll(plan: Plan, fleet: Fleet, *, most_days: int = 40) -> Rollout:
    """Until it is over."""
    rollout, sequence = Rollout(plan), itertools.count(1)
    rollout.join(dict.fromkeys(fleet.names, "UTC"), START)
    rollout.submit(plan.author, START)
    for person in ("bob", "carol"):
        rollout.approve(person, START)
    now, looked = START, START
    while rollout.state not in OVER and now < START + most_days * DAY:
        now += MINUTE
        while fleet.events and fleet.events[0][0] <= now:
            at_ms, _, device, state = heapq.heappop(fleet.events)
            target = rollout.target(device)
            if target is None:  # withdrawn before the device was online
                continue
            if state == "downloading":
                rollout.seen([device], at_ms)
                continue
            report = _report(target, state, next(sequence), at_ms)
            rollout.report(device, report, at_ms)
        if now >= looked + LOOK:
            rollout.look(fleet.changes(rollout), since_ms=looked, now_ms=now)
            looked = now
        if rollout.to_republish:
            back = replace(plan.previous, counter=plan.release.counter + 1)
            rollout.was_republished(back, now)
        fleet.told(rollout.tick(now), rollout)
    return rollout


_LIKE: dict[tuple[int, str], UpdateReport] = {}


def _report(target: Release, state: str, sequence: int, at_ms: int) -> UpdateReport:
    """Checking a message takes longer than all else here: a new one differs from an old one."""
    key = (target.counter, state)
    if key not in _LIKE:
        _LIKE[key] = UpdateReport(
            session=1, sequence=0, attempt=ATTEMPT, target=target.version,
            target_counter=target.counter, state=state,  # type: ignore[arg-type]
            running=None, at_ms=at_ms,
        )  # fmt: skip
    report = object.__new__(UpdateReport)
    for name in UpdateReport.__slots__:
        object.__setattr__(report, name, getattr(_LIKE[key], name))
    object.__setattr__(report, "extra", {})
    object.__setattr__(report, "sequence", sequence)
    return report


def a_plan(number: int = 0) -> Plan:
    return Plan(
        id=f"rollout-{number}", release=Release(version="0.5.0", counter=8),
        previous=Release(version="0.4.0", counter=7), author="alice", approvals=2,
    )  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=100_000, help="(default 100,000)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each release (default 3)")
    parser.add_argument(
        "--good", type=int, default=200, help="just tolerable ones, smaller fleet (default 200)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"devices": args.devices, "kinds": {}}
    for kind in KINDS:
        measure.say(kind.name)
        runs = [_outcome(kind, args.devices, seed) for seed in range(args.seeds)]
        found["kinds"][kind.name] = runs
    measure.say("just tolerable releases")
    halted = []
    for seed in range(args.good):
        fleet = Fleet(1000, AT_THE_BOUND, 1000 + seed)
        halted.append(_halt(roll(a_plan(seed), fleet)))
    found["good"] = {
        "rollouts": len(halted), "halted": sum(halt is not None for halt in halted),
        "reasons": [halt.reason for halt in halted if halt],
        "nominal": a_plan().failure_alpha + a_plan().quality_alpha,
    }  # fmt: skip
    return found


def table(results: Mapping[str, Any]) -> Table:
    rows = [["release", "ends", "touched at the halt", "hours", "back", "CPU s", "why"]]
    for name, runs in results["kinds"].items():
        halted = all(run["halt"] for run in runs)
        touched = max(run["touched"] for run in runs)
        back = [run["back_hours"] for run in runs if run["back_hours"] is not None]
        rows.append([
            name, ", ".join(sorted({run["state"] for run in runs})),
            f"at most {touched:.2%}" if halted else "–",
            f"{statistics.median(run['hours'] for run in runs):.1f}",
            f"{statistics.median(back):.1f}" if back else "–",
            f"{statistics.median(run['cpu_s'] for run in runs):.1f}", runs[0]["halt"] or "–",
        ])  # fmt: skip
    good = results["good"]
    rows.append([
        f"just tolerable, {good['rollouts']} rollouts to 1000 devices", f"{good['halted']} halted",
        "–", "–", "–", "–", f"nominal: {good['nominal'] * good['rollouts']:.0f} at most",
    ])  # fmt: skip
    return rows


def _outcome(kind: Kind, devices: int, seed: int) -> dict[str, Any]:
    start = time.process_time()
    rollout = roll(a_plan(seed), Fleet(devices, kind, seed))
    cpu_s = time.process_time() - start
    halt, last = _halt(rollout), rollout.entries[-1]
    touched = {
        device
        for entry in rollout.entries
        if isinstance(entry.event, Targeted) and entry.event.counter == rollout.plan.release.counter
        for device in entry.event.devices
    }
    return {
        "state": rollout.state.value,
        "halt": halt.reason if halt else None,
        "touched": len(touched) / devices,
        "hours": ((halt or last).at_ms - START) / HOUR,
        "back_hours": (last.at_ms - halt.at_ms) / HOUR if halt else None,
        "looks": sum(isinstance(entry.event, Looked) for entry in rollout.entries),
        "devices": dict(rollout.devices.summary()),
        "entries": len(rollout.entries),
        "cpu_s": cpu_s,
    }


def _halt(rollout: Rollout) -> Entry | None:
    return next((e for e in rollout.entries if isinstance(e.event, Halted)), None)


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
