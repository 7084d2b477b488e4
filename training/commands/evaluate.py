"""`vitconformer evaluate`: word and character error rates of a checkpoint or a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

NAME = "evaluate"
HELP = "WER and CER per chunk size and speaker, with the worst utterances"


def configure(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", type=Path, help="safetensors: batched, under the chunk masks"
    )
    source.add_argument("--bundle", type=Path, help="bundle: the recogniser as devices run it")
    parser.add_argument("--manifest", required=True, type=Path, help="JSONL of utterances")
    parser.add_argument("--tokenizer", type=Path, help="for --checkpoint")
    parser.add_argument(
        "--chunk-ms",
        default="80,160,320,640,offline",
        help="comma-separated; 'offline' only with --checkpoint [80,160,320,640,offline]",
    )
    parser.add_argument("--limit", type=int, help="only the first N utterances")
    parser.add_argument("--beam", type=int, default=0, help="beam width with --bundle [greedy]")
    parser.add_argument("--worst", type=int, default=5, help="how many of the worst to show [5]")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.errors import ConfigError
    from edge_runtime.manifest import read_manifest
    from training.evaluate import Report, evaluate_bundle, evaluate_checkpoint

    utterances = read_manifest(args.manifest)[: args.limit]
    reports: list[Report] = []
    for name in args.chunk_ms.split(","):
        if name != "offline" and not (name.isdigit() and int(name) % 40 == 0 and int(name)):
            raise ConfigError(f"--chunk-ms {name}: a multiple of 40 ms, or 'offline'")
        chunk_ms = None if name == "offline" else int(name)
        if args.checkpoint:
            if args.tokenizer is None:
                raise ConfigError("--checkpoint needs --tokenizer DIR")
            reports.append(
                evaluate_checkpoint(args.checkpoint, args.tokenizer, utterances, chunk_ms)
            )
        elif chunk_ms is not None:
            reports.append(evaluate_bundle(args.bundle, utterances, chunk_ms, beam=args.beam))
        else:
            print("offline: skipped, a bundle streams; use --checkpoint", file=sys.stderr)
    if args.json:
        print(json.dumps([report.to_json(worst=args.worst) for report in reports]))
    else:
        for report in reports:
            print(report.to_text(worst=args.worst))
    return 0
