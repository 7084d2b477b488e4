"""Confidence: do the numbers beside the words say how likely they are to be right?

The words of the finals of each file (320 ms, with endpointing; greedy, and by a beam of 24 with the
bundle's language model) are aligned with the reference; a word is right where it is aligned with
itself. Insertions are wrong words; deletions have no word and no confidence. AUROC: the chance that
a right word is more confident than a wrong one. AUC-NT: average precision of finding the wrong
words by low confidence (a random order would give the share of wrong words). NCE: normalised cross
entropy, the share of the labels' entropy that the confidences explain; 0 is what knowing only the
share of right words would give. ECE: expected calibration error over 15 bins of equal mass.
Deletions: AUROC of the largest deletion score of a file against whether words are missing from its
text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measure
from benchmarks.measure import Table
from edge_runtime.bundle import Bundle
from edge_runtime.decoding import BeamConfig, DecoderConfig

if TYPE_CHECKING:
    from edge_runtime.manifest import Utterance

BLOCK_MS = 100


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    parser.add_argument("--limit", type=int, help="only the first N utterances of each set")
    parser.add_argument("--chunk-ms", type=int, default=320, help="default: 320")


def run(args: argparse.Namespace) -> dict[str, Any]:
    results = {}
    for name, utterances in measure.manifests(args.manifest, args.limit).items():
        results[name] = judge(args.bundle, utterances, args.chunk_ms)
        if settings := Bundle.open(args.bundle).decoding():
            beam = BeamConfig(**settings)
            results[name]["beam"] = judge(args.bundle, utterances, args.chunk_ms, beam)
    return results


def judge(
    bundle: Path,
    utterances: Sequence[Utterance],
    chunk_ms: int,
    decoder: DecoderConfig | None = None,
) -> dict[str, Any]:
    """All metrics over one test set."""
    from edge_runtime import confidence_metrics, judging
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, decoder=decoder, precision="float32")
    confidences: list[float] = []
    right: list[bool] = []
    scores: list[float] = []
    complete: list[bool] = []
    for utterance in utterances:
        pieces = measure.blocks(measure.load(utterance.audio_filepath), BLOCK_MS)
        finals = judging.recognise(recognizer, pieces)
        judged = judging.judge(utterance.text, finals)
        confidences += [word.confidence for word in judged.words]
        right += judged.right
        scores.append(1 - max((final.deletion_score for final in finals), default=0.0))
        complete.append(judged.counts.deletions == 0)
    return {
        **confidence_metrics.summary(confidences, right),
        "deletions_auroc": confidence_metrics.auroc(scores, complete),
        "files": len(complete),
        "files_with_deletions": len(complete) - sum(complete),
    }


def table(results: dict[str, Any]) -> Table:
    header = ["test set", "words", "right", "AUROC", "AUC-NT", "NCE", "ECE",
              "deletions, AUROC over files"]  # fmt: skip
    return [header] + [
        [
            name,
            f"{found['words']}",
            f"{found['right']:.1%}",
            *(f"{found[metric]:.3f}" for metric in ("auroc", "auc_nt", "nce", "ece")),
            f"{found['deletions_auroc']:.3f}",
        ]
        for name, found in _rows(results)
    ]


def _rows(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, found in results.items():
        yield name, found
        if "beam" in found:
            yield f"{name}, beam", found["beam"]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
