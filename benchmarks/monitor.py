"""Drift alarms over a simulated fleet: how often they are false, how soon they are true.

500 devices in 5 slices, 40 utterances a day each, in 5 sessions; telemetry once a session.
Confidences are Beta(4.5, 1.5) through a Gaussian copula: a device has a mean of its own (standard
deviation 0.05), a day has one (0.01), and within a session neighbours correlate by rho. After the
warm-up come 30 days. A false alarm is one without drift, of the fleet or a slice; tickets are those
of single devices, which never start a retraining. In the drifts, the confidences of one slice, of
the whole fleet, or of 5 % of the devices fall by so much from the first day on; recall is the share
of runs (for single devices: of the drifted ones) with the right alarm within the 30 days, delay the
median and worst number of days until it, and within 3 days the share of runs that had it by then.
A run in which a slice or the fleet drifts ends with the right alarm.

3 sigma and CUSUM (slack 1/2, h = 8 standard deviations) see the same days, device by device and
slice by slice, with means and deviations from the same warm-up; 3 sigma looks at each day alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.monitor.blocks import Block, DeviceState
from autotrain_cloud.monitor.looking import look
from autotrain_cloud.monitor.settings import DAY_MS, MonitorSettings
from autotrain_cloud.monitor.streams import FleetState
from benchmarks import measure
from benchmarks.measure import Table

Floats = NDArray[np.float64]

DEVICES, SLICES, SESSIONS, PER_SESSION, DAYS = 500, 5, 5, 8, 30
BELOW = 0.6  # confidence under which a device wants to upload
GRID = np.linspace(-6, 6, 4001)


@dataclass(frozen=True, slots=True)
class Drift:
    """What happens to the confidences after the warm-up."""

    name: str
    fall: float = 0.0
    where: str = "nowhere"  # slice, fleet, devices

    def drifted(self) -> NDArray[np.bool_]:
        numbers = np.arange(DEVICES)
        return {
            "nowhere": numbers < 0,
            "slice": numbers % SLICES == 2,
            "fleet": numbers >= 0,
            "devices": numbers % 20 == numbers // 20 % 5,  # of every slice alike
        }[self.where]


DRIFTS = (
    Drift("none"),
    Drift("slice -0.03", 0.03, "slice"),
    Drift("slice -0.05", 0.05, "slice"),
    Drift("fleet -0.03", 0.03, "fleet"),
    Drift("fleet -0.05", 0.05, "fleet"),
    Drift("5% of devices -0.05", 0.05, "devices"),
    Drift("5% of devices -0.10", 0.10, "devices"),
    Drift("5% of devices -0.20", 0.20, "devices"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=20, help="runs of each kind (default 20)")
    parser.add_argument("--drift", nargs="+", choices=[d.name for d in DRIFTS], help="only these")


def run(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": args.seeds}
    for rho in (0.0, 0.4):
        for drift in DRIFTS:
            if args.drift and drift.name not in args.drift:
                continue
            runs = [simulate(drift, rho, seed) for seed in range(args.seeds)]
            found[f"rho {rho}: {drift.name}"] = summary = _summary(drift, runs)
            measure.say(f"rho {rho}: {drift.name}: {json.dumps(summary)}")
    return found


def table(results: Mapping[str, Any]) -> Table:
    rows = [["fleet", "scheme", "fleet and slice alarms in 30 days", "recall", "delay (days)",
             "within 3 days", "device tickets in 30 days", "recall of devices"]]  # fmt: skip
    for name, schemes in results.items():
        if name == "seeds":
            continue
        for scheme, f in schemes.items():
            delay = f"{f['delay']:g}, at most {f['worst_delay']}" if f["recall"] else "–"
            drifting = "none" not in name
            whole = drifting and "devices" not in name
            rows.append([
                name, scheme, "–" if whole else f"{f['alarms']:.2f}",
                f"{f['recall']:.2f}" if whole else "–", delay if whole else "–",
                f"{f['within_3']:.2f}" if whole else "–",
                "–" if whole else f"{f['tickets']:.1f}",
                f"{f['devices_recall']:.2f}" if drifting and not whole else "–",
            ])  # fmt: skip
    return rows


# --- the fleet ------------------------------------------------------------------------------------


def confidences(
    rng: np.random.Generator, days: int, rho: float, fall: Floats, warmup: int
) -> Floats:
    """f64 [days, devices, sessions, utterances]; `fall` [devices] from day `warmup` on."""
    from scipy.stats import beta, norm

    shape = (days, DEVICES, SESSIONS, PER_SESSION)
    noise = rng.standard_normal(shape)
    for i in range(1, PER_SESSION):
        noise[..., i] = rho * noise[..., i - 1] + (1 - rho**2) ** 0.5 * noise[..., i]
    # The inverse of Beta through a table: exact enough, and fast.
    quantiles = beta.ppf(norm.cdf(GRID), 4.5, 1.5)
    values = np.interp(noise, GRID, quantiles)
    values += rng.normal(0, 0.05, DEVICES)[None, :, None, None]
    values += rng.normal(0, 0.01, (days, DEVICES))[:, :, None, None]
    values = np.clip(values, 0, 1)
    # In proportion, so that the mean falls by just this much and nothing leaves 0..1.
    values[warmup:] *= 1 - (fall / values.mean(axis=(0, 2, 3)))[None, :, None, None]
    return values


def simulate(drift: Drift, rho: float, seed: int) -> dict[str, Any]:
    """-> by scheme: days of alarms and tickets, and of the right ones."""
    settings = MonitorSettings()
    warmup = settings.warmup_looks
    rng = np.random.default_rng([seed, int(rho * 10), DRIFTS.index(drift)])
    drifted = drift.drifted()
    values = confidences(rng, warmup + DAYS, rho, drifted * drift.fall, warmup)
    return {
        "e-detectors, e-BH": _ours(values, drift, settings),
        **{
            name: _usual_chart(values, drift, warmup, cusum=name == "CUSUM")
            for name in ("3 sigma", "CUSUM")
        },
    }


def _right(drift: Drift, level: str, name: str) -> bool:
    """Whether an alarm of a whole is the one wanted."""
    if drift.where == "fleet":
        return True
    return drift.where == "slice" and level == "slice" and name == "2"


def _ours(values: Floats, drift: Drift, settings: MonitorSettings) -> dict[str, Any]:
    names = [f"device-{i:03}" for i in range(DEVICES)]
    slices = {name: str(i % SLICES) for i, name in enumerate(names)}
    devices = {name: DeviceState(model="m", since=(1, 1)) for name in names}
    fleet, drifted = FleetState(), drift.drifted()
    sums, wanted = values.sum(axis=3), (values < BELOW).sum(axis=3)
    alarms, right, tickets, found = [], [], [], {}
    for day in range(len(values)):
        for i, name in enumerate(names):
            blocks = tuple(
                Block(PER_SESSION, float(total), float(low))
                for total, low in zip(sums[day, i], wanted[day, i], strict=True)
            )
            devices[name] = dataclasses.replace(
                devices[name], blocks=blocks, seen_ms=(day + 1) * DAY_MS
            )
        outcome = look(fleet, devices, slices.get, settings=settings, now_ms=(day + 1) * DAY_MS)
        fleet, devices = outcome.fleet, outcome.devices
        after = day + 1 - settings.warmup_looks
        for alarm in outcome.opened:
            if alarm.level == "device":
                tickets.append(after)
                if drifted[int(alarm.name[-3:])]:
                    found.setdefault(alarm.name, after)
            else:
                alarms.append(after)
                if _right(drift, alarm.level, alarm.name):
                    right.append(after)
        if right:
            break
    share = len(found) / drifted.sum() if drifted.any() else 0.0
    return {"alarms": alarms, "right": right, "tickets": tickets, "devices": float(share)}


def _usual_chart(values: Floats, drift: Drift, warmup: int, *, cusum: bool) -> dict[str, Any]:
    days = values.mean(axis=(2, 3))  # [days, devices]
    groups = np.array([days[:, s::SLICES].mean(axis=1) for s in range(SLICES)]).T
    whole = days.mean(axis=1, keepdims=True)
    drifted = drift.drifted()
    signals = {
        level: _chart(series, warmup, cusum=cusum)
        for level, series in (("fleet", whole), ("slice", groups), ("device", days))
    }
    alarms, right = [], []
    for level in ("fleet", "slice"):
        for day, number in zip(*np.nonzero(signals[level]), strict=True):
            alarms.append(int(day) + 1)
            if _right(drift, level, str(number)):
                right.append(int(day) + 1)
    found = signals["device"].any(axis=0)
    share = found[drifted].mean() if drifted.any() else 0.0
    tickets = [int(day) + 1 for day in np.nonzero(signals["device"])[0]]
    return {"alarms": alarms, "right": right, "tickets": tickets, "devices": float(share)}


def _chart(series: Floats, warmup: int, *, cusum: bool) -> NDArray[np.bool_]:
    """bool [days, streams]: alarms; the CUSUM starts again after one."""
    before, after = series[:warmup], series[warmup:]
    low = -(after - before.mean(axis=0)) / before.std(axis=0, ddof=1)
    if not cusum:
        return low > 3
    total = np.zeros(series.shape[1])
    found = np.zeros(low.shape, bool)
    for day in range(len(low)):
        total = np.maximum(0, total + low[day] - 0.5)
        found[day] = total > 8
        total[found[day]] = 0
    return found


def _summary(drift: Drift, runs: list[dict[str, Any]]) -> dict[str, Any]:
    summary = {}
    for scheme in runs[0]:
        each = [one[scheme] for one in runs]
        first = [min(one["right"]) for one in each if one["right"]]
        summary[scheme] = {
            "alarms": statistics.mean(len(one["alarms"]) for one in each),
            "recall": len(first) / len(each),
            "delay": statistics.median(first) if first else None,
            "worst_delay": max(first) if first else None,
            "within_3": sum(day <= 3 for day in first) / len(each),
            "tickets": statistics.mean(len(one["tickets"]) for one in each),
            "devices_recall": statistics.mean(one["devices"] for one in each),
        }
    return summary


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
