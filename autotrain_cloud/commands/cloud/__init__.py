"""`vitconformer cloud ACTION`: what runs beside the fleet.

Every module in this folder is an action: HELP, configure(parser) and run(args), as for a verb.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil

NAME = "cloud"
HELP = "the fleet's other end: takes segments in, learns from them, brings models out"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions to `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        action = importlib.import_module(f"{__name__}.{module.name}")
        name = module.name.rstrip("_").replace("_", "-")  # `import_` is `import`
        child = actions.add_parser(name, help=action.HELP, description=action.HELP)
        action.configure(child)
        child.set_defaults(run_action=action.run)


def run(args: argparse.Namespace) -> int:
    status: int = args.run_action(args)
    return status
