"""`vitconformer agent enrol`: the device's certificate, from a server or by files."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HELP = "get the device's certificate, or the next one"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    parser.add_argument("device", nargs="?", metavar="DEVICE", help="its name in the fleet")
    parser.add_argument(
        "--identity", type=Path, required=True, metavar="DIR", help="where key and certificate lie"
    )
    parser.add_argument("--url", metavar="URL", help="of the enrolment server, https://...")
    parser.add_argument(
        "--token", metavar="FILE", help="with the one-time token; - is stdin (else: $ENROL_TOKEN)"
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--renew", action="store_true", help="the next certificate, if two thirds of this are over"
    )
    way.add_argument("--request", type=Path, metavar="FILE", help="only write a request")
    way.add_argument("--install", type=Path, metavar="FILE", help="the answer to a request")
    parser.add_argument(
        "--trusted", type=Path, metavar="FILE", help="servers.pem of the fleet, with --install"
    )
    parser.add_argument("--force", action="store_true", help="renew whatever the time")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.agent import enrolment
    from edge_runtime.agent.identity import Identity
    from edge_runtime.errors import ConfigError, ContractError
    from edge_runtime.files import write_atomically

    identity = Identity(args.identity)
    if not args.renew and not args.device:
        raise ConfigError("DEVICE: is missing: the device's name in the fleet")
    if not args.request and not args.install and not args.url:
        raise ConfigError("--url: is missing: where the enrolment server is")
    try:
        if args.request:
            write_atomically(args.request, identity.request(args.device))
            print(args.request)
            return 0
        if args.install:
            if args.trusted:
                identity.trust(_content(args.trusted))
            elif not identity.trusted.exists():
                raise ConfigError("--trusted: is missing: the file servers.pem of the fleet")
            certificate = identity.install(_content(args.install), args.device)
        elif args.renew:
            present = identity.certificate()
            if present and not args.force and not present.renewal_due(time.time()):
                print(f"not yet: valid until {_day(present.expires)}", file=sys.stderr)
                return 0
            certificate = enrolment.renew(args.url, identity)
        else:
            token = enrolment.Token.parse(_token(args.token))
            certificate = enrolment.enrol(args.url, token, args.device, identity)
    except ContractError as error:
        raise ConfigError(str(error)) from error
    print(identity.path)
    print(
        f"{certificate.device}: certificate until {_day(certificate.expires)}; in agent.toml, it is"
        f" certificate and key, and {identity.trusted} is ca",
        file=sys.stderr,
    )
    return 0


def _token(source: str | None) -> str:
    """Not as an argument: everybody on the machine sees those."""
    from edge_runtime.errors import ConfigError

    if source == "-":
        return sys.stdin.read()
    if source:
        return _content(Path(source)).decode("utf-8", errors="replace")
    if not (found := os.environ.get("ENROL_TOKEN")):
        raise ConfigError("--token: is missing: what `vitconformer cloud token` printed")
    return found


def _content(path: Path) -> bytes:
    from edge_runtime.errors import ConfigError

    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
