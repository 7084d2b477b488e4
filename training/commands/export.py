"""`vitconformer export`: a checkpoint becomes one streaming ONNX file and a bundle."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

NAME = "export"
HELP = "export a checkpoint to a bundle, checked against torch"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        type=Path,
        help="one checkpoint, or several of one run to average",
    )
    parser.add_argument(
        "--tokenizer", required=True, type=Path, help="directory of `vitconformer tokenizer`"
    )
    parser.add_argument("--out", required=True, type=Path, help="bundle directory to write")
    parser.add_argument("--name", default="en-demo", help="bundle name [en-demo]")
    parser.add_argument("--version", default="0.1.0", help="bundle version [0.1.0]")
    parser.add_argument("--release", type=int, default=1, help="release counter, ever growing [1]")
    parser.add_argument(
        "--confidence", type=Path, help="confidence.json of `vitconformer confidence`"
    )
    parser.add_argument("--card", type=Path, help="model card to include")
    parser.add_argument("--facts", type=Path, help="JSON object with `metrics` and `training_data`")
    parser.add_argument(
        "--weights",
        choices=("float32", "float16"),
        default="float16",
        help="how weights are stored; computation is float32 either way [float16]",
    )
    parser.add_argument(
        "--checkpoint-out",
        type=Path,
        help="also write the exported weights as safetensors, for fine-tuning",
    )
    parser.add_argument("--chunk-ms", type=int, default=320, help="default chunk [320]")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.contract.bundle import TOKENS_NAME
    from edge_runtime.errors import ConfigError
    from training.bundle import CHUNKS_MS, Release, export_bundle

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    if args.chunk_ms not in CHUNKS_MS:
        raise ConfigError(f"--chunk-ms {args.chunk_ms}: one of {', '.join(map(str, CHUNKS_MS))}")
    bundle = export_bundle(
        args.checkpoint,
        args.tokenizer / TOKENS_NAME,
        args.out,
        Release(
            name=args.name,
            version=args.version,
            release_counter=args.release,
            default_chunk_ms=args.chunk_ms,
            **_facts(args.facts),
        ),
        half=args.weights == "float16",
        confidence=args.confidence,
        card=args.card,
        weights_out=args.checkpoint_out,
    )
    print(bundle.path)
    return 0


def _facts(path: Path | None) -> dict[str, Any]:
    from edge_runtime.errors import ConfigError

    if path is None:
        return {}
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--facts {path}: {error}") from error
    if not isinstance(facts, dict) or set(facts) - {"metrics", "training_data", "licence"}:
        raise ConfigError(f"--facts {path}: an object with metrics, training_data, licence")
    return facts
