"""`vitconformer cloud erase`: what was recorded goes, here and on devices, and does not return."""

from __future__ import annotations

import argparse
import json

from autotrain_cloud.commands.config import add_config_option, now_ms, open_store

HELP = "delete segments, all of a consent or all of a device; says which models they are in"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("--segments", nargs="+", default=[], metavar="ID")
    parser.add_argument("--consents", nargs="+", default=[], metavar="CONSENT")
    parser.add_argument("--devices", nargs="+", default=[], metavar="DEVICE")
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept with the request")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from autotrain_cloud.store import erasure

    store = open_store(args)
    try:
        done = erasure.erase(
            store,
            segments=args.segments,
            consents=args.consents,
            devices=args.devices,
            reason=args.reason,
            now_ms=now_ms(),
        )
    finally:
        store.close()
    if args.json:
        print(json.dumps(asdict(done)))
        return 0
    print(f"request {done.id}: {done.segments} segments deleted")
    print(f"devices told: {', '.join(done.devices) or 'none'}")
    print(f"data sets they were in: {', '.join(done.lineage.datasets) or 'none'}")
    models = ", ".join(f"{name} {version}" for name, version in done.lineage.models)
    print(f"models trained on them: {models or 'none'}")
    return 0
