"""`vitconformer agent`: the device of a fleet, and questions to it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli import OK

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
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--show", action="store_true", help="print what was recognised")
    output.add_argument("--json", action="store_true", help="one JSON object per event and line")


def _configure_nothing(parser: argparse.ArgumentParser) -> None:
    pass


_CONFIGURE: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "run": _configure_run,
    "check": _configure_nothing,
    "status": _configure_nothing,
    "explain": _configure_nothing,
    "erase": _configure_nothing,
}


def run(args: argparse.Namespace) -> int:
    from edge_runtime.agent.config import read_agent_settings

    settings = read_agent_settings(args.config)
    return _ACTIONS[args.action](args, settings)


def _run(args: argparse.Namespace, settings: AgentSettings) -> int:
    from edge_runtime.agent.agent import Agent

    logging.getLogger().setLevel(logging.INFO)
    audio = settings.audio
    if args.files:
        audio = dataclasses.replace(audio, files=tuple(args.files))
    if args.speed is not None:
        audio = dataclasses.replace(audio, speed=args.speed)
    agent = Agent(dataclasses.replace(settings, audio=audio), show=_shower(args))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    agent.run()
    return OK


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


_ACTIONS: dict[str, Callable[[argparse.Namespace, Any], int]] = {"run": _run}
