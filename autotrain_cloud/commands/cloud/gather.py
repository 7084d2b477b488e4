"""`vitconformer cloud gather`: what devices sent, as shards for teachers."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from autotrain_cloud.commands.config import add_config_option, open_store

HELP = "write segments of the store, with their audio, as shards for `label`"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--slice", metavar="NAME", help="of devices of this slice only")
    parser.add_argument(
        "--since-ms", type=int, default=0, metavar="MS", help="received from then on (1970)"
    )
    parser.add_argument("--until-ms", type=int, metavar="MS", help="received before (default: now)")
    parser.add_argument("--shard", type=int, default=200, metavar="N", help="segments in a file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Prints the shards' paths."""
    from autotrain_cloud.service.gather import gather
    from edge_runtime.errors import ConfigError

    if args.shard < 1:
        raise ConfigError("--shard must be positive")
    until_ms = args.until_ms if args.until_ms is not None else time.time_ns() // 1_000_000
    store = open_store(args)
    try:
        found = gather(
            store, args.out,
            slice=args.slice, since_ms=args.since_ms, until_ms=until_ms, size=args.shard,
        )  # fmt: skip
    finally:
        store.close()
    for path in found.shards:
        print(path)
    print(f"{found.segments} segments, {found.hours:.2f} h", file=sys.stderr)
    return 0
