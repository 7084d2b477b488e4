"""Memory, and the cost of starting.

Growth: clips are looped as one stream, with a second of silence between them, at 320 ms, greedy,
with endpointing, in blocks of one chunk and with finals thrown away; resident memory
(/proc/self/statm) is read after 10 minutes of audio and after 60. Peak: the high-water mark of that
process at its end, the interpreter and the libraries included. Nothing is trimmed or collected by
hand.

Cold start: `vitconformer transcribe` on a clip of about 3 s as a new process, from its start to its
end, processor time, user and system; the files are in the page cache. The bundle's digests are
verified.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks import measure
from benchmarks.measure import SAMPLE_RATE, Table

CLIP_S = 3


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: the sample clips")
    parser.add_argument("--minutes", type=float, default=60, help="of audio (default: 60)")
    parser.add_argument("--settled", type=float, default=10, help="minutes before (default: 10)")
    parser.add_argument("--repeats", type=int, default=7, help="cold starts (default: 7)")
    parser.add_argument("--chunk-ms", type=int, default=320, help="default: 320")


def run(args: argparse.Namespace) -> dict[str, Any]:
    utterances = list(itertools.chain.from_iterable(measure.manifests(args.manifest, 40).values()))
    clips = [measure.load(utterance.audio_filepath) for utterance in utterances]
    with tempfile.TemporaryDirectory(prefix="vitconformer-bench-") as folder:
        stream = measure.child(
            long_stream,
            bundle=str(args.bundle),
            chunk_ms=args.chunk_ms,
            audio=measure.save_clips(clips, Path(folder)),
            settled_s=args.settled * 60,
            total_s=args.minutes * 60,
        )
        clip = Path(folder) / "clip.wav"
        speech = np.concatenate(clips)[: CLIP_S * SAMPLE_RATE]
        soundfile.write(clip, speech, SAMPLE_RATE)
        starts = [cold_start(args.bundle, clip, args.chunk_ms) for _ in range(args.repeats)]
    return {
        "stream": stream,
        "settled_minutes": args.settled,
        "minutes": args.minutes,
        "cold_start": {
            "clip_s": len(speech) / SAMPLE_RATE,
            "cpu_s": statistics.median(starts),
            "cpu_s_of_each": starts,
        },
    }


def long_stream(
    *, bundle: str, chunk_ms: int, audio: list[str], settled_s: float, total_s: float
) -> dict[str, float]:
    """Resident MB after `settled_s` of audio and after `total_s`."""
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, precision="float32")
    stream = recognizer.stream()
    pause = np.zeros(SAMPLE_RATE, np.float32)
    done, settled, finals = 0, 0.0, 0
    for path in itertools.cycle(audio):
        for block in measure.blocks(np.concatenate([np.load(path), pause]), chunk_ms):
            finals += sum(event.type == "final" for event in stream.push(block))
            done += len(block)
        if not settled and done >= settled_s * SAMPLE_RATE:
            settled = resident_mb()
        if done >= total_s * SAMPLE_RATE:
            break
    end = resident_mb()
    return {"finals": finals, "settled_mb": settled, "end_mb": end, "growth_mb": end - settled}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cold_start(bundle: Path, clip: Path, chunk_ms: int) -> float:
    """Processor seconds of one whole process."""
    program = [sys.executable, "-m", "edge_runtime", "transcribe", str(clip), "--quiet"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*program, "--bundle", str(bundle), "--chunk-ms", str(chunk_ms)],
        cwd=measure.ROOT,
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(results: dict[str, Any]) -> Table:
    stream, start = results["stream"], results["cold_start"]
    return [
        ["what", "measured"],
        [
            f"resident after {results['settled_minutes']:g} min of audio",
            f"{stream['settled_mb']:.1f} MB",
        ],
        [f"resident after {results['minutes']:g} min", f"{stream['end_mb']:.1f} MB"],
        ["growth", f"{stream['growth_mb']:+.2f} MB"],
        ["peak of the process", f"{stream['peak_rss_mb']:.0f} MB"],
        [f"cold start to the text of {start['clip_s']:.1f} s", f"{start['cpu_s']:.2f} CPU s"],
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
