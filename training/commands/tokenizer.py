"""`vitconformer tokenizer`: the units of a model, trained on the texts of manifests."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "tokenizer"
HELP = "train the SentencePiece units on the texts of manifests"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", type=Path, nargs="+", required=True, metavar="FILE",
        help="JSON lines with text, as for `vitconformer features`",
    )  # fmt: skip
    parser.add_argument(
        "--vocab-size", type=int, default=256, metavar="N",
        help="pieces, without the blank (default: 256)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="where tokenizer.model and tokens.txt go",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train and write the tokenizer."""
    from edge_runtime.manifest import read_manifest
    from training.tokenizer import train_tokenizer

    texts = [utterance.text for path in args.manifest for utterance in read_manifest(path)]
    tokenizer = train_tokenizer(texts, args.out, vocab_size=args.vocab_size)
    words = sum(len(text.split()) for text in texts)
    units = sum(len(tokenizer.encode(text)) for text in texts)
    print(f"{args.out}: {tokenizer.vocab_size} classes, {units / words:.2f} units per word")
    return 0
