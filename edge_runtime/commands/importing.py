"""`vitconformer import`: a streaming CTC model from elsewhere becomes a bundle.

What NeMo exports for cache-aware streaming, and what sherpa-onnx runs: one ONNX file and a
`tokens.txt`. The file must carry its metadata (window_size, chunk_shift, …), as sherpa-onnx's
export scripts write it. The model is opened and run once before anything is written.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

NAME = "import"
HELP = "make a bundle of a NeMo or sherpa-onnx streaming CTC model"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="the exported graph")
    parser.add_argument("tokens", type=Path, metavar="TOKENS.txt", help="its tokens, blank last")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="bundle to write")
    parser.add_argument("--name", default="imported", help="name of the bundle (default: imported)")
    parser.add_argument("--version", default="1", help="version of the bundle (default: 1)")
    parser.add_argument(
        "--frontend",
        choices=("nemo_exact", "knf_nemo"),
        default="nemo_exact",
        help="features of its training: NeMo's, or those of sherpa-onnx (default: nemo_exact)",
    )
    parser.add_argument("--licence", default="", help="licence of the model, for the manifest")


def run(args: argparse.Namespace) -> int:
    from edge_runtime.bundle import write_bundle
    from edge_runtime.contract.bundle import TOKENS_NAME, Manifest
    from edge_runtime.engine import Engine
    from edge_runtime.errors import BundleIncompatible
    from edge_runtime.tokens import Vocabulary

    engine = Engine.open(args.model, frontend=args.frontend)
    engine.session()
    spec = engine.spec
    vocabulary = Vocabulary.load(args.tokens)
    if len(vocabulary) != spec.vocab_size:
        raise BundleIncompatible(
            f"has {len(vocabulary)} tokens",
            file=str(args.tokens),
            expected=f"{spec.vocab_size}, as the model",
            remedy="give the tokens that were exported with this model",
        )
    window = spec.default_window
    manifest = Manifest(
        name=args.name,
        version=args.version,
        release_counter=1,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        frontend=args.frontend,
        sample_rate=spec.sample_rate,
        chunk_frames=(window.shift,),
        default_chunk_ms=window.chunk_ms,
        precisions={"float32": "encoder.onnx"},
        licence=args.licence,
    )
    write_bundle(args.out, manifest, {"encoder.onnx": args.model, TOKENS_NAME: args.tokens})
    print(args.out)
    return 0
