"""`vitconformer ota`: the updates of a device, and what it believes of their repository.

`check`, `status`, `rollback` and `audit` read the table [update] of agent.toml.  While an agent
runs it alone looks after updates; `status` and `audit` only read, and work all the same.

`conformance-client` speaks the client protocol of theupdateframework/tuf-conformance
(https://github.com/theupdateframework/tuf-conformance/blob/main/CLIENT-CLI.md) with the code that
updates use, so that the public suite can be run on it from outside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from edge_runtime.ota.settings import UpdateSettings
    from edge_runtime.ota.trust import Trust
    from edge_runtime.ota.updater import Updater
    from edge_runtime.recognizer import Recognizer

NAME = "ota"
HELP = "the updates of a device: look, tell, go back"

_STATE = ".vitconformer"  # in METADATA_DIR: what we keep; beside it, copies for the suite to read


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="look for a release, fetch it and try it, now")
    status = actions.add_parser("status", help="what runs, what was tried, what failed")
    back = actions.add_parser("rollback", help="go back to the bundle before the one that runs")
    log = actions.add_parser("audit", help="print what happened, and verify that it is all there")
    for action in (check, status, back, log):
        action.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    for action in (check, status, log):
        action.add_argument("--json", action="store_true", help="for programs")
    back.add_argument("--reason", default="an operator's decision", metavar="TEXT")
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
    if args.action == "conformance-client":
        return _conformance(args)
    actions = {"check": _check, "status": _status, "rollback": _rollback, "audit": _audit}
    return actions[args.action](args, _settings(args.config))


def _settings(path: Path) -> UpdateSettings:
    from edge_runtime.errors import ConfigError
    from edge_runtime.ota.settings import UpdateSettings
    from edge_runtime.settings import build, read_toml

    table = read_toml(path).get("update")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: has no table [update]: this device is not updated")
    return build(UpdateSettings, table, f"{path}: update")


def _updater(settings: UpdateSettings) -> Updater[Recognizer]:
    from edge_runtime.ota.selftest import self_test
    from edge_runtime.ota.updater import Updater
    from edge_runtime.recognizer import Recognizer

    return Updater(
        settings,
        load=Recognizer.open,
        self_test=lambda model: self_test(model, settings.test),
        report=lambda report: print(
            f"{report.target}: {report.state}{': ' * bool(report.error)}{report.error}",
            file=sys.stderr,
        ),
    )


def _check(args: argparse.Namespace, settings: UpdateSettings) -> int:
    updater = _updater(settings)
    try:
        updater.start(background=False)
        outcome = updater.check("by hand", anyway=True)
        status = updater.status()
    finally:
        updater.close()
    if args.json:
        print(json.dumps({"outcome": outcome.kind, "detail": outcome.detail, **status}))
    else:
        print(f"{outcome.kind}: {outcome.detail}")
        if outcome.kind == "switched":
            print("It runs when the agent starts, on probation until it has shown itself.")
    return 0 if outcome.kind in ("current", "switched", "probation") else 1


def _status(args: argparse.Namespace, settings: UpdateSettings) -> int:
    from edge_runtime.contract.bundle import MANIFEST_NAME, Manifest
    from edge_runtime.errors import ConfigError
    from edge_runtime.ota import audit, reports
    from edge_runtime.ota.fs import RealFs
    from edge_runtime.ota.lock import holder
    from edge_runtime.ota.record import RecordStore
    from edge_runtime.ota.update import GOLDEN

    if not settings.state.is_dir():
        raise ConfigError(f"{settings.state}: is not there: no agent has run yet")
    fs = RealFs(settings.state, {GOLDEN: settings.golden})
    golden = Manifest.from_json(
        fs.read(f"{GOLDEN}/{MANIFEST_NAME}"), file=str(settings.golden / MANIFEST_NAME)
    )
    found = reports.describe(RecordStore(fs).load(golden.release_counter), fs)
    agent = holder(settings.state)
    found |= {"agent": agent, "audit": audit.verify(fs).head}
    if args.json:
        print(json.dumps(found))
        return 0
    for name in ("running", "fallback"):
        one = found[name]
        print(f"{name:10} {one['version']} (release {one['release']}), slot {one['slot']}")
    state, candidate = found["state"], found["candidate"]
    print(f"{'state':10} {state}", f"{candidate['version']}" if candidate else "")
    print(f"{'floor':10} {found['floor']}")
    for failure in found["failed"]:
        print(f"{'failed':10} release {failure['release']}: {failure['reason']}")
    print(f"{'agent':10} {f'process {agent} looks after updates' if agent else 'none runs'}")
    print(f"{'audit':10} {found['audit']}")
    return 0


def _rollback(args: argparse.Namespace, settings: UpdateSettings) -> int:
    from edge_runtime.errors import ConfigError
    from edge_runtime.ota.update import Refused

    updater = _updater(settings)
    try:
        updater.rollback(args.reason)
        running = updater.status()["running"]
    except Refused as error:
        raise ConfigError(f"{settings.state}: {error}") from error
    finally:
        updater.close()
    print(f"{running['version']} (release {running['release']}) runs when the agent starts")
    return 0


def _audit(args: argparse.Namespace, settings: UpdateSettings) -> int:
    from edge_runtime.ota import audit
    from edge_runtime.ota.fs import RealFs

    found = audit.verify(RealFs(settings.state))
    if args.json:
        print(
            json.dumps({"entries": found.entries, "problems": found.problems, "head": found.head})
        )
    else:
        for line in audit.texts(found.entries):
            print(line)
    for problem in found.problems:
        print(f"{settings.state}/{problem}", file=sys.stderr)
    if not args.json:
        print(f"{len(found.entries)} entries, head {found.head}", file=sys.stderr)
    return 1 if found.problems else 0


def _conformance(args: argparse.Namespace) -> int:
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
