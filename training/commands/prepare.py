"""`vitconformer prepare`: LibriSpeech or Common Voice to manifests."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

NAME = "prepare"
HELP = "write manifests for LibriSpeech or Common Voice"


def configure(parser: argparse.ArgumentParser) -> None:
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    libri = corpora.add_parser("librispeech", help="folders of .flac and .trans.txt")
    voice = corpora.add_parser("commonvoice", help="lists (.tsv) and clips (.mp3)")
    voice.add_argument("--locale", default="en", help="language folder (default: en)")
    for corpus in (libri, voice):
        corpus.add_argument("root", type=Path, metavar="DIR", help="the unpacked corpus")
        corpus.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="one SUBSET.jsonl per subset"
        )


def run(args: argparse.Namespace) -> int:
    """Write the manifests; what was left out is counted on stderr."""
    from tqdm import tqdm

    from edge_runtime.manifest import write_manifest
    from training.prepare import commonvoice, librispeech, utterances

    if args.corpus == "librispeech":
        subsets = librispeech(args.root)
    else:
        subsets = commonvoice(args.root, args.locale)
    for name, entries in subsets.items():
        left_out: Counter[str] = Counter()
        with tqdm(entries, desc=name, unit="utt", disable=not sys.stderr.isatty()) as bar:
            made = list(utterances(bar, left_out))
        path = args.out / f"{name}.jsonl"
        write_manifest(path, made)
        hours = sum(utterance.duration for utterance in made) / 3600
        print(f"{path}: {len(made)} utterances, {hours:.2f} h")
        for why, count in left_out.items():
            print(f"{name}: {count} left out: {why}", file=sys.stderr)
    return 0
