"""`vitconformer cloud power`: which differences a set can show, before anything is trained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from autotrain_cloud.commands.cloud.gate import add_hearing_options, named, say

HELP = "what difference a guard or target set can detect"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sets", nargs="+", metavar="[NAME=]JSONL", help="manifests")
    parser.add_argument(
        "--champion", type=Path, required=True, metavar="BUNDLE", help="whose errors are counted"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_hearing_options(parser)


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.gate.run import set_powers
    from autotrain_cloud.gate.settings import GateSettings
    from edge_runtime.cli import OK
    from edge_runtime.settings import read_settings

    settings = read_settings(GateSettings, args.settings) if args.settings else GateSettings()
    powers = set_powers(
        args.champion,
        named(args.sets, "sets"),
        settings,
        args.cache or Path("gate-cache"),
        jobs=args.jobs,
        say=say,
    )
    if args.json:
        print(json.dumps({name: power.to_json() for name, power in powers.items()}, indent=2))
        return OK
    for name, power in powers.items():
        found = "nothing: no errors, or one speaker"
        if power.detectable != float("inf"):
            found = f"{power.detectable:.1%} or more"
        print(
            f"{name}: detects {found} ({power.power:.0%} power, {power.blocks} speakers, "
            f"{power.words} words, WER {power.wer:.1%})"
        )
    return OK
