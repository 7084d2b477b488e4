"""`vitconformer cloud ingest`: from the broker into the store, and from the store to the broker."""

from __future__ import annotations

import argparse
import logging
import signal

from autotrain_cloud.commands.config import add_config_option, read_config

HELP = "take in what devices send, and answer them"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("--worker", metavar="NAME", help="instead of ingest.worker of the settings")
    parser.add_argument("--verbose", action="store_true", help="say what happens")


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from autotrain_cloud.ingest_mqtt import Shell

    settings = read_config(args)
    if args.worker:
        settings = replace(settings, ingest=replace(settings.ingest, worker=args.worker))
    if args.verbose:
        logging.getLogger().setLevel(logging.INFO)
    shell = Shell(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: shell.stop())
    shell.run()
    return 0
