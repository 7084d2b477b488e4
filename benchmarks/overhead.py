"""Where our time goes: graph, features, and everything else.

The recogniser runs over clips in blocks of one chunk, greedy, with endpointing, as `transcribe`
does. Every pass is made twice, one after the other: once for the total, and once with the
processor time taken of every call of the graph and of the feature extraction (`vitconformer bench`
has the stop-watches). The rest is the difference: windows, decoding, confidences, endpointing,
words and events. Medians over passes, one process per chunk size.
"""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from typing import Any

from benchmarks import measure
from benchmarks.measure import Table

CHUNKS_MS = (80, 160, 320, 640)
PARTS = {"rtf_graph": "graph", "rtf_features": "features", "rtf_rest": "rest"}


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    parser.add_argument("--utterances", type=int, default=60, help="at most (default: 60)")
    parser.add_argument("--repeats", type=int, default=15, help="passes (default: 15)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    found = measure.manifests(args.manifest)
    utterances = list(chain.from_iterable(found.values()))[: args.utterances]
    files = [str(utterance.audio_filepath.absolute()) for utterance in utterances]
    return {
        str(chunk_ms): measure.child(
            parts, bundle=str(args.bundle), chunk_ms=chunk_ms, files=files, repeats=args.repeats
        )
        for chunk_ms in CHUNKS_MS
    }


def parts(*, bundle: str, chunk_ms: int, files: list[str], repeats: int) -> dict[str, Any]:
    """Processor seconds per audio second of each part, at one chunk size."""
    from edge_runtime.commands import bench
    from edge_runtime.recognizer import Recognizer

    found = bench.measure(
        Recognizer.open(bundle, chunk_ms=chunk_ms, precision="float32"), files, repeats
    )
    return {**found, "rest_share": found["rtf_rest"] / found["rtf"]}


def table(results: dict[str, Any]) -> Table:
    header = ["chunk", "total, CPU s / audio s", *PARTS.values(), "share of the rest"]
    return [header] + [
        [
            f"{chunk_ms} ms",
            *(f"{found[name]:.5f}" for name in ("rtf", *PARTS)),
            f"{found['rest_share']:.1%}",
        ]
        for chunk_ms, found in results.items()
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
