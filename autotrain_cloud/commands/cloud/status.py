"""`vitconformer cloud status`: the fleet and what is going on, in numbers."""

from __future__ import annotations

import argparse
import json

from autotrain_cloud.commands.config import add_config_option, now_ms, open_store

HELP = "the fleet, open alarms and rollouts, in numbers"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.api import reads

    store = open_store(args)
    now = now_ms()
    try:
        with store.read() as db:
            found = reads.overview(db, now_ms=now)
            rollouts = [row._mapping for row in reads.rollout_page(db, open_only=True)]
    finally:
        store.close()
    if args.json:
        print(json.dumps({**found, "rollouts": [dict(row) for row in rollouts]}))
        return 0
    ingest = found["ingest"]
    last = ingest["last_segment_ms"]
    ago = "none yet" if last is None else f"the last {max(0, now - last) // 1000} s ago"
    print(f"devices      {found['devices']:>9}  {_counts(found['devices_by_state'])}")
    print(f"models       {found['models']:>9}  on devices: {_counts(found['devices_by_model'])}")
    print(f"segments     {found['segments']:>9}  {found['segments_today']} in a day, {ago}")
    print(f"labels       {found['labels']:>9}")
    print(f"data sets    {found['datasets']:>9}")
    print(f"to publish   {ingest['to_publish']:>9}")
    print(f"dead letters {ingest['dead_letters']:>9}")
    print(f"open alarms  {found['open_alarms']:>9}")
    for row in rollouts:
        print(f"rollout {row['id']}: {row['state']}")
    return 0


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name or 'none'} {count}" for name, count in found.items()) or "none"
