"""What a fleet gains when it retrains itself: reports of `make loop`, one for every scenario.

The loop is `python -m benchmarks.loop`; it takes from a quarter of an hour to an hour and a half
for a scenario, and docs/loop.md says where, when and how each ran. This collects the `report.json`
that each has left. WER is of bundles as they ship, greedy and in INT8, before and after, on
utterances that nobody trained on and no gate has heard: of the slice that drifted, and of voices
and sentences that the model knew before. Times are of the wall clock, from the first drifted
utterance; CPU time is that of all steps of the pipeline together.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure
from benchmarks.measure import Table

LEFT_OUT = ("confidence", "alarms")  # long, and in the report itself


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reports", type=Path, nargs="+", default=sorted(Path("loop").glob("*/report.json")),
        metavar="FILE", help="report.json of every scenario (default: loop/*/report.json)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    if not args.reports:
        raise SystemExit("no report; run `make loop` first, or name some with --reports")
    found = [json.loads(path.read_text()) for path in args.reports]
    return {
        "scenarios": [
            {key: value for key, value in one.items() if key not in LEFT_OUT} for one in found
        ]
    }


def change(pair: dict[str, float]) -> float:
    """Relative: -0.3 is 30 % fewer errors."""
    return pair["after"] / pair["before"] - 1


def table(results: dict[str, Any]) -> Table:
    rows = [[
        "scenario", "ended", "WER of the drifted slice", "WER of what was known", "alarm, s",
        "fleet updated, s", "segments, trained on", "MB over the air", "CPU s",
    ]]  # fmt: skip
    for one in results["scenarios"]:
        wer = dict.fromkeys(("held-out", "known"), "") | {
            name: f"{pair['before']:.1%} → {pair['after']:.1%} ({change(pair):+.1%})"
            for name, pair in one.get("wer", {}).items()
        }
        stages, data = one["stages_s"], one.get("data", {})
        rows.append([
            one["scenario"], one["over"].split(":")[0] or "no alarm", wer["held-out"],
            wer["known"], _seconds(stages["alarm"]), _seconds(stages["fleet updated"]),
            f"{data['gathered']}, {data['train']} parts ({data['train_minutes']} min)"
            if data else "",
            f"{one['bytes_over_the_air'] / 1e6:.1f}",
            f"{sum(step['cpu_seconds'] for step in one['steps'].values()):.0f}",
        ])  # fmt: skip
    return rows


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
