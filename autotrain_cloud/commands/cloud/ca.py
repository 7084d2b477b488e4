"""`vitconformer cloud ca`: the authority that signs the fleet's certificates."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotrain_cloud.ca import Identity

HELP = "the authority that signs the fleet's certificates"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    parser.add_argument("--ca", type=Path, required=True, metavar="DIR", help="its keys and lists")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    init = verbs.add_parser("init", help="a new authority")
    init.add_argument("--fleet", default="fleet", metavar="NAME", help="in the authority's names")
    server = verbs.add_parser("server", help="key and certificate of a broker or HTTPS server")
    server.add_argument("names", nargs="+", metavar="HOST", help="its names and addresses")
    server.add_argument("--out", type=Path, required=True, metavar="DIR", help="server.pem, .key")
    service = verbs.add_parser("service", help="key and certificate of a part of the cloud")
    service.add_argument("name", metavar="NAME", help="_ingest, _watch")
    service.add_argument("--out", type=Path, required=True, metavar="DIR", help="NAME.pem, .key")
    sign = verbs.add_parser("sign", help="a device's certificate, from its request")
    sign.add_argument("request", type=Path, metavar="CSR", help="a file of the device's")
    sign.add_argument("--device", required=True, metavar="NAME", help="that the request must name")
    sign.add_argument("--out", type=Path, required=True, metavar="FILE", help="the certificate")
    revoke = verbs.add_parser("revoke", help="brokers that read the new list refuse it")
    revoke.add_argument("which", metavar="NAME|SERIAL")
    verbs.add_parser("crl", help="sign the revocation lists anew: weekly")
    rotate = verbs.add_parser("rotate", help="another key signs from now on, both are trusted")
    retire = verbs.add_parser("retire", help="what earlier keys signed is not trusted any more")
    for verb in (rotate, retire):
        verb.add_argument("kind", choices=["servers", "devices", "services"])
    listing = verbs.add_parser("list", help="what was issued")
    listing.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.ca import Authority
    from edge_runtime.errors import ConfigError, ContractError
    from edge_runtime.files import write_atomically

    if args.verb == "init":
        Authority.create(args.ca, args.fleet)
        print(args.ca / "servers.pem")
        print(
            "This file goes onto devices. servers-1.key belongs somewhere else: whoever has it can "
            "be the broker.",
            file=sys.stderr,
        )
        return 0
    authority = Authority(args.ca)
    if args.verb == "server":
        _write(args.out, "server", authority.server(args.names))
    elif args.verb == "service":
        _write(args.out, args.name, authority.service(args.name))
    elif args.verb == "sign":
        try:
            certificate = authority.device(args.request.read_bytes(), args.device)
        except OSError as error:
            raise ConfigError(f"{args.request}: cannot be read: {error.strerror}") from error
        except ContractError as error:
            raise ConfigError(f"{args.request}: {error}") from error
        write_atomically(args.out, certificate)
        print(args.out)
    elif args.verb == "revoke":
        for entry in authority.revoke(args.which):
            print(entry.serial, entry.name)
        print("Give the broker the new list, and SIGHUP.", file=sys.stderr)
    elif args.verb == "crl":
        authority.write_lists()
    elif args.verb in ("rotate", "retire"):
        authority.rotate(args.kind) if args.verb == "rotate" else authority.retire(args.kind)
        print(authority.trusted(args.kind))
    elif args.verb == "list":
        for entry in authority.ledger.entries():
            if args.json:
                print(json.dumps({name: getattr(entry, name) for name in entry.__slots__}))
            else:
                state = f"revoked {_day(entry.revoked)}" if entry.revoked else "valid"
                until = _day(entry.expires)
                print(f"{entry.serial:40} {entry.kind:8} {entry.name:24} until {until} {state}")
    return 0


def _write(folder: Path, name: str, identity: Identity) -> None:
    from edge_runtime.files import write_atomically

    write_atomically(folder / f"{name}.key", identity.key, mode=0o600)
    write_atomically(folder / f"{name}.pem", identity.certificate)
    print(folder / f"{name}.pem")


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
