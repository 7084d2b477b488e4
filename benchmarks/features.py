"""Features: our numpy against kaldi-native-fbank, as sherpa-onnx sets it.

The sample clips one after the other, pushed in blocks of one chunk; each system takes the samples
as its own interface wants them and gives its frames back as one array. CPU time of both, by turns,
one thread; the ratio is the median of neighbours. The difference is that of the log-mel values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import SAMPLE_RATE, Samples, Table
from edge_runtime.features import FEATURE_DIM, open_frontend

CHUNKS_MS = (80, 160, 320, 640)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=25, help="runs of each (default: 25)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    paths = sorted((measure.ROOT / "samples").glob("*.flac"))
    sound = np.concatenate([measure.load(path) for path in paths])
    found: dict[str, Any] = {"audio_s": len(sound) / SAMPLE_RATE}
    for chunk_ms in CHUNKS_MS:
        blocks = list(measure.blocks(sound, chunk_ms))
        ours, theirs = _ours(blocks), _theirs(blocks)
        away = np.abs(ours - theirs[: len(ours)])
        spent = measure.alternate(
            {
                "numpy": partial(_cpu_s, _ours, blocks),
                "kaldi-native-fbank": partial(_cpu_s, _theirs, blocks),
            },
            args.repeats,
        )
        found[str(chunk_ms)] = {
            "cpu_us_per_audio_s": {
                name: 1e6 * statistics.median(times) / found["audio_s"]
                for name, times in spent.items()
            },
            "ratio": measure.median_ratio(spent["numpy"], spent["kaldi-native-fbank"]),
            "difference": {"largest": float(away.max()), "median": float(np.median(away))},
        }
    return found


def _cpu_s(features: Callable[[Sequence[Samples]], Samples], blocks: Sequence[Samples]) -> float:
    start = time.process_time()
    features(blocks)
    return time.process_time() - start


def _ours(blocks: Sequence[Samples]) -> Samples:
    """f32 [frames, 80]"""
    stream = open_frontend("knf_nemo").stream()
    return np.concatenate([stream.push(block) for block in blocks])


def _theirs(blocks: Sequence[Samples]) -> Samples:
    """The same, and as many frames as there are by then."""
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.dither, frame.snip_edges, frame.remove_dc_offset = 0, False, False
    frame.window_type = "hann"
    mel.num_bins, mel.low_freq, mel.high_freq, mel.is_librosa = FEATURE_DIM, 0, 8000, True
    fbank = knf.OnlineFbank(options)
    frames: list[Samples] = []
    for block in blocks:
        fbank.accept_waveform(SAMPLE_RATE, block.tolist())
        frames += [fbank.get_frame(i) for i in range(len(frames), fbank.num_frames_ready)]
    return np.stack(frames)


def table(results: dict[str, Any]) -> Table:
    rows = [["chunk", "numpy, us / audio s", "kaldi-native-fbank", "ratio", "largest difference"]]
    for chunk_ms in map(str, CHUNKS_MS):
        found = results[chunk_ms]
        times = [f"{value:.0f}" for value in found["cpu_us_per_audio_s"].values()]
        away = f"{found['difference']['largest']:.0e}"
        rows.append([f"{chunk_ms} ms", *times, f"{found['ratio']:.2f}", away])
    return rows


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
