"""`vitconformer cloud consent`: who may record what for upload."""

from __future__ import annotations

import argparse
import json
import sys

from autotrain_cloud.commands.config import add_config_option, now_ms, open_store

HELP = "grant, withdraw and list devices' consents to upload"
DAY_MS = 86_400_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    grant = verbs.add_parser("grant", help="let devices record under a consent from now on")
    grant.add_argument("consent", metavar="CONSENT", help="its id; it goes into every segment")
    grant.add_argument("devices", nargs="+", metavar="DEVICE")
    grant.add_argument("--days", type=int, metavar="N", help="it ends then (default: never)")
    grant.add_argument(
        "--purposes", nargs="+", default=["training", "monitoring"], metavar="PURPOSE"
    )
    grant.add_argument(
        "--retention-days", type=int, default=14, metavar="N",
        help="on the device, at most (default: 14)",
    )  # fmt: skip
    withdraw = verbs.add_parser("withdraw", help="end devices' consents; what is here stays")
    withdraw.add_argument("devices", nargs="+", metavar="DEVICE")
    shown = verbs.add_parser("list", help="every device's newest decision")
    shown.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from autotrain_cloud.store import consents
    from edge_runtime.contract.topics import check_device
    from edge_runtime.errors import ConfigError, ContractError

    store = open_store(args)
    try:
        if args.what == "list":
            return _list(store, args.json)
        now = now_ms()
        with store.begin() as db:
            for device in args.devices:
                try:
                    check_device(device)
                    if args.what == "grant":
                        consents.grant(
                            db,
                            device,
                            args.consent,
                            now_ms=now,
                            until_ms=None if args.days is None else now + args.days * DAY_MS,
                            purposes=args.purposes,
                            retention_days=args.retention_days,
                        )
                    elif consents.withdraw(db, device, now_ms=now) is None:
                        sys.stderr.write(f"{device}: has no consent\n")
                except ContractError as error:
                    raise ConfigError(f"{device}: {error}") from error
        sys.stderr.write("devices are told as soon as `vitconformer cloud ingest` runs\n")
    finally:
        store.close()
    return 0


def _list(store: object, as_json: bool) -> int:
    from autotrain_cloud.store import Store, consents, devices

    assert isinstance(store, Store)
    after = ""
    with store.read() as db:
        while page := devices.find(db, after=after):
            after = page[-1].name
            for device in page:
                row = consents.current(db, device.name)
                if row is None:
                    continue
                if as_json:
                    print(json.dumps(dict(row._mapping), ensure_ascii=False))
                else:
                    word = "granted" if row.granted else "withdrawn"
                    print(f"{row.device}  {row.id}  {word}  version {row.version}")
    return 0
