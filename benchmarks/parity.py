"""Chunked against offline: the bundle as devices step it, the checkpoint in torch all at once.

Random pieces of the clips (any length from one frame to all, random pushes, partial last windows)
go through sessions of one to four streams that end at different times and are reset and used again.
Each output is compared with torch's masked pass over the whole piece under the mask of that chunk
size: the largest difference of a log-probability anywhere, and whether the best path has the same
tokens.
"""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.measure import Table

Features = NDArray[np.float32]  # [frames, 80]


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    measure.add_checkpoint_option(parser)
    parser.add_argument("--pieces", type=int, default=60, help="per chunk size (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from edge_runtime.features import open_frontend

    utterances = list(chain.from_iterable(measure.manifests(args.manifest, 30).values()))
    frontend = open_frontend("knf_nemo")
    clips = [frontend.compute(measure.load(utterance.audio_filepath)) for utterance in utterances]
    return compare(args.bundle, args.checkpoint, clips, args.pieces, args.seed)


def compare(
    bundle: Path, checkpoint: Path, clips: list[Features], pieces: int, seed: int
) -> dict[str, Any]:
    """Per chunk size: largest difference, and pieces whose tokens are the same."""
    from edge_runtime.bundle import Bundle
    from edge_runtime.engine import Engine
    from training.checkpoint import load_encoder
    from training.evaluate import greedy_ids

    engine = Engine.from_bundle(Bundle.open(bundle))
    encoder, _ = load_encoder(checkpoint)
    rng = np.random.default_rng(seed)
    results = {}
    for window in engine.spec.windows:
        worst, same, frames = 0.0, 0, 0
        sessions = [engine.session(batch, chunk_frames=window.shift) for batch in (1, 2, 3, 4)]
        done = 0
        while done < pieces:
            session = sessions[rng.integers(len(sessions))]
            rows = [cut(rng, clips) for _ in range(session.batch)]
            for row, found in enumerate(stepped(rng, session, rows)):
                expected = offline(encoder, rows[row], window.shift // engine.spec.subsampling)
                worst = max(worst, float(np.abs(found - expected.numpy()).max()))
                same += greedy_ids(expected) == greedy_ids(expected.new_tensor(found))
                frames += len(found)
                done += 1
        results[str(window.chunk_ms)] = {
            "pieces": done,
            "pieces_with_equal_tokens": same,
            "output_frames": frames,
            "largest_difference": worst,
        }
    return results


def cut(rng: np.random.Generator, clips: list[Features]) -> Features:
    clip = clips[rng.integers(len(clips))]
    length = rng.integers(1, len(clip) + 1)
    start = rng.integers(len(clip) - length + 1)
    return clip[start : start + length]


def stepped(rng: np.random.Generator, session: Any, rows: list[Features]) -> list[Features]:
    """Each row's log-probabilities [T', V]; rows are pushed in pieces that differ."""
    found: list[list[Features]] = [[] for _ in rows]
    left = list(rows)
    for row in range(len(rows)):
        session.reset(row)
    while any(map(len, left)) or any(session.ready(row) for row in range(len(rows))):
        for row, features in enumerate(left):
            if len(features):
                count = int(rng.integers(1, 2 * session.window.size))
                session.push(features[:count], row)
                left[row] = features[count:]
                if not len(left[row]):
                    session.finish(row)
        for output in session.step():
            found[output.row].append(output.logprobs.copy())
    return [np.concatenate(parts) for parts in found]


def offline(encoder: Any, features: Features, chunk: int) -> Any:
    import torch

    with torch.inference_mode():
        whole = torch.from_numpy(features.copy())[None]  # [1, frames, 80]
        lengths = torch.tensor([len(features)])
        return encoder(whole, lengths, chunk=chunk, left=encoder.config.left_context)[0]


def table(results: dict[str, Any]) -> Table:
    header = ["chunk", "largest difference of a log-probability", "pieces with equal tokens",
              "output frames compared"]  # fmt: skip
    return [header] + [
        [
            f"{chunk_ms} ms",
            f"{found['largest_difference']:.1e}",
            f"{found['pieces_with_equal_tokens']} of {found['pieces']}",
            f"{found['output_frames']}",
        ]
        for chunk_ms, found in results.items()
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
