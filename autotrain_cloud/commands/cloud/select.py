"""`vitconformer cloud select`: labels to a frozen data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "choose from labels what a student learns next, and freeze it as a data set"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "labels",
        type=Path,
        nargs="+",
        metavar="LABELS",
        help="shards of labels, or their folders",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of data sets")
    parser.add_argument("--name", default="train", help="of the data set (default: train)")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="TOML, see docs/data.md")
    parser.add_argument(
        "--domain", action="append", default=[], metavar="NAME=FILE",
        help="a domain by 20 to 300 example sentences, one a line; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--replay", type=Path, nargs="*", default=[], metavar="DATASET",
        help="older data sets; they become parents",
    )  # fmt: skip
    parser.add_argument(
        "--guard", type=Path, nargs="*", default=[], metavar="DATASET",
        help="guard sets: nothing of theirs is selected",
    )  # fmt: skip
    parser.add_argument(
        "--manifests", action="store_true",
        help="also DIR/train.jsonl and DIR/dev.jsonl, for `vitconformer features`",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the data set's head")


def run(args: argparse.Namespace) -> int:
    """Prints the data set's folder."""
    from autotrain_cloud.commands.files import files_of
    from autotrain_cloud.datasets.export import export
    from autotrain_cloud.datasets.guard import leaks
    from autotrain_cloud.datasets.manifest import Dataset, freeze
    from autotrain_cloud.labels.label import read_labels
    from autotrain_cloud.selection.domains import read_examples
    from autotrain_cloud.selection.select import SelectionSettings, select
    from autotrain_cloud.tables import to_plain
    from edge_runtime.errors import ConfigError
    from edge_runtime.settings import read_settings

    settings = SelectionSettings()
    if args.settings:
        settings = read_settings(SelectionSettings, args.settings)
    examples = {}
    for text in args.domain:
        name, _, file = text.partition("=")
        if not name or not file:
            raise ConfigError(f"--domain: expected NAME=FILE, not {text!r}")
        examples[name] = read_examples(Path(file))
    parents = [Dataset.open(path) for path in args.replay]
    found = select(
        [label for path in files_of(args.labels, ".parquet") for label in read_labels(path)],
        settings,
        examples=examples,
        old=[row for dataset in parents for row in dataset.rows],
    )
    guard = [row for path in args.guard for row in Dataset.open(path).rows]
    leaking = {leak.training: leak for leak in leaks(guard, found.rows)}
    for leak in leaking.values():
        what = f"{leak.training}: not taken: {leak.kind} of the guard set's {leak.guard}"
        print(what, file=sys.stderr)
    # A voice leaks with every row that it has, of which the check names one.
    voices = {(row.device, row.speaker) for row in guard}
    rows = [
        row
        for row in found.rows
        if row.segment_id not in leaking and (row.device, row.speaker) not in voices
    ]
    dataset = freeze(
        args.out,
        args.name,
        rows,
        settings={"selection": to_plain(settings), "domains": examples},
        parents=tuple(parent.hash for parent in parents),
    )
    if args.manifests:
        export(dataset, args.out / "train.jsonl", splits=("train", "replay"))
        export(dataset, args.out / "dev.jsonl", splits=("dev",))
    if args.json:
        print(json.dumps({"path": str(dataset.path), **to_plain(dataset.head)}))
    else:
        print(dataset.path)
        left = f"{len(found.left_out)} of the labels left out"
        print(f"{dataset.head.segments} segments, {dataset.head.hours:.2f} h; {left}",
              file=sys.stderr)  # fmt: skip
    return 0
