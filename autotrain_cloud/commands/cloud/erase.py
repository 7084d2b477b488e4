"""`vitconformer cloud erase`: what was recorded goes, here and on devices, and does not return."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from autotrain_cloud.commands.config import add_config_option, forget, now_ms, open_store

HELP = "delete segments, all of a consent or all of a device; says which models they are in"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("--segments", nargs="+", default=[], metavar="ID")
    parser.add_argument("--consents", nargs="+", default=[], metavar="CONSENT")
    parser.add_argument("--devices", nargs="+", default=[], metavar="DEVICE")
    parser.add_argument("--reason", default="", metavar="TEXT", help="kept with the request")
    parser.add_argument(
        "--pipeline", type=Path, metavar="FILE",
        help="settings of the pipeline whose folder has copies (default: what [api] names)",
    )  # fmt: skip
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
        forgotten = forget(args, store, args.pipeline)
    finally:
        store.close()
    if forgotten is None:
        print(
            "no pipeline is named (--pipeline, or `pipeline` under [api]): what its runs have "
            "copied is deleted by `vitconformer cloud learn`",
            file=sys.stderr,
        )
    elif forgotten.stopping:
        print(
            f"runs that are being stopped and still have copies: {', '.join(forgotten.stopping)}; "
            "`vitconformer cloud learn` deletes these, or `cloud tidy`",
            file=sys.stderr,
        )
    if args.json:
        copies = asdict(forgotten) if forgotten else None
        print(json.dumps({**asdict(done), "pipeline": copies}))
        return 0
    print(f"request {done.id}: {done.segments} segments deleted")
    if forgotten is not None:
        print(f"results of the pipeline deleted: {forgotten.results}")
    print(f"devices told: {', '.join(done.devices) or 'none'}")
    print(f"data sets they were in: {', '.join(done.lineage.datasets) or 'none'}")
    models = ", ".join(f"{name} {version}" for name, version in done.lineage.models)
    print(f"models trained on them: {models or 'none'}")
    return 0
