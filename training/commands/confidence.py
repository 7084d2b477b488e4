"""`vitconformer confidence`: fit the map from decoder statistics to the chance of being right."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "confidence"
HELP = "fit the confidence map of a bundle on development data"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, type=Path, help="bundle whose words are judged")
    parser.add_argument(
        "--manifest",
        required=True,
        nargs="+",
        type=Path,
        help="JSONL of utterances that the model was not trained on",
    )
    parser.add_argument("--out", required=True, type=Path, help="confidence.json to write")
    parser.add_argument("--limit", type=int, help="only the first N utterances of each manifest")
    parser.add_argument(
        "--augment",
        choices=("none", "light", "full"),
        default="full",
        help="recognise every utterance a second time, altered like this [full]",
    )
    parser.add_argument("--fitted-on", default="", help="what the data is, for people")
    parser.add_argument("--seed", type=int, default=0, help="of the alterations [0]")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.bundle import Bundle
    from edge_runtime.decoding import BeamConfig, DecoderConfig, GreedyConfig
    from edge_runtime.files import write_atomically
    from edge_runtime.manifest import read_manifest
    from training.confidence import fit, judge

    bundle = Bundle.open(args.bundle)
    searches: list[DecoderConfig] = [GreedyConfig()]
    if settings := bundle.decoding():
        searches.append(BeamConfig(**settings))
    judged = []
    for path in args.manifest:
        utterances = read_manifest(path)[: args.limit]
        for search in searches:
            judged += judge(
                args.bundle, utterances, decoder=search, augment=args.augment, seed=args.seed
            )
    found = fit(
        judged,
        lexicon=bundle.lexicon_file() is not None,
        fitted_on=args.fitted_on,
        seed=args.seed,
    )
    write_atomically(args.out, found.to_json().encode())
    metrics = " ".join(f"{name} {value:g}" for name, value in found.metrics.items())
    print(f"{args.out}: on the held-back fifth: {metrics}")
    return 0
