"""`vitconformer interpolate`: old weights and fine-tuned ones, mixed so that nothing is lost."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "interpolate"
HELP = "mix a model with its fine-tuned successor: learn the new, keep the old"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--old", required=True, type=Path, help="checkpoint fine-tuning began from")
    parser.add_argument(
        "--new", required=True, type=Path, help="what it made: a checkpoint, or the run directory"
    )
    parser.add_argument("--tokenizer", required=True, type=Path, help="directory of the word units")
    parser.add_argument(
        "--target", required=True, nargs="+", type=Path, metavar="STORE",
        help="feature stores of what is to be learnt, none of it trained on",
    )  # fmt: skip
    parser.add_argument(
        "--guard", required=True, nargs="+", type=Path, metavar="STORE",
        help="feature stores of what must not be forgotten, none of it trained on",
    )  # fmt: skip
    parser.add_argument(
        "--noise", nargs="+", default=[], type=Path, metavar="STORE",
        help="clips without text: where they hurt, the guards are to be understood over them",
    )  # fmt: skip
    parser.add_argument(
        "--alphas", default="0.2,0.3,0.4,0.5,0.6,0.7,1",
        help="comma-separated shares of the new weights to try [0.2,0.3,0.4,0.5,0.6,0.7,1]",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float, default=0.01, metavar="X",
        help="by how much the WER of a guard may rise, relative to what it was [0.01]",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write")
    parser.add_argument("--json", action="store_true", help="all points measured, on stdout")


def run(args: argparse.Namespace) -> int:
    import json
    import sys

    from edge_runtime.errors import ConfigError
    from training import checkpoint
    from training.interpolate import Point, choose, hard_under_noise, interpolate, walk
    from training.store import FeatureStore
    from training.tokenizer import Tokenizer
    from training.train import latest

    try:
        alphas = [float(text) for text in args.alphas.split(",")]
    except ValueError:
        alphas = []
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise ConfigError(f"--alphas {args.alphas}: expected numbers from 0 to 1, as in 0.5,1")
    if not args.tolerance >= 0:
        raise ConfigError("--tolerance: 0 or more")
    new = latest(args.new) if args.new.is_dir() else args.new
    if new is None:
        raise ConfigError(f"{args.new}: holds no checkpoint step-*.safetensors; train first")
    (before, _), (after, facts) = map(checkpoint.load_encoder, (args.old, new))

    def progress(point: Point) -> None:
        shown = {**point.target, **point.guard}
        rates = ", ".join(f"{Path(name).name} {rate:.2%}" for name, rate in shown.items())
        sys.stderr.write(f"alpha {point.alpha:g}: WER {rates}\n")

    tokenizer = Tokenizer.load(args.tokenizer)
    target = {str(path): FeatureStore.open(path) for path in args.target}
    guard = {str(path): FeatureStore.open(path) for path in args.guard}
    if noise := [clip for path in args.noise for clip, _ in FeatureStore.open(path)]:
        target |= hard_under_noise(before, guard, noise, tokenizer)
    points = walk(
        before, after, alphas, target=target, guard=guard, tokenizer=tokenizer, progress=progress
    )
    best = choose(points, tolerance=args.tolerance)
    if best.alpha == 0:
        if any(point.worst_loss(points[0]) <= args.tolerance for point in points[1:]):
            words = sum(points[0].words.values())
            raise ConfigError(
                f"no share of the new weights makes fewer errors in the {words} words of the "
                "targets: train with more steps, or on more of what is to be learnt"
            )
        raise ConfigError(
            f"no share of the new weights keeps the guards within {args.tolerance:.1%}: train "
            "with a lower optim.lr or a higher data.replay_share"
        )
    found = {
        "alpha": best.alpha,
        "tolerance": args.tolerance,
        "points": [point.to_json(points[0]) for point in points],
    }
    mixed = interpolate(before, after, best.alpha)
    checkpoint.save(
        args.out,
        {f"model.{name}": tensor for name, tensor in mixed.state_dict().items()},
        {**facts, "interpolated": found},
    )
    if args.json:
        print(json.dumps(found))
    else:
        print(
            f"{args.out}: alpha {best.alpha:g}, {best.gain(points[0]):.1%} fewer errors on what "
            f"is learnt, {best.worst_loss(points[0]):+.1%} on what is kept"
        )
    return 0
