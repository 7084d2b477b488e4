"""`vitconformer cloud label`: shards of segments to shards of labels."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from autotrain_cloud.pipeline.ray_executor import PLACE

HELP = "have teachers label shards of segments; continues where it was stopped"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shards",
        type=Path,
        nargs="+",
        metavar="SHARD",
        help=".jsonl, .parquet, or folders of .jsonl",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="shards of labels")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="TOML, see docs/data.md")
    parser.add_argument("--teacher", metavar="NAME", help="instead of the settings' teacher")
    parser.add_argument("--model", metavar="MODEL", help="of --teacher: a size or a path")
    parser.add_argument(
        "--alone", type=float, metavar="CONFIDENCE",
        help="ask no second teacher, and keep what the first is surer of than this (0 to 1)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--place", choices=("local", "ray"), default=os.environ.get(PLACE) or "local",
        help="processes of this machine, or tasks of the Ray cluster it belongs to "
        "(default: local; ray in a step that runs there)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one object per shard")


def run(args: argparse.Namespace) -> int:
    """Prints the path of each shard of labels; talk about what is in it goes to stderr."""
    from collections import Counter
    from dataclasses import replace

    from autotrain_cloud.commands.files import files_of
    from autotrain_cloud.labels.label import LabelSettings, read_labels
    from autotrain_cloud.labels.shards import label_shards
    from autotrain_cloud.teacher import TeacherSettings
    from edge_runtime.errors import ConfigError
    from edge_runtime.settings import read_settings

    if args.jobs < 1:
        raise ConfigError("--jobs must be positive")
    if args.model and not args.teacher:
        raise ConfigError("--model goes with --teacher")
    settings = read_settings(LabelSettings, args.settings) if args.settings else LabelSettings()
    if args.teacher:
        teacher = TeacherSettings(name=args.teacher, model=args.model or "")
        settings = replace(settings, teacher=teacher)
    if args.alone is not None:
        sure = replace(settings.triage, alone_confidence=args.alone)
        settings = replace(settings, second=None, triage=sure)
    shards = files_of(args.shards, ".jsonl")
    for path in label_shards(shards, args.out, settings, jobs=args.jobs, place=args.place):
        labels = list(read_labels(path))
        decisions = Counter(label.decision for label in labels)
        triage = Counter(label.triage for label in labels if label.triage)
        if args.json:
            about = {"path": str(path), "labels": len(labels), "decisions": dict(decisions),
                     "triage": dict(triage)}  # fmt: skip
            print(json.dumps(about))
        else:
            print(path)
            counts = ", ".join(f"{count} {name}" for name, count in sorted(decisions.items()))
            print(f"{path.name}: {len(labels)} labels: {counts}", file=sys.stderr)
        for label in labels:
            if label.decision == "failed":
                print(f"{label.segment.id}: {'; '.join(label.reasons)}", file=sys.stderr)
    return 0
