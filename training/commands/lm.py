"""`vitconformer lm`: a pruned word n-gram model from books, for the beam search."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "lm"
HELP = "estimate a language model from books, without any sentence kept for evaluation"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, metavar="PATH",
        help="plain text files, or folders of .txt files, as for `vitconformer synth`",
    )  # fmt: skip
    parser.add_argument(
        "--manifest", type=Path, nargs="+", default=[], metavar="FILE",
        help="JSON lines whose texts are learnt too, each as often as it stands there",
    )  # fmt: skip
    parser.add_argument(
        "--exclude", type=Path, nargs="+", default=[], metavar="FILE",
        help="JSON lines whose texts must not be learnt",
    )  # fmt: skip
    parser.add_argument(
        "--words", type=Path, metavar="FILE",
        help="a word list, one a line, of words that exist though the books have none of them "
        "(Debian's wamerican has one)",
    )  # fmt: skip
    parser.add_argument("--order", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--prune", type=float, default=6e-6, metavar="X",
        help="drop n-grams that are worth less than X nats per word of the text (default: 6e-6)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ARPA file")


def run(args: argparse.Namespace) -> int:
    """Estimate, prune and write; development sentences of the books say how good it is."""
    from edge_runtime.manifest import read_manifest
    from training.ngram import estimate
    from training.text import normalise, read_books, split_of, utterances

    excluded = {u.text for path in args.exclude for u in read_manifest(path)}
    splits: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for utterance in utterances(read_books(args.text)):
        if utterance.text not in excluded:
            splits[split_of(utterance.text)].append(utterance.text)
    more = [u.text for path in args.manifest for u in read_manifest(path)]
    learnt = splits["train"] + [text for text in more if text not in excluded]
    # Possessives are left to the books: a list has one of every noun.
    listed = [] if args.words is None else read_books([args.words])[0].splitlines()
    words = {normalise(word) for word in listed if not word.endswith("'s")}
    whole = estimate(learnt, args.order, {word for word in words if word and " " not in word})
    model = whole.pruned(args.prune)
    model.write(args.out)
    print(
        f"{args.out}: {model.size} n-grams of {whole.size}, "
        f"{args.out.stat().st_size / 1e6:.1f} MB; perplexity of {len(splits['dev'])} development "
        f"sentences {model.perplexity(splits['dev']):.0f}, {whole.perplexity(splits['dev']):.0f} "
        "before pruning"
    )
    return 0
