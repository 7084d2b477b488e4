"""`vitconformer cloud token`: lets one device enrol, once."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "a one-time token, with which a device gets its certificate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    parser.add_argument("device", metavar="DEVICE", help="the name that it may have")
    parser.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the authority")
    parser.add_argument("--hours", type=float, default=24, metavar="N", help="it is valid (24)")
    parser.add_argument(
        "--prefix", action="store_true", help="one new device, whose name begins with DEVICE"
    )


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.ca import Authority
    from autotrain_cloud.enrolment import Enrolment
    from edge_runtime.errors import ConfigError

    if not 0 < args.hours <= 24 * 365:
        raise ConfigError(f"--hours: {args.hours:g} (expected up to a year)")
    enrolment = Enrolment(Authority(args.ca))
    print(enrolment.token(args.device, valid_s=args.hours * 3600, prefix=args.prefix))
    return 0
