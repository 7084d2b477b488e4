"""`vitconformer cloud devices`: the fleet, as it last reported."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from typing import Any

from autotrain_cloud.commands.config import add_config_option, open_store

HELP = "list devices, or show one with its updates and telemetry"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="names that begin so")
    parser.add_argument("--state", choices=("unknown", "online", "offline", "stopped"))
    parser.add_argument("--model", metavar="VERSION", help="that they run")
    parser.add_argument("--slice", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one object a line")


def run(args: argparse.Namespace) -> int:
    store = open_store(args)
    try:
        return _show(store, args) if args.name else _list(store, args)
    finally:
        store.close()


def _list(store: Any, args: argparse.Namespace) -> int:
    from autotrain_cloud.api import reads

    after, seen = "", 0
    while True:
        with store.read() as db:
            rows = reads.device_page(
                db, prefix=args.prefix, state=args.state, model=args.model, slice=args.slice,
                after=after, limit=500,
            )  # fmt: skip
        for row in rows:
            if args.json:
                print(json.dumps(dict(row._mapping), ensure_ascii=False))
                continue
            at = datetime.fromtimestamp(row.last_seen_ms / 1000, timezone.utc)
            print(
                f"{row.name:24} {row.state:8} {row.model_version or '-':12} {at:%Y-%m-%d %H:%M}  "
                f"{row.slice or ''}".rstrip()
            )
        seen += len(rows)
        if len(rows) < 500:
            break
        after = rows[-1].name
    if not seen:
        sys.stderr.write("no devices\n")
    return 0


def _show(store: Any, args: argparse.Namespace) -> int:
    from autotrain_cloud.api import reads
    from edge_runtime.errors import ConfigError

    with store.read() as db:
        row = reads.device(db, args.name)
        if row is None:
            raise ConfigError(f"{args.name}: no such device")
        found = {
            **row._mapping,
            "consents": [dict(one._mapping) for one in reads.consents_of(db, args.name)],
            "updates": [dict(one._mapping) for one in reads.update_page(db, args.name, limit=20)],
            "telemetry": [
                dict(one._mapping) for one in reads.telemetry_page(db, args.name, limit=20)
            ],
        }
    print(json.dumps(found, ensure_ascii=False, indent=None if args.json else 2))
    return 0
