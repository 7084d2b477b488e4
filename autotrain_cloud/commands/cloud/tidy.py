"""`vitconformer cloud tidy`: the upkeep of the store, for a timer."""

from __future__ import annotations

import argparse
import json

from autotrain_cloud.commands.config import add_config_option, forget, open_store, read_config

HELP = "delete what has outlived its retention, and audio that nothing refers to: weekly"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    import time

    from autotrain_cloud.store import spool
    from autotrain_cloud.store.engine import scrub
    from autotrain_cloud.store.upkeep import forget_old

    retention = read_config(args).retention
    store = open_store(args)
    try:
        done = {
            "forgotten": forget_old(store, retention, now_ms=time.time_ns() // 1_000_000),
            "buried": spool.bury(store),
            "swept": spool.sweep(store),
        }
        scrub(store.engine)
        copies = forget(args, store)
        done["results"] = copies.results if copies else 0
    finally:
        store.close()
    if args.json:
        print(json.dumps(done))
    else:
        print(
            f"{done['forgotten']} rows forgotten, {done['buried']} erased recordings buried,"
            f" {done['swept']} objects swept, {done['results']} results of runs deleted"
        )
    return 0
