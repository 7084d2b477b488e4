"""`vitconformer ota`: what a device believes of the repository its models come from.

`conformance-client` speaks the client protocol of theupdateframework/tuf-conformance
(https://github.com/theupdateframework/tuf-conformance/blob/main/CLIENT-CLI.md) with the code that
updates use, so that the public suite can be run on it from outside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from edge_runtime.ota.trust import Trust

NAME = "ota"
HELP = "what a device believes of the repository its models come from"

_STATE = ".vitconformer"  # in METADATA_DIR: what we keep; beside it, copies for the suite to read


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    client = actions.add_parser(
        "conformance-client", help="speaks the client protocol of the TUF conformance suite"
    )
    client.add_argument("--metadata-dir", type=Path, required=True, metavar="DIR")
    client.add_argument("--metadata-url", default="", metavar="URL")
    client.add_argument("--target-name", default="", metavar="PATH")
    client.add_argument("--target-base-url", default="", metavar="URL")
    client.add_argument("--target-dir", type=Path, metavar="DIR")
    commands = client.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("init", help="trust a root").add_argument("root", type=Path)
    commands.add_parser("refresh", help="bring the metadata up to date")
    commands.add_parser("download", help="fetch a target")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.errors import ConfigError
    from edge_runtime.ota.errors import SourceError
    from edge_runtime.ota.fs import RealFs
    from edge_runtime.ota.http import HttpSource
    from edge_runtime.ota.trust import Trust

    if args.command != "init" and not args.metadata_url:
        raise ConfigError("--metadata-url: where the repository's metadata is")
    fs = RealFs(args.metadata_dir / _STATE)
    if args.command == "init":
        root = args.root.read_bytes()
        fs.write("root.json", root)
        (args.metadata_dir / "root.json").write_bytes(root)
        return 0
    trust = Trust(fs, HttpSource(args.metadata_url), root=fs.read("root.json"), metadata="")
    try:
        target = trust.target(args.target_name or None)
    finally:
        _show(trust, args.metadata_dir)
    if args.command == "refresh":
        return 0
    if target is None:
        raise SourceError(f"{args.target_name}: there is no such target")
    if args.target_dir is None:
        raise ConfigError("--target-dir: where the target goes")
    return _download(trust, target, HttpSource(args.target_base_url), args.target_dir)


def _download(trust: Trust, target: Any, source: Any, folder: Path) -> int:
    """Fetches `target` unless `folder` has it already."""
    from edge_runtime.errors import BundleTampered
    from edge_runtime.files import write_atomically

    kind, wanted = next(iter(target.hashes.items()))
    path = folder / quote(target.path, "")
    if path.is_file() and hashlib.new(kind, path.read_bytes()).hexdigest() == wanted:
        return 0
    place, _, name = target.path.rpartition("/")
    if json.loads(_root(trust))["signed"].get("consistent_snapshot"):
        name = f"{wanted}.{name}"
    content = b""
    for block in source.get(f"{place}/{name}" if place else name):
        content += block
        if len(content) > target.length:
            break
    if len(content) != target.length or hashlib.new(kind, content).hexdigest() != wanted:
        raise BundleTampered("is not what was signed", file=target.path)
    write_atomically(path, content)
    return 0


def _show(trust: Trust, folder: Path) -> None:
    """Copies of what is believed, under the names the suite looks for."""
    for name, content in trust.files.items():
        if "/" not in name:
            (folder / name).write_text(content, "utf-8")
    if trust.files:
        (folder / "root.json").write_text(_root(trust), "utf-8")


def _root(trust: Trust) -> str:
    """The newest root that is believed."""
    roots = [name for name in trust.files if name.startswith("root_history/")]
    return trust.files[max(roots, key=lambda name: int(name.split("/")[1].split(".")[0]))]
