"""`vitconformer train`: train an encoder from feature stores by a recipe."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from pathlib import Path

NAME = "train"
HELP = "train an encoder by a recipe; start it again to resume"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="demo", help="shipped recipe or TOML file [demo]")
    parser.add_argument(
        "--out", required=True, type=Path, help="run directory: checkpoints, curves"
    )
    parser.add_argument(
        "--train",
        nargs="+",
        metavar="STORE[:WEIGHT]",
        help="feature stores; weight = passes per epoch [1]",
    )
    parser.add_argument(
        "--replay",
        nargs="+",
        metavar="STORE",
        help="fine-tuning: stores of what must not be forgotten (data.replay_share of the speech)",
    )
    parser.add_argument(
        "--noise", nargs="+", metavar="STORE", help="clips without text to lay under the speech"
    )
    parser.add_argument(
        "--init", type=Path, help="fine-tuning: checkpoint to start from, here run.init"
    )
    parser.add_argument(
        "--dev", nargs="+", metavar="STORE", help="feature stores of development data"
    )
    parser.add_argument("--tokenizer", help="directory of `vitconformer tokenizer`")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override fields of the recipe, e.g. optim.lr=1e-3 model.arm=cnn",
    )
    parser.add_argument("--device", default="cpu", help="torch device [cpu]")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="CPU threads of this process [torch's choice; 1 under torchrun]",
    )
    parser.add_argument("--no-curves", action="store_true", help="no TensorBoard files")


def run(args: argparse.Namespace) -> int:
    import torch

    from edge_runtime.errors import ConfigError
    from training.recipe import load_recipe
    from training.train import train

    leads = int(os.environ.get("RANK", "0")) == 0  # torchrun numbers its processes
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if leads else logging.WARNING,
        format="%(asctime)s %(message)s",
        force=True,  # the command line has set up a quieter one
    )
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = load_recipe(args.recipe, args.set)
    data = recipe.data
    if args.train:
        stores, weights = zip(*map(_weighted, args.train), strict=True)
        data = dataclasses.replace(data, train=stores, weights=weights)
    if args.replay:
        data = dataclasses.replace(data, replay=tuple(args.replay))
    if args.noise:
        data = dataclasses.replace(data, noise=tuple(args.noise))
    if args.dev:
        data = dataclasses.replace(data, dev=tuple(args.dev))
    if args.tokenizer:
        data = dataclasses.replace(data, tokenizer=args.tokenizer)
    if not data.train or not data.tokenizer:
        raise ConfigError(
            "name the data: --train STORE … --tokenizer DIR, or data.train in the recipe"
        )
    recipe = dataclasses.replace(recipe, data=data)
    if args.init:
        recipe = dataclasses.replace(
            recipe, run=dataclasses.replace(recipe.run, init=str(args.init))
        )
    curves = None
    if leads and not args.no_curves:
        from torch.utils.tensorboard import SummaryWriter

        curves = SummaryWriter(args.out / "curves")
    final = train(recipe, args.out, device=args.device, curves=curves)
    if leads:
        print(final)
    return 0


def _weighted(text: str) -> tuple[str, float]:
    from edge_runtime.errors import ConfigError

    store, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        return store, float(weight)
    except ValueError as error:
        raise ConfigError(f"--train {text}: expected STORE or STORE:WEIGHT") from error
