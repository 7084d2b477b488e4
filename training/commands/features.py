"""`vitconformer features`: manifests to a feature store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

NAME = "features"
HELP = "compute the features of manifests into a store that training maps into memory"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", type=Path, nargs="+", required=True, metavar="FILE",
        help="JSON lines with audio_filepath, duration and text",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the store")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--augment", choices=("none", "light", "full"), default="none",
        help="also store altered copies: rooms, noise, speed and level changes in the audio itself",
    )  # fmt: skip
    parser.add_argument(
        "--copies", type=int, default=1, metavar="N",
        help="altered copies per utterance with --augment (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-empty", action="store_true", help="manifests without a line make an empty store"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of --augment (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Build the store, or continue building it."""
    from edge_runtime.errors import ConfigError
    from training.store import Augmentation, build_store

    if args.jobs < 1 or args.copies < 1:
        raise ConfigError("--jobs and --copies must be positive")
    augment = None
    if args.augment != "none":
        augment = Augmentation(preset=args.augment, copies=args.copies, seed=args.seed)
    store = build_store(
        args.manifest, args.out, jobs=args.jobs, augment=augment, allow_empty=args.allow_empty,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    print(f"{args.out}: {len(store)} utterances, {store.seconds / 3600:.2f} h")
    return 0
