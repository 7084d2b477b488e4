"""`vitconformer cloud noise`: what devices hear between words, as clips to train with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "cut the noise between words out of shards of segments, as a manifest of clips"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shards", type=Path, nargs="+", metavar="SHARD",
        help=".jsonl, .parquet, or folders of .jsonl",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="noise.jsonl and its audio"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the manifest's path."""
    from autotrain_cloud.commands.files import files_of
    from autotrain_cloud.noise import MANIFEST, write_noise

    clips = write_noise(files_of(args.shards, ".jsonl"), args.out)
    print(args.out / MANIFEST)
    print(f"{clips} clips", file=sys.stderr)
    return 0
