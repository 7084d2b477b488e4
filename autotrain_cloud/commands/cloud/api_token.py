"""`vitconformer cloud api-token`: who may use the HTTP interface."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from typing import Any

from autotrain_cloud.commands.config import add_config_option, now_ms, open_store

HELP = "tokens for the HTTP interface: add, list, revoke"
DAY_MS = 86_400_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    add = verbs.add_parser("add", help="a new token; it is shown this once")
    add.add_argument("name", metavar="NAME", help="of who uses it; the journal will have it")
    add.add_argument(
        "--role", choices=("viewer", "operator", "admin"), default="viewer",
        help="viewer sees, operator acts, admin approves and erases (viewer)",
    )  # fmt: skip
    add.add_argument("--days", type=float, default=90, metavar="N", help="it is valid (90)")
    shown = verbs.add_parser("list", help="every token, but for its secret")
    revoke = verbs.add_parser("revoke", help="end a token now")
    revoke.add_argument("name", metavar="NAME")
    for verb in (add, shown, revoke):
        add_config_option(verb)
        verb.add_argument("--json", action="store_true", help="JSON on stdout")


def run(args: argparse.Namespace) -> int:
    store = open_store(args)
    try:
        return _run(store, args)
    finally:
        store.close()


def _run(store: Any, args: argparse.Namespace) -> int:
    from autotrain_cloud import api_tokens
    from autotrain_cloud.service import journal
    from edge_runtime.errors import ConfigError

    now = now_ms()
    if args.what == "list":
        with store.read() as db:
            rows = api_tokens.all_tokens(db)
        if args.json:
            print(json.dumps([dict(row._mapping) for row in rows]))
        for row in () if args.json else rows:
            state = "revoked" if row.revoked_ms else "ended" if now >= row.expires_ms else "valid"
            print(f"{row.name:24} {row.role:9} {state:8} until {_day(row.expires_ms)}")
        if not rows:
            sys.stderr.write("no tokens; `vitconformer cloud api-token add NAME` makes one\n")
        return 0
    if args.what == "add":
        if not 0 < args.days <= 3650:
            raise ConfigError(f"--days: {args.days:g} (expected up to ten years)")
        with store.begin() as db:
            secret = api_tokens.add(
                db, args.name, args.role, now_ms=now, valid_ms=round(args.days * DAY_MS)
            )
            journal.note(db, "token", args.name, f"added, {args.role}", now_ms=now)
        print(json.dumps({"name": args.name, "token": secret}) if args.json else secret)
        sys.stderr.write("keep it well: it is not stored and cannot be shown again\n")
        return 0
    with store.begin() as db:
        api_tokens.revoke(db, args.name, now_ms=now)
        journal.note(db, "token", args.name, "revoked", now_ms=now)
    print(json.dumps({"name": args.name}) if args.json else f"{args.name}: revoked")
    return 0


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d")
