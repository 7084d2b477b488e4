"""`vitconformer cloud dead-letters`: what was refused for good, and why."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from autotrain_cloud.commands.config import add_config_option, open_store

HELP = "list what was refused for good, or take the bytes of one"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("number", nargs="?", type=int, metavar="NUMBER", help="only this one")
    parser.add_argument("--reason", metavar="TOKEN", help="malformed, digest-mismatch, ...")
    parser.add_argument("--device", metavar="NAME")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="newest (default: 50)")
    parser.add_argument("--payload", type=Path, metavar="FILE", help="write the one's bytes there")
    parser.add_argument("--json", action="store_true", help="one object a line")


def run(args: argparse.Namespace) -> int:
    from sqlalchemy import select

    from autotrain_cloud.store.schema import dead_letters
    from edge_runtime.errors import ConfigError
    from edge_runtime.files import write_atomically

    if args.payload and args.number is None:
        raise ConfigError("--payload: which one? (expected a NUMBER)")
    wanted = select(dead_letters).order_by(dead_letters.c.number.desc()).limit(args.limit)
    for column, value in (
        (dead_letters.c.number, args.number),
        (dead_letters.c.reason, args.reason),
        (dead_letters.c.device, args.device),
    ):
        if value is not None:
            wanted = wanted.where(column == value)
    store = open_store(args)
    try:
        with store.read() as db:
            rows = db.execute(wanted).all()
    finally:
        store.close()
    if args.number is not None and not rows:
        raise ConfigError(f"{args.number}: no such dead letter")
    if args.payload:
        write_atomically(args.payload, bytes(rows[0].payload))
    for row in rows:
        facts = {name: value for name, value in row._mapping.items() if name != "payload"}
        if args.json:
            print(json.dumps(facts, ensure_ascii=False))
        else:
            print(f"{row.number}  {row.topic}  {row.reason}  {row.times}x  {row.detail}")
    if not rows:
        sys.stderr.write("none\n")
    return 0
