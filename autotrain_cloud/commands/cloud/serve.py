"""`vitconformer cloud serve`: the HTTP interface, for consoles and programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autotrain_cloud.commands.config import add_config_option, read_config

if TYPE_CHECKING:
    from autotrain_cloud.rollout.plan import Release

HELP = "serve the HTTP interface (settings: [api])"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    add_config_option(parser)
    parser.add_argument("--host", metavar="ADDRESS", help="instead of the settings'")
    parser.add_argument("--port", type=int, metavar="N", help="instead of the settings'")


def run(args: argparse.Namespace) -> int:
    import dataclasses

    from autotrain_cloud.api.app import create_app
    from autotrain_cloud.api.server import serve
    from autotrain_cloud.pipeline.controller import Controller
    from autotrain_cloud.service.roll import Rolling
    from autotrain_cloud.store import Store

    settings = read_config(args)
    given = {name: getattr(args, name) for name in ("host", "port")}
    api = dataclasses.replace(settings.api, **{k: v for k, v in given.items() if v is not None})
    controller = Controller.open(api.pipeline) if api.pipeline else None
    try:
        store = Store.open(settings.store)
        try:
            app = create_app(store, api, controller=controller, rolling=Rolling(store, _not_here))
            scheme = "https" if api.certificate else "http"
            sys.stderr.write(f"the interface is at {scheme}://{api.host}:{api.port}/v1\n")
            return 0 if serve(app, api) else 1
        finally:
            store.close()
    finally:
        if controller is not None:
            controller.close()


def _not_here(bundle: Path, above: Release) -> Release:
    """Only whoever steps a rollout publishes; here it is merely acted upon."""
    raise NotImplementedError
