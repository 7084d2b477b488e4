"""`vitconformer release`: the signed repository that devices take their models from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "release"
HELP = "the signed repository that devices take their models from"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    parser.add_argument("--repo", type=Path, required=True, metavar="DIR", help="to be served")
    parser.add_argument(
        "--keys", type=Path, required=True, metavar="DIR", help="private keys; never to be served"
    )
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = verbs.add_parser("init", help="a new repository, with new keys")
    init.add_argument("families", nargs="+", metavar="FAMILY", help="names of bundles, en-demo")
    publish = verbs.add_parser("publish", help="make a bundle the release of its family")
    publish.add_argument("bundle", type=Path, metavar="BUNDLE")
    publish.add_argument(
        "--needs", nargs="+", default=[], metavar="NAME=VALUE",
        help="signed with it, for devices to compare with what they are",
    )  # fmt: skip
    publish.add_argument(
        "--once", action="store_true",
        help="if this very bundle is the release already, see that nothing of it is missing",
    )  # fmt: skip
    revoke = verbs.add_parser("revoke", help="devices that do not run it yet will not")
    revoke.add_argument("family", metavar="FAMILY")
    rotate = verbs.add_parser("rotate", help="a new key for a role")
    rotate.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp, FAMILY")
    verbs.add_parser("refresh", help="sign anew what says how fresh everything is: daily")
    verbs.add_parser("status", help="releases, and how long every role is valid")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.release import KeyRing, Repository
    from edge_runtime.bundle import Bundle
    from edge_runtime.errors import ConfigError

    if args.action == "init":
        Repository.create(args.repo, args.keys, args.families)
        print(args.repo / "metadata" / "1.root.json")
        print(
            "This file goes onto devices. Two of the three root keys belong somewhere else: "
            "whoever has two of them can do anything.",
            file=sys.stderr,
        )
        return 0
    repository = Repository(args.repo, KeyRing.load(args.keys))
    if args.action == "publish":
        needs = dict(text.partition("=")[::2] for text in args.needs)
        if "" in needs or not all(needs.values()):
            raise ConfigError(f"--needs: expected NAME=VALUE, not {' '.join(args.needs)!r}")
        bundle = Bundle.open(args.bundle)
        if not args.once:
            repository.publish(bundle, needs)
        elif not repository.publish_once(bundle, needs):
            print("was published already", file=sys.stderr)
        print(bundle.manifest.release_counter)
    elif args.action == "revoke":
        repository.revoke(args.family)
    elif args.action == "rotate":
        repository.rotate(args.role)
    elif args.action == "refresh":
        repository.refresh()
    for line in repository.status() if args.action == "status" else ():
        print(line)
    return 0
