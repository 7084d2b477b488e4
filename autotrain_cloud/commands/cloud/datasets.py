"""`vitconformer cloud datasets`: look at data sets, compare them, query them, erase from them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HELP = "show, compare, query, export data sets, make guard sets, erase from them"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    show = _task(actions, "show", "what a data set is, and what is in it")
    show.add_argument("dataset", type=Path, metavar="DATASET")
    diff = _task(actions, "diff", "what became of every segment from one data set to another")
    diff.add_argument("before", type=Path, metavar="BEFORE")
    diff.add_argument("after", type=Path, metavar="AFTER")
    query = _task(actions, "query", "SQL over the table `rows`, by DuckDB")
    query.add_argument("dataset", type=Path, metavar="DATASET")
    query.add_argument("sql", metavar="SQL", help="select device, count(*) from rows group by 1")
    export = _task(actions, "export", "a manifest that `vitconformer features` reads")
    export.add_argument("dataset", type=Path, metavar="DATASET")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--split", nargs="+", default=["train", "replay"], metavar="SPLIT",
                        help="default: train replay")  # fmt: skip
    erase = _task(actions, "erase", "the same data set without some segments, as its child")
    erase.add_argument("dataset", type=Path, metavar="DATASET")
    erase.add_argument("segments", nargs="+", metavar="SEGMENT")
    guard = _task(actions, "guard", "a guard set from labels of people and sources")
    guard.add_argument("labels", type=Path, nargs="+", metavar="LABELS")
    guard.add_argument("--out", type=Path, required=True, metavar="DIR")
    guard.add_argument("--settings", type=Path, metavar="FILE", help="TOML, see docs/data.md")
    guard.add_argument("--against", type=Path, nargs="*", default=[], metavar="DATASET",
                       help="training sets that it must share nothing with")  # fmt: skip


def _task(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser


def run(args: argparse.Namespace) -> int:
    status: int = globals()[f"_{args.task}"](args)
    return status


def _show(args: argparse.Namespace) -> int:
    from autotrain_cloud.datasets.manifest import Dataset
    from autotrain_cloud.tables import to_plain

    head = Dataset.open(args.dataset).head
    counts = json.loads(head.counts)
    if args.json:
        about = {**to_plain(head), "counts": counts, "settings": json.loads(head.settings)}
        print(json.dumps(about))
        return 0
    print(f"{head.name} {head.hash}")
    print(f"{head.segments} segments, {head.hours:.2f} h")
    print(f"parents: {', '.join(parent[:16] for parent in head.parents) or 'none'}")
    if head.erased:
        print(f"erased: {len(head.erased)} segments")
    for column, values in counts.items():
        listed = ", ".join(f"{value or '-'} {n}" for value, n in sorted(values.items()))
        print(f"{column}: {listed}")
    return 0


def _diff(args: argparse.Namespace) -> int:
    from autotrain_cloud.datasets.manifest import Dataset, diff
    from autotrain_cloud.tables import to_plain

    found = diff(Dataset.open(args.before), Dataset.open(args.after))
    if args.json:
        print(json.dumps(to_plain(found)))
        return 0
    for segment in found.removed:
        print(f"- {segment}")
    for segment in found.added:
        print(f"+ {segment}")
    for segment, before, after in found.relabelled:
        print(f"~ {segment} text: {before!r} -> {after!r}")
    for segment, columns in found.changed:
        print(f"~ {segment} {', '.join(columns)}")
    return 0


def _query(args: argparse.Namespace) -> int:
    from autotrain_cloud.datasets.manifest import Dataset, query

    names, found = query(Dataset.open(args.dataset), args.sql)
    if args.json:
        print(json.dumps([dict(zip(names, row, strict=True)) for row in found], default=str))
        return 0
    print("\t".join(names))
    for row in found:
        print("\t".join("" if value is None else str(value) for value in row))
    return 0


def _export(args: argparse.Namespace) -> int:
    from autotrain_cloud.datasets.export import export
    from autotrain_cloud.datasets.manifest import Dataset

    count = export(Dataset.open(args.dataset), args.out, splits=args.split)
    print(json.dumps({"path": str(args.out), "utterances": count}) if args.json else args.out)
    return 0


def _erase(args: argparse.Namespace) -> int:
    from autotrain_cloud.datasets.manifest import Dataset, erase
    from autotrain_cloud.tables import to_plain

    dataset = Dataset.open(args.dataset)
    child = erase(dataset, args.segments, args.dataset.resolve().parent)
    if child is dataset:
        print("none of these segments is in it; nothing was written", file=sys.stderr)
    about = {"path": str(child.path), **to_plain(child.head)}
    print(json.dumps(about) if args.json else child.path)
    return 0


def _guard(args: argparse.Namespace) -> int:
    from autotrain_cloud.datasets.guard import GuardSettings, guard_rows, leaks
    from autotrain_cloud.datasets.manifest import Dataset, freeze
    from autotrain_cloud.labels.label import read_labels
    from autotrain_cloud.tables import to_plain
    from edge_runtime.settings import read_settings

    settings = read_settings(GuardSettings, args.settings) if args.settings else GuardSettings()
    rows = guard_rows((label for path in args.labels for label in read_labels(path)), settings)
    training = [row for path in args.against for row in Dataset.open(path).rows]
    found = leaks(rows, training)
    for leak in found:
        print(f"{leak.guard}: {leak.kind} of training's {leak.training}", file=sys.stderr)
    if found:
        print(f"{len(found)} leaks; nothing was written", file=sys.stderr)
        return 1
    dataset = freeze(args.out, "guard", rows, settings={"guard": to_plain(settings)})
    about = {"path": str(dataset.path), **to_plain(dataset.head)}
    print(json.dumps(about) if args.json else dataset.path)
    return 0
