"""`vitconformer cloud ledger`: what was promoted, by whom and why, and that nobody changed it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "the promotion ledger: show it, verify its chain, or send it to MLflow"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    show = verbs.add_parser("show", help="its entries, oldest first")
    verify = verbs.add_parser("verify", help="whether every entry is as it was written")
    verify.add_argument(
        "--head", default="", metavar="HASH", help="of an entry that must be there, from a note"
    )
    mirror = verbs.add_parser("mirror", help="send what an MLflow tracking server lacks of it")
    mirror.add_argument("--to", required=True, metavar="URL", help="of the server")
    for verb in (show, verify, mirror):
        verb.add_argument("file", type=Path, metavar="FILE")
        verb.add_argument("--json", action="store_true", help="JSON on stdout")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.gate.ledger import verify
    from edge_runtime.cli import OK
    from edge_runtime.errors import ConfigError

    if not args.file.is_file():
        raise ConfigError(f"{args.file}: there is no ledger here")
    if args.verb == "mirror":
        return _mirror(args)
    reading = verify(args.file, head=getattr(args, "head", ""))
    if reading.torn:
        sys.stderr.write(
            f"warning: {args.file}:{len(reading.entries) + 1}: an unfinished line of "
            f"{len(reading.torn)} bytes, of a writer that was stopped; the next entry replaces it\n"
        )
    if args.verb == "verify":
        if args.json:
            found = {"entries": len(reading.entries), "head": reading.head}
            print(json.dumps({**found, "unfinished_bytes": len(reading.torn)}))
        else:
            print(f"{len(reading.entries)} entries, unchanged; head {reading.head}")
        return OK
    for entry in reading.entries:
        if args.json:
            print(json.dumps(entry.to_json()))
            continue
        body = entry.body
        names = " ".join(
            f"{role} {body[role]['version']} ({body[role]['digest'][:12]})"
            for role in ("challenger", "champion")
            if isinstance(body.get(role), dict)
        )
        print(f"{entry.number:5} {entry.at} {entry.who} {entry.kind} {body.get('decision', '')} "
              f"{names}".rstrip())  # fmt: skip
        for reason in body.get("reasons", ()):
            print(f"      {reason}")
    return OK


def _mirror(args: argparse.Namespace) -> int:
    from autotrain_cloud.gate.mirror import Mirror
    from edge_runtime.cli import OK

    mirror = Mirror(args.file, args.to)
    sent = 0
    while count := mirror.send():
        sent += count
    found = {"sent": sent, "waiting": mirror.waiting()}
    print(json.dumps(found) if args.json else "{sent} entries sent, {waiting} wait".format(**found))
    return OK
