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
    parser.add_argument("--lm", type=Path, help="language model of `vitconformer lm`")
    parser.add_argument("--decoding", type=Path, help="its weights, by `vitconformer tune`")
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
    from edge_runtime.contract.bundle import DECODING, TOKENS_NAME
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
            **_json_object(args.facts, "metrics", "training_data", "licence"),
            decoding=_json_object(args.decoding, *DECODING),
        ),
        half=args.weights == "float16",
        confidence=args.confidence,
        lm=args.lm,
        card=args.card,
        weights_out=args.checkpoint_out,
    )
    print(bundle.path)
    return 0


def _json_object(path: Path | None, *fields: str) -> dict[str, Any]:
    """The object in a file, which may hold these fields and no others; {} without a file."""
    from edge_runtime.errors import ConfigError

    if path is None:
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(found, dict) or set(found) - set(fields):
        raise ConfigError(f"{path}: expected an object of {', '.join(fields)}")
    return found
