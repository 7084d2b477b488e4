"""`vitconformer cloud rollouts`: how far releases are, and to stop or go on with them."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autotrain_cloud.commands.config import add_config_option, now_ms, open_store

HELP = "rollouts: list, show, approve, pause, resume, halt, back"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions to `parser`."""
    common = argparse.ArgumentParser(add_help=False)
    add_config_option(common)
    common.add_argument("--json", action="store_true", help="JSON on stdout")
    actions = parser.add_subparsers(dest="rollouts_action", required=True, metavar="ACTION")
    for name, help in (
        ("list", "all rollouts, the newest first"),
        ("show", "one rollout: how far it is, and its log"),
        ("approve", "agree to it; its author cannot"),
        ("pause", "no further devices for now"),
        ("resume", "go on; after a halt what was held against the release is forgotten"),
        ("halt", "stop: devices that have not begun with the release do not"),
        ("back", "after a halt: devices are to run the previous model again"),
    ):
        action = actions.add_parser(name, help=help, description=help, parents=[common])
        if name != "list":
            action.add_argument("rollout", metavar="ROLLOUT")
        if name not in ("list", "show"):
            action.add_argument("--by", required=True, metavar="NAME", help="who decides")
        if name in ("pause", "resume", "halt", "back"):
            action.add_argument("--why", default="", metavar="TEXT", help="kept in the log")


def run(args: argparse.Namespace) -> int:
    store = open_store(args)
    try:
        if args.rollouts_action == "list":
            return _list(store, args)
        if args.rollouts_action != "show":
            _act(store, args)
        return _show(store, args)
    finally:
        store.close()


def _act(store: Any, args: argparse.Namespace) -> None:
    from autotrain_cloud.rollout.controller import Rollout
    from autotrain_cloud.rollout.log import Entry
    from autotrain_cloud.service.roll import Rolling

    now = now_ms()

    def do(rollout: Rollout) -> list[Entry]:
        if args.rollouts_action == "approve":
            return rollout.approve(args.by, now)
        acts = {
            "pause": rollout.pause, "resume": rollout.resume, "halt": rollout.halt,
            "back": rollout.go_back,
        }  # fmt: skip
        return acts[args.rollouts_action](args.by, args.why, now)

    def nobody(bundle: Path, above: Any) -> Any:
        raise NotImplementedError  # whoever steps the rollout publishes

    Rolling(store, nobody).act(args.rollout, do, now)


def _list(store: Any, args: argparse.Namespace) -> int:
    from autotrain_cloud.api import reads

    with store.read() as db:
        rows = reads.rollout_page(db)
    for row in rows:
        if args.json:
            print(json.dumps(dict(row._mapping), ensure_ascii=False))
        else:
            print(f"{row.id:24} {row.state:18} {row.plan['release']['version']:16} "
                  f"{_time(row.created_ms)}")  # fmt: skip
    if not rows:
        sys.stderr.write("no rollouts\n")
    return 0


def _show(store: Any, args: argparse.Namespace) -> int:
    from autotrain_cloud.api import reads
    from autotrain_cloud.api.progress import Replays
    from edge_runtime.errors import ConfigError

    with store.read() as db:
        row = reads.rollout(db, args.rollout)
        if row is None:
            raise ConfigError(f"{args.rollout}: no such rollout")
        progress = Replays().progress(db, row)
        log = [one.entry for one in reads.rollout_entries(db, args.rollout)]
    if args.json:
        print(json.dumps({**row._mapping, "progress": progress, "log": log}, ensure_ascii=False))
        return 0
    share = progress["stages"][progress["stage"]]
    counts = ", ".join(f"{name} {count}" for name, count in progress["by_status"].items())
    print(f"{row.id}: {row.state}{': ' if progress['reason'] else ''}{progress['reason']}")
    print(f"release {row.plan['release']['version']}, before {row.plan['previous']['version']}")
    print(f"stage {progress['stage'] + 1} of {len(progress['stages'])} ({share:.0%})")
    print(f"devices {progress['devices']}; {counts or 'none has been given it'}")
    for entry in log:
        if entry["type"] not in ("Joined", "Contacted", "Finished"):
            reason = f": {entry['reason']}" if entry["reason"] else ""
            print(f"  {_time(entry['at_ms'])}  {entry['who']}  {entry['type'].lower()}{reason}")
    return 0


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
