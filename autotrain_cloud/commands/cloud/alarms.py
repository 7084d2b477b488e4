"""`vitconformer cloud alarms`: what became worse, in words."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone

from autotrain_cloud.commands.config import add_config_option, open_store

HELP = "alarms of the monitor, the newest first"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("--all", action="store_true", help="those that are over as well")
    parser.add_argument("--level", choices=("fleet", "slice", "device"))
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="(50)")
    parser.add_argument("--json", action="store_true", help="one object a line")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.api import reads
    from edge_runtime.errors import ConfigError

    if args.limit < 1:
        raise ConfigError(f"--limit: {args.limit} (expected 1 or more)")
    store = open_store(args)
    try:
        with store.read() as db:
            rows = reads.alarm_page(db, open_only=not args.all, level=args.level, limit=args.limit)
    finally:
        store.close()
    for row in rows:
        if args.json:
            print(json.dumps(dict(row._mapping), ensure_ascii=False))
            continue
        at = datetime.fromtimestamp(row.opened_ms / 1000, timezone.utc)
        over = "" if row.closed_ms is None else f"  over: {row.closed_reason}"
        print(f"{at:%Y-%m-%d %H:%M}  {row.text}{over}")
    if not rows:
        sys.stderr.write("no alarms\n" if args.all else "no open alarms\n")
    return 0
