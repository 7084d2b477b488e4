"""`vitconformer tune`: weigh a language model against the acoustics on development data."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_runtime.commands.options import DEFAULT_BEAM

NAME = "tune"
HELP = "find the weights of a language model on development data"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, type=Path, help="bundle that is searched")
    parser.add_argument("--lm", type=Path, help="ARPA file or KenLM binary [the bundle's own]")
    parser.add_argument(
        "--manifest", required=True, nargs="+", type=Path,
        help="JSONL of utterances that the model was not trained on; each file counts alike",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="only the first N utterances of each manifest")
    parser.add_argument(
        "--beam", type=int, default=DEFAULT_BEAM, help=f"hypotheses [{DEFAULT_BEAM}]"
    )
    parser.add_argument("--out", required=True, type=Path, help="JSON file of weights to write")


def run(args: argparse.Namespace) -> int:
    import json
    import sys

    from edge_runtime.bundle import Bundle
    from edge_runtime.errors import ConfigError
    from edge_runtime.files import write_atomically
    from edge_runtime.manifest import read_manifest
    from training.tune import GRID, Weights, tune

    if args.lm is None and not Bundle.open(args.bundle).decoding():
        raise ConfigError(f"{args.bundle} has no language model: give one with --lm FILE")

    def text(weights: Weights) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in zip(GRID, weights, strict=True))

    def progress(weights: Weights, rate: float) -> None:
        sys.stderr.write(f"{text(weights)}: WER {rate:.2%}\n")

    sets = {str(path): read_manifest(path)[: args.limit] for path in args.manifest}
    best, tried = tune(args.bundle, sets, lm=args.lm, beam=args.beam, progress=progress)
    write_atomically(args.out, json.dumps(dict(zip(GRID, best, strict=True))).encode())
    print(f"{args.out}: {text(best)}: WER {tried[best]:.2%}")
    return 0
