"""Against sherpa-onnx: the same model file in the most used C++ runtime.

Both read the same graph, one thread each, and get the same audio in blocks of one chunk, as live
audio arrives; only the graph's metadata is rewritten for each chunk size, which is how sherpa-onnx
learns it. Time is processor time from creating a stream to its last block, features and decoding
included, loading not. We also make a partial result, with word times and confidences, whenever
words change; sherpa-onnx is never asked for its text while the clock runs. The ratio is ours /
theirs.

sherpa-onnx needs one feature frame more than a window before it runs it, and never flushes. So
every clip gets 0.8 s of silence or slightly more, ending one frame after a window: then both have
run exactly the same windows, and the tokens and their frames are compared over whole clips.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import SAMPLE_RATE, Samples, Table

FRAME = SAMPLE_RATE // 100  # samples
TAIL_S = 0.8


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="default: variants of the sample clips")
    parser.add_argument("--utterances", type=int, default=120, help="default: 120")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument(
        "--chunk-ms", type=int, nargs="+", default=[320, 80], help="default: 320 80"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    found = measure.manifests(args.manifest, args.utterances)
    utterances = list(chain.from_iterable(found.values()))
    samples = list(variants([measure.load(u.audio_filepath) for u in utterances], args.utterances))
    results: dict[str, Any] = {"audio": sorted(found)}
    with tempfile.TemporaryDirectory(prefix="vitconformer-bench-") as temporary:
        folder = Path(temporary)
        for chunk_ms in args.chunk_ms:
            padded = [with_tail(s, frames=chunk_ms // 10) for s in samples]
            audio = measure.save_clips(padded, folder)
            model = folder / f"encoder-{chunk_ms}.onnx"
            rewrite(args.bundle / "encoder.onnx", model, frames=chunk_ms // 10)
            options = {"bundle": str(args.bundle), "model": str(model), "chunk_ms": chunk_ms}
            results[str(chunk_ms)] = compare(options, audio, args.repeats)
    return results


def compare(options: dict[str, Any], audio: list[str], repeats: int) -> dict[str, Any]:
    """Tokens once, then timed runs, every one in its own process."""
    ours = measure.child(our_tokens, **options, audio=audio)["tokens"]
    theirs = measure.child(their_tokens, **options, audio=audio)["tokens"]
    runs = measure.alternate(
        {
            "ours": partial(measure.child, run_ours, **options, audio=audio),
            "sherpa-onnx": partial(measure.child, run_sherpa, **options, audio=audio),
        },
        repeats,
    )
    seconds = sum(len(np.load(path, mmap_mode="r")) for path in audio) / SAMPLE_RATE
    cpu = {name: [r["cpu_s"] / seconds for r in found] for name, found in runs.items()}
    return {
        "utterances": len(audio),
        "utterances_with_equal_tokens": sum(a == b for a, b in zip(ours, theirs, strict=True)),
        "tokens": sum(map(len, theirs)),
        "audio_s": seconds,
        "cpu_s_per_audio_s": {name: statistics.median(values) for name, values in cpu.items()},
        "peak_rss_mb": {
            name: statistics.median(r["peak_rss_mb"] for r in found) for name, found in runs.items()
        },
        "ratio": measure.median_ratio(cpu["ours"], cpu["sherpa-onnx"]),
        "ratios": [a / b for a, b in zip(cpu["ours"], cpu["sherpa-onnx"], strict=True)],
    }


def variants(clips: list[Samples], count: int) -> Iterator[Samples]:
    """`count` clips; each round begins elsewhere in the windows and is quieter than the last."""
    for i in range(count):
        repeat, index = divmod(i, len(clips))
        lead_in = np.zeros(repeat * 37 * 16, np.float32)  # 37 ms: no divisor of any window
        yield np.concatenate([lead_in, clips[index] * np.float32(0.9**repeat)])


def with_tail(samples: Samples, *, frames: int) -> Samples:
    """Silence behind `samples`, such that one frame is ready beyond the last full window."""
    ready = (len(samples) + round(TAIL_S * SAMPLE_RATE)) // FRAME
    windows = -(-ready // frames)
    # Frame i is ready with sample 160·i + 280, the end of the 400 samples around its centre.
    total = windows * frames * FRAME + 280
    return np.concatenate([samples, np.zeros(total - len(samples), np.float32)])


def rewrite(source: Path, target: Path, *, frames: int) -> None:
    """The same graph, saying that its windows hold `frames` feature frames."""
    import onnx

    model = onnx.load(source)
    for entry in model.metadata_props:
        if entry.key in ("window_size", "chunk_shift"):
            entry.value = str(frames)
    onnx.save(model, target)


# --- in processes of their own -------------------------------------------------------------------


def run_ours(*, bundle: str, model: str, chunk_ms: int, audio: list[str]) -> dict[str, float]:
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, endpoint=None, precision="float32")

    def recognise(pieces: list[Samples]) -> None:
        stream = recognizer.stream()
        for piece in pieces:
            stream.push(piece)

    return _timed(recognise, audio, chunk_ms)


def run_sherpa(*, bundle: str, model: str, chunk_ms: int, audio: list[str]) -> dict[str, float]:
    recognizer = _sherpa(bundle, model)

    def recognise(pieces: list[Samples]) -> None:
        stream = recognizer.create_stream()
        for piece in pieces:
            stream.accept_waveform(SAMPLE_RATE, piece)
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)

    return _timed(recognise, audio, chunk_ms)


def _timed(
    recognise: Callable[[list[Samples]], None], audio: list[str], chunk_ms: int
) -> dict[str, float]:
    recognise(list(measure.blocks(np.load(audio[0]), chunk_ms)))  # first runs allocate
    cpu_s = 0.0
    for path in audio:
        pieces = list(measure.blocks(np.load(path), chunk_ms))
        start = time.process_time()
        recognise(pieces)
        cpu_s += time.process_time() - start
    return {"cpu_s": cpu_s}


def our_tokens(*, bundle: str, model: str, chunk_ms: int, audio: list[str]) -> dict[str, Any]:
    from edge_runtime.bundle import Bundle
    from edge_runtime.decoding import GreedyConfig, decoder_factory
    from edge_runtime.engine import Engine
    from edge_runtime.features import open_frontend

    opened = Bundle.open(bundle)
    engine, vocabulary = Engine.from_bundle(opened), opened.vocabulary()
    frontend = open_frontend(engine.spec.frontend)
    new_decoder = decoder_factory(GreedyConfig(), vocabulary)
    found = []
    session = engine.session(chunk_frames=chunk_ms // 10)
    for path in audio:
        session.reset()
        features = frontend.stream()
        decoder = new_decoder()
        for piece in measure.blocks(np.load(path), chunk_ms):
            session.push(features.push(piece))
            while outputs := session.step():
                decoder.advance(outputs[0].logprobs)
        found.append(
            [[vocabulary.pieces[token.id], token.start_frame] for token in decoder.tokens()]
        )
    return {"tokens": found}


def their_tokens(*, bundle: str, model: str, chunk_ms: int, audio: list[str]) -> dict[str, Any]:
    from edge_runtime.tokens import WORD_START

    recognizer = _sherpa(bundle, model)
    found = []
    for path in audio:
        stream = recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, np.load(path))
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        found.append(
            [
                [piece.replace(" ", WORD_START), round(time_s / 0.04)]  # it shows word starts so
                for piece, time_s in zip(
                    recognizer.tokens(stream), recognizer.timestamps(stream), strict=True
                )
            ]
        )
    return {"tokens": found}


def _sherpa(bundle: str, model: str) -> Any:
    import sherpa_onnx

    return sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
        model=model, tokens=f"{bundle}/tokens.txt", num_threads=1
    )


def table(results: dict[str, Any]) -> Table:
    header = ["chunk", "tokens equal", "ours, CPU s / audio s", "sherpa-onnx", "ours / sherpa-onnx",
              "peak RSS, ours", "peak RSS, sherpa-onnx"]  # fmt: skip
    rows = [header]
    for chunk_ms, found in results.items():
        if not chunk_ms.isdigit():
            continue
        cpu, rss = found["cpu_s_per_audio_s"], found["peak_rss_mb"]
        rows.append(
            [
                f"{chunk_ms} ms",
                f"{found['utterances_with_equal_tokens']} of {found['utterances']} utterances, "
                f"{found['tokens']} tokens",
                f"{cpu['ours']:.4f}",
                f"{cpu['sherpa-onnx']:.4f}",
                f"{found['ratio']:.2f} ({min(found['ratios']):.2f} to {max(found['ratios']):.2f})",
                f"{rss['ours']:.0f} MB",
                f"{rss['sherpa-onnx']:.0f} MB",
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
