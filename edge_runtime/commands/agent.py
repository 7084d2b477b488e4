"""`vitconformer agent`: the device of a fleet, and questions to it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli import FAILED, OK, complain
from edge_runtime.commands import enrol
from edge_runtime.commands.options import positive
from edge_runtime.errors import StorageError

if TYPE_CHECKING:
    from edge_runtime.agent.config import AgentSettings
    from edge_runtime.events import Event

NAME = "agent"
HELP = "recognise, keep what is worth it, deliver it, update: the device of a fleet"
DEFAULT_CONFIG = Path("/etc/vitconformer/agent.toml")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("run", "until it is stopped, or its files are over"),
        ("check", "whether agent.toml is right"),
        ("status", "how it does; exit code 1 if it does not run"),
        ("explain", "why an utterance was kept for upload or not"),
        ("erase", "delete what waits for upload"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument(
            "--config",
            type=Path,
            default=DEFAULT_CONFIG,
            metavar="FILE",
            help=f"agent.toml (default: {DEFAULT_CONFIG})",
        )
        _CONFIGURE[name](action)
    enrol.configure(actions.add_parser("enrol", help=enrol.HELP))


def _configure_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="audio files or folders to play instead of the microphone",
    )
    parser.add_argument(
        "--speed",
        type=float,
        metavar="N",
        help="of the files, in times of real time; 0: as fast as possible (default: 1)",
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=3.0,
        metavar="S",
        help="s that delivering may go on in the end (default: 3)",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--show", action="store_true", help="print what was recognised")
    output.add_argument("--json", action="store_true", help="one JSON object per event and line")


def _configure_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="all of it, as JSON")


def _configure_explain(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("id", nargs="?", metavar="ID", help="of a segment, or how it begins or ends")
    what.add_argument(
        "--last", type=positive, default=10, metavar="N", help="the last N (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")


def _configure_erase(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--segments", nargs="+", metavar="ID", help="these")
    what.add_argument("--consents", nargs="+", metavar="ID", help="all recorded under these")
    what.add_argument("--all", action="store_true", help="everything that waits")


_CONFIGURE: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "run": _configure_run,
    "check": lambda parser: None,
    "status": _configure_status,
    "explain": _configure_explain,
    "erase": _configure_erase,
}


def run(args: argparse.Namespace) -> int:
    if args.action == "enrol":
        return enrol.run(args)
    from edge_runtime.agent.config import read_agent_settings

    settings = read_agent_settings(args.config)
    return _ACTIONS[args.action](args, settings)


def _run(args: argparse.Namespace, settings: AgentSettings) -> int:
    from edge_runtime.agent.agent import Agent

    _log_plainly()
    audio = settings.audio
    if args.files:
        audio = dataclasses.replace(audio, files=tuple(args.files))
    if args.speed is not None:
        audio = dataclasses.replace(audio, speed=args.speed)
    agent = Agent(
        dataclasses.replace(settings, audio=audio), show=_shower(args), linger_s=args.linger
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    agent.run()
    return OK


def _log_plainly() -> None:
    """Lines for a journal, which has the time itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def _shower(args: argparse.Namespace) -> Callable[[Event], None] | None:
    if not (args.show or args.json):
        return None

    def show(event: Event) -> None:
        if args.json:
            sys.stdout.write(json.dumps(event.to_json(), ensure_ascii=False) + "\n")
        elif event.type == "final" and event.text:
            sys.stdout.write(event.text + "\n")
        sys.stdout.flush()

    return show


def _check(args: argparse.Namespace, settings: AgentSettings) -> int:
    """All that can be known without starting."""
    from edge_runtime.agent.consent import read_consent
    from edge_runtime.agent.recorder import find_redactor
    from edge_runtime.bundle import Bundle

    bundle = Bundle.open(settings.recognizer.bundle)
    find_redactor(settings.recording.redactor)
    consent = None if settings.consent.file is None else read_consent(settings.consent.file)
    name = settings.device.name
    if settings.broker is not None and settings.broker.ca is not None:
        from edge_runtime.agent.mqtt import device_of, tls_context

        tls_context(settings.broker)
        name = device_of(settings.broker) or name
    where = "no broker" if settings.broker is None else settings.broker.host
    sys.stdout.write(
        f"{args.config}: right\n"
        f"device {name or '(without a name)'}, {where}\n"
        f"bundle {bundle.manifest.name} {bundle.manifest.version}\n"
        f"consent: {consent.id if consent else 'what the cloud says; until then nothing is kept'}\n"
    )
    return OK


def _status(args: argparse.Namespace, settings: AgentSettings) -> int:
    from edge_runtime.agent.control import ask
    from edge_runtime.agent.resting import resting

    directory = settings.device.state
    status = (ask(directory, {"do": "status"}) if directory.is_dir() else None) or resting(settings)
    if args.json:
        sys.stdout.write(json.dumps(status, ensure_ascii=False) + "\n")
    else:
        from edge_runtime.agent.resting import table

        sys.stdout.write(table(status))
    return OK if status["running"] else FAILED


def _explain(args: argparse.Namespace, settings: AgentSettings) -> int:
    from edge_runtime.agent.control import ask
    from edge_runtime.agent.decisions import explain

    if settings.device.state.is_dir():
        with contextlib.suppress(StorageError):  # who is asked in vain hides nothing
            ask(settings.device.state, {"do": "explain"})  # so that the last ones are on the disk
    found = explain(settings.device.state, id=args.id, last=args.last)
    if not found:
        what = f"no decision about {args.id!r}" if args.id else "no decisions yet"
        complain(f"{settings.device.state}: {what}")
        return FAILED
    for each in found:
        if args.json:
            facts = {"id": each.id, "captured_ms": each.captured_ms, "why": each.line, **each.facts}
            sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
            continue
        when = datetime.fromtimestamp(each.captured_ms / 1000).isoformat(" ", "seconds")
        sys.stdout.write(f"{each.id}  {when}  {each.line}\n")
        if args.id:
            for name, outcome, detail in each.facts["rules"]:
                sys.stdout.write(f"    {name:<12} {outcome:<8} {detail}\n")
    return OK


def _erase(args: argparse.Namespace, settings: AgentSettings) -> int:
    """Through the agent where it runs, else from its files."""
    from edge_runtime.agent.clock import now_ms
    from edge_runtime.agent.control import ask
    from edge_runtime.agent.outbox import Outbox

    directory = settings.device.state
    segments, consents = args.segments or [], args.consents or []
    request = {"do": "erase", "all": args.all, "segments": segments, "consents": consents}
    answer = ask(directory, request) if directory.is_dir() else None
    if answer is None:
        quota = settings.outbox.quota_mb * 1_000_000
        with Outbox.open(directory, quota_bytes=quota) as outbox:
            ids = outbox.recorded_under() if args.all else segments
            count = outbox.erase(segments=ids, consents=consents, now_ms=now_ms())
        answer = {"segments": count}
    sys.stdout.write(f"erased {answer['segments']} segments\n")
    return OK


_ACTIONS: dict[str, Callable[[argparse.Namespace, Any], int]] = {
    "run": _run,
    "check": _check,
    "status": _status,
    "explain": _explain,
    "erase": _erase,
}
