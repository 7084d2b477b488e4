"""`vitconformer cloud review`: labels that people should look at, out to Label Studio and back."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "what people should listen to: to Label Studio, and back into labels"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    out = actions.add_parser("export", help="tasks for Label Studio, most telling first")
    out.add_argument("labels", type=Path, nargs="+", metavar="LABELS", help="shards of labels")
    out.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON")
    out.add_argument("--count", type=int, default=100, metavar="N", help="default: 100")
    back = actions.add_parser("import", help="labels with people's answers in them")
    back.add_argument("labels", type=Path, nargs="+", metavar="LABELS", help="shards of labels")
    back.add_argument("--reviews", type=Path, required=True, metavar="FILE",
                      help="Label Studio's JSON export")  # fmt: skip
    back.add_argument("--out", type=Path, required=True, metavar="FILE", help="a shard of labels")
    config = actions.add_parser("config", help="the labelling configuration for Label Studio")
    for parser_ in (out, back, config):
        parser_.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud import label_studio
    from autotrain_cloud.labels.label import read_labels
    from autotrain_cloud.labels.records import Label
    from autotrain_cloud.review import apply, queue
    from autotrain_cloud.tables import write_rows
    from edge_runtime.errors import ConfigError

    if args.task == "config":
        print(json.dumps({"config": label_studio.CONFIG}) if args.json else label_studio.CONFIG)
        return 0
    labels = [label for path in args.labels for label in read_labels(path)]
    if args.task == "export":
        if args.count < 1:
            raise ConfigError("--count must be positive")
        items = queue(labels, args.count)
        by_id = {label.segment.id: label for label in labels}
        count = label_studio.export_tasks(items, by_id, args.out)
    else:
        reviews = label_studio.import_reviews(args.reviews)
        write_rows(args.out, Label, apply(labels, reviews))
        count = len(reviews)
    print(json.dumps({"path": str(args.out), "count": count}) if args.json else args.out)
    print(f"{count} {'tasks' if args.task == 'export' else 'reviews'}", file=sys.stderr)
    return 0
