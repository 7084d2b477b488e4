"""A process that hears recordings: options as JSON on standard input, the result as its last line.

python -m autotrain_cloud.gate.worker hear|time < options.json
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.gate.evaluate import Outcome
from edge_runtime.audio import open_audio
from edge_runtime.bundle import Bundle
from edge_runtime.decoding import BeamConfig, GreedyConfig
from edge_runtime.errors import EdgeError
from edge_runtime.events import Final
from edge_runtime.judging import judge, recognise
from edge_runtime.recognizer import Recognizer


def hear(
    *, bundle: str, precision: str, chunk_ms: int, beam: int, audio: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """The outcomes of `(path, reference)`, in order."""
    recognizer = _open(bundle, precision, chunk_ms, beam)
    outcomes = []
    for path, reference in audio:
        blocks = _blocks(path, chunk_ms)
        start = time.process_time()
        finals = recognise(recognizer, blocks)
        cpu_s = time.process_time() - start
        judged = judge(reference, finals)
        words = zip(judged.words, judged.right, strict=True)
        outcomes.append(
            Outcome(
                text=judged.text,
                hits=judged.counts.hits,
                substitutions=judged.counts.substitutions,
                deletions=judged.counts.deletions,
                insertions=judged.counts.insertions,
                confidence=_confidence(finals),
                words=tuple((word.word, word.confidence, right) for word, right in words),
                audio_s=sum(map(len, blocks)) / recognizer.sample_rate,
                cpu_s=cpu_s,
            )
        )
    return {"outcomes": [dataclasses.asdict(outcome) for outcome in outcomes]}


def measure(
    *, bundle: str, precision: str, chunk_ms: int, beam: int, audio: Sequence[str]
) -> dict[str, Any]:
    """CPU seconds per audio second over the files, after two that warm up."""
    recognizer = _open(bundle, precision, chunk_ms, beam)
    sounds = [_blocks(path, chunk_ms) for path in audio]
    for blocks in sounds[:2]:
        recognise(recognizer, blocks)
    start = time.process_time()
    for blocks in sounds:
        recognise(recognizer, blocks)
    cpu_s = time.process_time() - start
    seconds = sum(len(block) for blocks in sounds for block in blocks) / recognizer.sample_rate
    return {"cpu_per_audio_s": cpu_s / seconds}


def _open(bundle: str, precision: str, chunk_ms: int, beam: int) -> Recognizer:
    decoder = BeamConfig(beam=beam, **Bundle.open(bundle).decoding()) if beam else GreedyConfig()
    return Recognizer.open(bundle, precision=precision, chunk_ms=chunk_ms, decoder=decoder)


def _blocks(path: str, chunk_ms: int) -> list[NDArray[np.float32]]:
    with open_audio(path) as source:  # decoded before anything is timed
        return list(source.blocks(chunk_ms / 1000))


def _confidence(finals: Sequence[Final]) -> float:
    """Of a recording: its finals' by their letters, as within a final; else of the silence."""
    letters = [len(final.text) for final in finals]
    if not sum(letters):
        return min((final.confidence for final in finals), default=1.0)
    return float(np.average([final.confidence for final in finals], weights=letters))


def _peak_rss_mb() -> float:
    """Of this very process: ru_maxrss would hold what the parent used before exec."""
    status = Path("/proc/self/status").read_text("ascii").split()
    return int(status[status.index("VmHWM:") + 1]) / 1024


def main() -> int:
    tasks: dict[str, Callable[..., dict[str, Any]]] = {"hear": hear, "time": measure}
    try:
        result = tasks[sys.argv[1]](**json.load(sys.stdin))
    except (EdgeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({**result, "peak_rss_mb": _peak_rss_mb()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
