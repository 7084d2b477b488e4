"""`vitconformer cloud gate`: may this bundle replace that one?  Exit code 0: yes; 1: no."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = "judge a bundle against the one that devices run"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--champion", type=Path, required=True, metavar="BUNDLE", help="runs now")
    parser.add_argument(
        "--challenger", type=Path, required=True, metavar="BUNDLE", help="is to replace it"
    )
    parser.add_argument(
        "--target", action="append", required=True, metavar="[NAME=]JSONL",
        help="manifest on which it must be better; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--guard", action="append", default=[], metavar="[NAME=]JSONL",
        help="manifest on which it must not be worse; may be repeated",
    )  # fmt: skip
    parser.add_argument("--noise", type=Path, metavar="JSONL", help="recordings without speech")
    parser.add_argument(
        "--phrases", type=Path, metavar="JSONL", help="recordings that must be understood"
    )
    parser.add_argument(
        "--training", action="append", type=Path, default=[], metavar="JSONL",
        help="manifest it was trained on, which must not know the sets; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the verdict")
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="promotion ledger (default: DIR/ledger.jsonl)"
    )
    parser.add_argument(
        "--mirror", metavar="URL", help="MLflow tracking server that is to show the ledger too"
    )
    parser.add_argument("--who", metavar="NAME", help="for the ledger (default: the user)")
    parser.add_argument("--plot", action="store_true", help="a picture too, DIR/verdict.png")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON on stdout")
    add_hearing_options(parser)


def add_hearing_options(parser: argparse.ArgumentParser) -> None:
    """What `gate` and `power` share."""
    from edge_runtime.commands.options import positive

    parser.add_argument("--settings", type=Path, metavar="TOML", help="rules and their bounds")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR",
        help="what was heard before (default: cache in --out, else ./gate-cache)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes at once")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.gate import ledger, report
    from autotrain_cloud.gate.mirror import Mirror
    from autotrain_cloud.gate.run import Request, remember, run_gate
    from autotrain_cloud.gate.settings import GateSettings
    from edge_runtime.cli import FAILED, OK
    from edge_runtime.errors import StorageError
    from edge_runtime.files import write_atomically
    from edge_runtime.settings import read_settings

    settings = read_settings(GateSettings, args.settings) if args.settings else GateSettings()
    book = args.ledger or args.out / "ledger.jsonl"
    mirror = Mirror(book, args.mirror) if args.mirror else None
    request = Request(
        champion=args.champion,
        challenger=args.challenger,
        targets=named(args.target, "--target"),
        guards=named(args.guard, "--guard"),
        noise=args.noise,
        phrases=args.phrases,
        training=tuple(args.training),
    )
    verdict = run_gate(
        request,
        settings,
        args.cache or args.out / "cache",
        seen=ledger.read_ledger(book),
        jobs=args.jobs,
        say=say,
    )
    text = json.dumps(verdict.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(args.out / "verdict.json", text.encode())
    write_atomically(args.out / "verdict.md", report.markdown(verdict).encode())
    if args.plot:
        report.plot(verdict, args.out / "verdict.png")
    entry = remember(book, verdict, args.who or getpass.getuser(), training=request.training)
    say(f"{args.out / 'verdict.md'}; {book} entry {entry.number}, head {entry.hash[:12]}")
    if mirror is not None:
        try:
            mirror.send()
        except StorageError as error:
            say(f"warning: {error}; `vitconformer cloud ledger mirror {book} --to ...` sends later")
    for warning in verdict.warnings:
        say(f"warning: {warning}")
    if args.json:
        print(text, end="")
    else:
        print("promoted" if verdict.promote else "rejected")
        for reason in verdict.reasons:
            print(f"  {reason}")
    return OK if verdict.promote else FAILED


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def named(options: Sequence[str], flag: str) -> dict[str, Path]:
    """`NAME=FILE` options, or `FILE`, which is called by its stem."""
    from edge_runtime.errors import ConfigError

    found: dict[str, Path] = {}
    for option in options:
        name, equals, path = option.rpartition("=")
        name = name if equals else Path(path).stem
        if not name or not path or name in found:
            problem = f"{name!r} is named twice" if name in found else "expected [NAME=]FILE"
            raise ConfigError(f"{flag} {option}: {problem}")
        found[name] = Path(path)
    return found
