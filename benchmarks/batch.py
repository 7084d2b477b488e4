"""Batching: many streams stepped together against the same streams one by one.

Each stream is a different sequence of clips, cut or filled with silence to the same length, at 320
ms, greedy, with endpointing. One by one means one recogniser and a stream for each, in one process,
so that both sides have one copy of the weights and one thread. The texts of every stream are
compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import SAMPLE_RATE, Samples, Table


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    parser.add_argument("--streams", type=int, nargs="+", default=[8], help="default: 8")
    parser.add_argument("--seconds", type=int, default=60, help="of each stream (default: 60)")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument("--chunk-ms", type=int, default=320, help="default: 320")


def run(args: argparse.Namespace) -> dict[str, Any]:
    utterances = list(chain.from_iterable(measure.manifests(args.manifest).values()))
    clips = [measure.load(utterance.audio_filepath) for utterance in utterances[:200]]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vitconformer-bench-") as folder:
        for count in args.streams:
            rows = [playlist(clips, row, args.seconds) for row in range(count)]
            options = {
                "bundle": str(args.bundle),
                "chunk_ms": args.chunk_ms,
                "audio": measure.save_clips(rows, Path(folder)),
            }
            runs = measure.alternate(
                {
                    "batched": partial(measure.child, batched, **options),
                    "single": partial(measure.child, one_by_one, **options),
                },
                args.repeats,
            )
            cpu = {name: [r["cpu_s"] for r in found] for name, found in runs.items()}
            texts = [runs[name][0]["texts"] for name in ("batched", "single")]
            results[str(count)] = {
                "chunk_ms": args.chunk_ms,
                "cpu_s_per_audio_s": {
                    name: statistics.median(values) / count / args.seconds
                    for name, values in cpu.items()
                },
                "ratio": measure.median_ratio(cpu["batched"], cpu["single"]),
                "streams_with_equal_texts": sum(a == b for a, b in zip(*texts, strict=True)),
            }
    return results


def playlist(clips: list[Samples], row: int, seconds: int) -> Samples:
    """The clips from clip `row` on, with pauses that differ, until `seconds` are full."""
    size = seconds * SAMPLE_RATE
    parts: list[Samples] = []
    while sum(map(len, parts)) < size:
        clip = clips[(row + len(parts) // 2) % len(clips)]
        parts += [clip, np.zeros(SAMPLE_RATE // 2 + 1000 * row, np.float32)]
    return np.concatenate(parts)[:size]


def batched(*, bundle: str, chunk_ms: int, audio: list[str]) -> dict[str, Any]:
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, precision="float32")
    recognizer.batch(len(audio)).push([np.zeros(SAMPLE_RATE, np.float32)] * len(audio))
    rows = [measure.blocks(np.load(path), chunk_ms) for path in audio]
    finals: list[list[str]] = [[] for _ in audio]
    start = time.process_time()
    batch = recognizer.batch(len(audio))
    for blocks in zip(*rows, strict=True):
        for texts, events in zip(finals, batch.push(blocks), strict=True):
            texts += [event.text for event in events if event.type == "final"]
    for texts, events in zip(finals, batch.finish(range(len(audio))), strict=True):
        texts += [event.text for event in events if event.type == "final"]
    cpu_s = time.process_time() - start
    return {"cpu_s": cpu_s, "texts": list(map(" ".join, finals))}


def one_by_one(*, bundle: str, chunk_ms: int, audio: list[str]) -> dict[str, Any]:
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, precision="float32")
    recognizer.stream().push(np.zeros(SAMPLE_RATE, np.float32))
    rows = [measure.blocks(np.load(path), chunk_ms) for path in audio]
    finals = []
    start = time.process_time()
    for blocks in rows:
        stream = recognizer.stream()
        events = [event for block in blocks for event in stream.push(block)]
        events += stream.finish()
        finals.append([event.text for event in events if event.type == "final"])
    cpu_s = time.process_time() - start
    return {"cpu_s": cpu_s, "texts": list(map(" ".join, finals))}


def table(results: dict[str, Any]) -> Table:
    header = ["streams", "batched, CPU s / audio s", "one by one", "batched / one by one",
              "streams with equal texts"]  # fmt: skip
    return [header] + [
        [
            count,
            f"{found['cpu_s_per_audio_s']['batched']:.5f}",
            f"{found['cpu_s_per_audio_s']['single']:.5f}",
            f"{found['ratio']:.2f}",
            f"{found['streams_with_equal_texts']} of {count}",
        ]
        for count, found in results.items()
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
