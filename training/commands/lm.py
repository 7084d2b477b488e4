"""`vitconformer lm`: a pruned word n-gram model from books, for the beam search."""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import chain
from pathlib import Path

NAME = "lm"
HELP = "estimate a language model from books, without any sentence kept for evaluation"
OFTEN = 5  # times that a word of further texts is said before it counts as one
EARLY = 0.1  # of the threshold, at which each model is pruned before they are mixed


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, metavar="PATH",
        help="plain text files, or folders of .txt files, as for `vitconformer synth`",
    )  # fmt: skip
    parser.add_argument(
        "--also", type=Path, nargs="+", default=[], metavar="PATH",
        help="further texts, each a file or a folder, that count as much as they help with --dev",
    )  # fmt: skip
    parser.add_argument(
        "--dev", type=Path, nargs="+", default=[], metavar="FILE",
        help="JSON lines whose texts say how much each of --also helps, and are not learnt "
        "(default: the development sentences of the books)",
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
    """Estimate, mix, prune and write; development sentences say how good it is."""
    from edge_runtime.manifest import read_manifest
    from training.mixture import best_weights, mixed
    from training.ngram import estimate

    excluded = {u.text for path in (*args.exclude, *args.dev) for u in read_manifest(path)}
    learnt, books_dev = _sentences(args.text, excluded)
    dev = [u.text for path in args.dev for u in read_manifest(path)] or books_dev
    more = [u.text for path in args.manifest for u in read_manifest(path)]
    learnt += [text for text in more if text not in excluded]
    others = [_sentences([path], excluded)[0] for path in args.also]
    said = Counter(word for text in chain(*others) for word in text.split())
    words = _listed(args.words) | {word for word, count in said.items() if count >= OFTEN}

    whole = estimate(learnt, args.order, words)
    if others:
        vocabulary = {word for (word,) in whole.probabilities[0]}
        models = [whole, *(estimate(texts, args.order, vocabulary) for texts in others)]
        weights = best_weights(models, dev)
        for path, weight in zip((args.text[0], *args.also), weights, strict=True):
            print(f"{weight:6.1%}  {path}")
        whole = mixed([m.pruned(EARLY * args.prune) for m in models], weights, vocabulary)
    model = whole.pruned(args.prune)
    model.write(args.out)
    print(
        f"{args.out}: {model.size} n-grams of {whole.size}, "
        f"{args.out.stat().st_size / 1e6:.1f} MB; perplexity of {len(dev)} development "
        f"sentences {model.perplexity(dev):.0f}, {whole.perplexity(dev):.0f} before pruning"
    )
    return 0


def _sentences(paths: list[Path], excluded: set[str]) -> tuple[list[str], list[str]]:
    """Those to learn and those of the development split. A sentence is in one split, wherever."""
    from training.text import read_books, split_of, utterances

    splits: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for utterance in utterances(read_books(paths)):
        if utterance.text not in excluded:
            splits[split_of(utterance.text)].append(utterance.text)
    return splits["train"], splits["dev"]


def _listed(path: Path | None) -> set[str]:
    """The words of a list. Possessives are left to the books: a list has one of every noun."""
    from training.text import normalise, read_books

    lines = [] if path is None else read_books([path])[0].splitlines()
    words = {normalise(word) for word in lines if not word.endswith("'s")}
    return {word for word in words if word and " " not in word}
