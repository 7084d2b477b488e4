"""`vitconformer export`: a checkpoint becomes one streaming ONNX file and a bundle."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.update import Parent

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
    parser.add_argument(
        "--parent",
        type=Path,
        metavar="BUNDLE",
        help="the bundle this one succeeds: its name, language model, decoding and licence are "
        "kept, version and release counter go one up, and its digest is written down",
    )
    parser.add_argument(
        "--parent-weights",
        type=Path,
        metavar="FILE",
        help="the checkpoint that the parent was exported from: every weight is rounded to a few "
        "steps from its, so that the delta from parent to child is small",
    )
    parser.add_argument(
        "--update-step",
        type=float,
        metavar="X",
        help="those steps, relative to how far fine-tuning moved the weights of a layer: half as "
        "long they add 6 dB less noise and cost a bit for every weight; 0 rounds nothing [0.25]",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="data sets that were trained on, whose digests are written down",
    )
    parser.add_argument("--name", help="bundle name [the parent's, or en-demo]")
    parser.add_argument("--version", help="bundle version [above the parent's, or 0.1.0]")
    parser.add_argument(
        "--release", type=int, help="release counter, ever growing [above the parent's, or 1]"
    )
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
    parser.add_argument("--chunk-ms", type=int, help="default chunk [the parent's, or 320]")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.contract.bundle import DECODING, TOKENS_NAME
    from edge_runtime.errors import ConfigError
    from training.bundle import CHUNKS_MS, Release, export_bundle, successor

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    if args.chunk_ms is not None and args.chunk_ms not in CHUNKS_MS:
        raise ConfigError(f"--chunk-ms {args.chunk_ms}: one of {', '.join(map(str, CHUNKS_MS))}")
    release, lm = Release(), args.lm
    if args.parent is not None:
        release, inherited = successor(args.parent)
        lm = lm or inherited
    parent = _parent(args)
    given = {
        "name": args.name,
        "version": args.version,
        "release_counter": args.release,
        "default_chunk_ms": args.chunk_ms,
        "decoding": _json_object(args.decoding, *DECODING) or None,
        **_json_object(args.facts, "metrics", "training_data", "licence"),
    }
    release = dataclasses.replace(release, **{k: v for k, v in given.items() if v is not None})
    if args.data:
        release = release.trained_on(args.data)
    bundle = export_bundle(
        args.checkpoint,
        args.tokenizer / TOKENS_NAME,
        args.out,
        release,
        half=args.weights == "float16",
        confidence=args.confidence,
        lm=lm,
        card=args.card,
        weights_out=args.checkpoint_out,
        parent=parent,
    )
    print(bundle.path)
    return 0


def _parent(args: argparse.Namespace) -> Parent | None:
    """Where the update is counted from, if it is to be rounded."""
    from edge_runtime.errors import ConfigError
    from training.bundle import ENCODER_NAME
    from training.update import STEP, Parent

    step = STEP if args.update_step is None else args.update_step
    if not 0 <= step <= 4:
        raise ConfigError(f"--update-step {step:g}: expected 0 to 4")
    if not step or (args.parent_weights is None and args.update_step is None):
        return None
    if args.parent is None or args.parent_weights is None:
        raise ConfigError(
            "an update is rounded to steps from a parent: give --parent and --parent-weights"
        )
    return Parent(weights=args.parent_weights, encoder=args.parent / ENCODER_NAME, step=step)


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
