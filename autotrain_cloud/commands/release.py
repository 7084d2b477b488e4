"""`vitconformer release`: the signed repository that devices take their models from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotrain_cloud.release import Repository

NAME = "release"
HELP = "the signed repository that devices take their models from"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    parser.add_argument("--repo", type=Path, metavar="DIR", help="to be served")
    parser.add_argument("--keys", type=Path, metavar="DIR", help="private keys; never to be served")
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = verbs.add_parser("init", help="a new repository, with new keys")
    init.add_argument("families", nargs="+", metavar="FAMILY", help="names of bundles, en-demo")
    add = verbs.add_parser("add", help="a further family of models")
    add.add_argument("family", metavar="FAMILY")
    publish = verbs.add_parser("publish", help="make a bundle the release of its family")
    publish.add_argument("bundle", type=Path, metavar="BUNDLE")
    publish.add_argument(
        "--needs", nargs="+", default=[], metavar="NAME=VALUE",
        help="signed with it, for devices to compare with what they are: arch=aarch64 sm=87,89 "
        "'tensorrt=>=10.3,<11' 'agent=>=0.4' 'release=>=3'",
    )  # fmt: skip
    publish.add_argument(
        "--deltas", type=int, default=3, metavar="K",
        help="make deltas against the last K releases (default: 3)",
    )  # fmt: skip
    publish.add_argument(
        "--once", action="store_true",
        help="if this very bundle is the release already, see that nothing of it is missing",
    )  # fmt: skip
    revoke = verbs.add_parser("revoke", help="devices that do not run it yet will not")
    revoke.add_argument("family", metavar="FAMILY")
    rotate = verbs.add_parser("rotate", help="a new key for a role")
    rotate.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp, FAMILY")
    prune = verbs.add_parser("prune", help="remove what only old releases need")
    prune.add_argument("family", metavar="FAMILY")
    prune.add_argument("--keep", type=int, default=3, metavar="K", help="releases (default: 3)")
    root = verbs.add_parser("root", help="a new root, where its keys are on another machine")
    steps = root.add_subparsers(dest="step", required=True, metavar="STEP")
    propose = steps.add_parser("propose", help="write the next root, unsigned")
    propose.add_argument("file", type=Path, metavar="FILE")
    propose.add_argument(
        "--rotate", nargs="+", default=[], metavar="ROLE",
        help="with new keys for these: targets, snapshot, timestamp",
    )  # fmt: skip
    propose.add_argument(
        "--add", nargs="+", default=[], type=Path, metavar="PUBLIC", help="further root keys"
    )
    propose.add_argument("--drop", nargs="+", default=[], metavar="KEYID", help="root keys to end")
    key = steps.add_parser("key", help="make a root key (on its own machine; no --repo, no --keys)")
    key.add_argument("file", type=Path, metavar="PEM", help="PEM.pub is what `propose --add` takes")
    sign = steps.add_parser("sign", help="sign a proposed root (likewise)")
    sign.add_argument("file", type=Path, metavar="FILE")
    sign.add_argument("key", metavar="KEY", help="PEM file, or URI of a key service")
    sign.add_argument("--keyid", default="", help="of the root, with a URI")
    adopt = steps.add_parser("adopt", help="make a signed proposal the root that devices follow")
    adopt.add_argument("file", type=Path, metavar="FILE")
    verbs.add_parser("refresh", help="sign anew what says how fresh everything is: daily")
    verbs.add_parser("status", help="releases, and how long every role is valid")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.release import KeyRing, Repository
    from edge_runtime.bundle import Bundle
    from edge_runtime.errors import ConfigError

    if args.action == "root" and args.step in ("key", "sign"):
        return _away(args)
    for name in ("repo", "keys"):
        if getattr(args, name) is None:
            raise ConfigError(f"--{name}: a folder is needed")
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
            repository.publish(bundle, needs, last=args.deltas)
        elif not repository.publish_once(bundle, needs, last=args.deltas):
            print("was published already", file=sys.stderr)
        print(bundle.manifest.release_counter)
    elif args.action == "add":
        repository.add(args.family)
    elif args.action == "prune":
        if args.keep < 1:
            raise ConfigError("--keep: 1 or more")
        print(f"{repository.prune(args.family, args.keep) / 1e6:.1f} MB removed")
    elif args.action == "root":
        return _root(args, repository)
    elif args.action == "revoke":
        repository.revoke(args.family)
    elif args.action == "rotate":
        repository.rotate(args.role)
    elif args.action == "refresh":
        repository.refresh()
    for line in repository.status() if args.action == "status" else ():
        print(line)
    return 0


def _root(args: argparse.Namespace, repository: Repository) -> int:
    """The steps of a ceremony that need the repository."""
    from securesystemslib.signer import Key

    from autotrain_cloud import ceremony
    from edge_runtime.errors import ConfigError
    from edge_runtime.files import write_atomically

    if args.step == "adopt":
        print(ceremony.adopt(repository, args.file))
        return 0
    added = []
    for path in args.add:
        try:
            one = json.loads(path.read_text("utf-8"))
            added.append(Key.from_dict(one["keyid"], dict(one["public"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: is not a public key of `root key`: {error!r}") from error
    content = ceremony.propose(repository, rotate=args.rotate, add=added, drop=args.drop)
    write_atomically(args.file, content)
    print(
        f"{args.file}: to be signed with `vitconformer release root sign`, then adopted here",
        file=sys.stderr,
    )
    return 0


def _away(args: argparse.Namespace) -> int:
    """The steps that a machine without the repository does."""
    from autotrain_cloud import ceremony
    from edge_runtime.files import write_atomically

    if args.step == "sign":
        print(ceremony.sign(args.file, args.key, args.keyid), "signatures")
        return 0
    key = ceremony.new_key(args.file)
    described = {"keyid": key.keyid, "public": key.to_dict()}
    write_atomically(args.file.with_name(f"{args.file.name}.pub"), json.dumps(described).encode())
    print(key.keyid)
    return 0
