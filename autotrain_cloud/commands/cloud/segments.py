"""`vitconformer cloud segments`: what devices have sent."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autotrain_cloud.commands.config import add_config_option, open_store

HELP = "list segments, or show one with its labels, data sets and models"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("id", nargs="?", metavar="ID", help="show this one")
    parser.add_argument("--device", metavar="NAME")
    parser.add_argument("--model", metavar="VERSION")
    parser.add_argument("--language", metavar="TAG")
    parser.add_argument("--consent", metavar="ID")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="newest (default: 20)")
    parser.add_argument("--audio", type=Path, metavar="FILE", help="write the one's audio there")
    parser.add_argument("--json", action="store_true", help="one object a line")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.errors import ConfigError

    if args.audio and not args.id:
        raise ConfigError("--audio: which segment? (expected an ID)")
    store = open_store(args)
    try:
        return _show(store, args) if args.id else _list(store, args)
    finally:
        store.close()


def _list(store: Any, args: argparse.Namespace) -> int:
    from autotrain_cloud.store import segments

    with store.read() as db:
        rows = segments.find(
            db,
            device=args.device,
            model_version=args.model,
            language=args.language,
            consent=args.consent,
            limit=args.limit,
        )
    for row in rows:
        if args.json:
            print(json.dumps(dict(row._mapping), ensure_ascii=False))
        else:
            print(
                f"{row.id}  {_time(row.received_ms)}  {row.device}  {row.duration_s:5.1f} s  "
                f"{row.confidence:4.0%}  {row.text}"
            )
    if not rows:
        sys.stderr.write("no segments\n")
    return 0


def _show(store: Any, args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from autotrain_cloud.store import segments
    from autotrain_cloud.store.lineage import lineage
    from edge_runtime.errors import ConfigError
    from edge_runtime.files import write_atomically

    with store.read() as db:
        row = segments.get(db, args.id)
        if row is None:
            raise ConfigError(f"{args.id}: no such segment")
        labels = [dict(label._mapping) for label in segments.labels_of(db, args.id)]
        found = lineage(db, [args.id])
    if args.audio:
        write_atomically(args.audio, store.audio(row.audio))
    whole = {**row._mapping, "labels": labels, "lineage": asdict(found)}
    print(json.dumps(whole, ensure_ascii=False, indent=None if args.json else 2))
    return 0


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
