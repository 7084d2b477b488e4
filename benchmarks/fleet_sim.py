"""A fleet in one process: devices that speak the real protocol, the real broker, the real ingest.

Every device is the agent's own uplink (connection, window, receipts, back-off) over a small MQTT 5
client on asyncio; it connects with its last will, says that it is there and makes a segment of
20 kB once a minute on average, at random times. The broker is mosquitto with the configuration in
deploy/mosquitto, ingest is `vitconformer cloud ingest` on SQLite. Devices are let in on a listener
without TLS, under the same access rules, because ten thousand handshakes measure OpenSSL; `--tls`
takes the real listener and a certificate for each device.

Latency is from the making of a segment to its receipt, which is sent after the commit; it is
measured over the minutes between the last device's start and the end. "Lost" are segments that
are neither in the store nor in a device's outbox after the devices had time to deliver them, "still
waiting" those in an outbox; "doubled" are rows
beyond one for each. CPU is user and system time of a process over the same minutes, in cores;
memory is its peak. `--chaos` kills broker (which may forget everything) and ingest with SIGKILL at
random moments and starts them again after a few seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure
from benchmarks.fleet_devices import Device, Line, Segments, Tally
from tests.broker import Broker

# Devices by name instead of certificate; the access rules are the same.
PLAIN = """
listener {{plain_port}} 127.0.0.1
allow_anonymous true
use_username_as_clientid true
acl_file {folder}/fleet/devices.acl
"""
SETTLE_S = 60.0  # before the measurement, for what had to wait while the devices connected
DRAIN_S = 180.0  # for what is on the way at the end; a receipt is waited for 60 s before a repeat


class Ingest(Protocol):
    """What takes the segments in, as a process."""

    @property
    def pids(self) -> list[int]: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...
    def stored(self) -> list[str]: ...  # the id of every row


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated."""

    devices: int
    minutes: float  # after the last device has started
    period_s: float = 60.0  # between two segments of a device, on average
    segment_bytes: int = 20_000
    ramp_s: float  # in which the devices start, at random
    tls: bool = False
    chaos: bool = False
    seed: int = 1


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, metavar="N")
    parser.add_argument("--minutes", type=float, default=5, metavar="M")
    parser.add_argument("--ramp", type=float, metavar="S", help="seconds (N / 100)")
    parser.add_argument("--period", type=float, default=60, metavar="S", help="of segments (60)")
    parser.add_argument("--bytes", type=int, default=20_000, metavar="N", help="(20000)")
    parser.add_argument("--tls", action="store_true", help="a certificate for each device")
    parser.add_argument("--chaos", action="store_true", help="kill broker and ingest at random")
    parser.add_argument("--seed", type=int, default=1)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.fleet_ingest import CloudIngest

    plan = Plan(
        devices=args.devices, minutes=args.minutes, period_s=args.period, segment_bytes=args.bytes,
        ramp_s=args.ramp if args.ramp is not None else args.devices / 100, tls=args.tls,
        chaos=args.chaos, seed=args.seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, broker_for(plan, Path(folder)) as broker:
        ingest = CloudIngest(Path(folder), broker, names(plan))
        ingest.start()
        try:
            return simulate(plan, broker, ingest)
        finally:
            ingest.close()


def names(plan: Plan) -> list[str]:
    return [f"device-{number}" for number in range(plan.devices)]


@contextlib.contextmanager
def broker_for(plan: Plan, folder: Path) -> Iterator[Broker]:
    """With as many open files as the system allows, here and there."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and plan.devices > most - 200:
        raise SystemExit(f"--devices {plan.devices}: a process may open {most} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Broker.start(folder, "" if plan.tls else PLAIN.format(folder=folder)) as broker:
        yield broker


def simulate(plan: Plan, broker: Broker, ingest: Ingest) -> dict[str, Any]:
    """Runs the plan against what is running."""
    return asyncio.run(_Simulation(plan, broker, ingest).run())


class _Simulation:
    def __init__(self, plan: Plan, broker: Broker, ingest: Ingest) -> None:
        self.plan, self.broker, self.ingest = plan, broker, ingest
        self.tally = Tally()
        self.rng = random.Random(plan.seed)
        self.kills = {"broker": 0, "ingest": 0}
        segments = Segments(plan.segment_bytes, plan.seed)
        if plan.tls:
            line = Line(host=broker.host, port=broker.port, tls=broker.tls)
            for name in names(plan):
                broker.identity(name)
        else:
            line = Line(host=broker.host, port=broker.plain_port)
        self.devices = [
            Device(
                name,
                line,
                segments,
                self.tally,
                period_s=plan.period_s,
                seed=self.rng.getrandbits(64),
            )
            for name in names(plan)
        ]

    async def run(self) -> dict[str, Any]:
        plan, tally, loop = self.plan, self.tally, asyncio.get_running_loop()
        for device in self.devices:
            loop.call_later(self.rng.uniform(0, plan.ramp_s), device.start)
        began = time.monotonic()
        await asyncio.sleep(plan.ramp_s)
        while tally.connected < plan.devices and time.monotonic() - began < plan.ramp_s + 60:
            await asyncio.sleep(0.1)
        all_connected_s = time.monotonic() - began
        measure.say(f"{tally.connected} devices connected after {all_connected_s:.0f} s")
        settling = time.monotonic()  # what waited while they connected and ingest began
        while sum(len(device.outbox) for device in self.devices) > 20 + plan.devices / 200:
            if time.monotonic() - settling > SETTLE_S:
                break
            await asyncio.sleep(0.2)
        settled_s = time.monotonic() - settling

        tally.measuring = True
        before, start, made = self._cpu(), time.monotonic(), tally.made
        least = tally.connected
        chaos = loop.create_task(self._chaos()) if plan.chaos else None
        late = 0.0
        while (rest := start + plan.minutes * 60 - time.monotonic()) > 0:
            step = min(rest, 0.5)
            at = loop.time() + step
            await asyncio.sleep(step)
            late = max(late, loop.time() - at)
            least = min(least, tally.connected)
        wall = time.monotonic() - start
        after = self._cpu()
        if chaos is not None:
            chaos.cancel()
            await asyncio.gather(chaos, return_exceptions=True)
            await loop.run_in_executor(None, self._revive)
        rate = (tally.made - made) / wall
        at_end = tally.connected

        for device in self.devices:
            device.make_no_more()
        draining = time.monotonic()
        while any(device.outbox for device in self.devices):
            if time.monotonic() - draining > DRAIN_S:
                break
            await asyncio.sleep(0.2)
        drained = time.monotonic() - draining
        memory = {name: sum(map(_memory, pids)) for name, pids in self._pids().items()}
        waiting = {id for device in self.devices for id in device.outbox}
        for device in self.devices:
            device.stop()
        await asyncio.sleep(0.5)
        rows = self.ingest.stored()
        stored = set(rows)
        latency = measure.percentiles(tally.latency_s, 50, 90, 99, 100)
        return {
            "devices": plan.devices,
            "tls": plan.tls,
            "chaos": plan.chaos,
            "segment_bytes": plan.segment_bytes,
            "minutes": plan.minutes,
            "all_connected_s": all_connected_s,
            "settled_s": settled_s,
            "connected_least": least,
            "connected_at_end": at_end,
            "connects": tally.connects,
            "made": tally.made,
            "made_per_s": rate,
            "latency_s": latency,
            "latencies": len(tally.latency_s),
            "delivered": tally.delivered,
            "waiting_at_end": len(waiting),
            "lost": len(tally.ids - stored - waiting - tally.dead.keys()),
            "rows": len(rows),
            "doubled": len(rows) - len(stored),
            "published": tally.published,
            "repeated": tally.published - tally.made,
            "dead": dict(Counter(tally.dead.values())),
            "kills": self.kills,
            "warnings": dict(tally.warnings.most_common(5)),
            "connections_ended": dict(tally.ends.most_common(5)),
            "drained_s": drained,
            "loop_late_s": late,
            # A process that was killed began again from nothing: then this says nothing.
            "cpu_cores": {
                name: (after[name] - before[name]) / wall for name in after if not plan.chaos
            },
            "memory_mb": memory,
        }

    def _pids(self) -> dict[str, list[int]]:
        return {"devices": [os.getpid()], "broker": [self.broker.pid], "ingest": self.ingest.pids}

    def _cpu(self) -> dict[str, float]:
        return {name: sum(map(_cpu_seconds, pids)) for name, pids in self._pids().items()}

    async def _chaos(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.rng.uniform(5, 30))
            who = self.rng.choice(["broker", "ingest"])
            self.kills[who] += 1
            if who == "broker":
                self.broker.kill()
                await asyncio.sleep(self.rng.uniform(0, 5))
                forget = self.rng.random() < 0.5
                await loop.run_in_executor(None, partial(self.broker.restart, forget=forget))
            else:
                self.ingest.kill()
                await asyncio.sleep(self.rng.uniform(0, 5))
                await loop.run_in_executor(None, self.ingest.start)

    def _revive(self) -> None:
        self.broker.restart()
        self.ingest.kill()
        self.ingest.start()


def _cpu_seconds(pid: int) -> float:
    """User and system time."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    """Peak, MB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", errors="replace").split()
    except OSError:
        return math.nan
    return int(status[status.index("VmHWM:") + 1]) / 1024


def table(results: Mapping[str, Any]) -> measure.Table:
    latency = results["latency_s"]
    rows = [
        ["", ""],
        [
            "devices connected, least to most",
            f"{results['connected_least']} of {results['devices']}",
        ],
        ["segments made", f"{results['made']}, {results['made_per_s']:.1f} a second"],
        [
            "making to receipt, p50, p90, p99, most",
            ", ".join(f"{latency[f'p{rank}']:.3f} s" for rank in (50, 90, 99, 100)),
        ],
        ["lost, doubled", f"{results['lost']}, {results['doubled']}"],
        ["still waiting at the end", str(results["waiting_at_end"])],
        ["sent more than once", str(results["repeated"])],
    ]
    for name, memory in results["memory_mb"].items():
        cores = results["cpu_cores"].get(name)
        shown = "" if cores is None else f"{cores:.2f} cores, "
        rows.append([name, f"{shown}{memory:.0f} MB"])
    if results["chaos"]:
        rows.append(["killed", ", ".join(f"{n} {k}" for k, n in results["kills"].items())])
    return rows


def headline(results: Mapping[str, Any]) -> str:
    return f"p99_receipt_s {results['latency_s']['p99']:.3f}"


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
