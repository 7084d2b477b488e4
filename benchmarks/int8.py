"""INT8 against float: the same model in both, and stock sherpa-onnx with its usual dynamic INT8.

Speed: processor time of a recogniser over the clips, in blocks of one chunk, greedy, without
end-pointing, loading not included; every run in its own process, alternating. `graph` is a step of
the graph alone, through the recogniser's binding. For sherpa-onnx the float graph is quantised as
its own scripts do it, `quantize_dynamic` over the matrix products, with their biases taken out of
the `Gemm`s, which that function passes over.

Accuracy: word error rates of both over each test set at 320 ms, greedy; the difference has a
95 % interval by bootstrap over utterances, drawn in pairs. ECE as in `confidence.py`, both with the
map fitted on the float model.

Agreement: one hour of clips as one stream through both; edits per token of the float model's greedy
transcript, for every ten minutes. If states drifted apart it would grow.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import SAMPLE_RATE, Table
from benchmarks.sherpa import rewrite, run_sherpa

if TYPE_CHECKING:
    from edge_runtime.manifest import Utterance

CHUNKS_MS = (320, 80)
FLOAT = "float32"


def configure(parser: argparse.ArgumentParser) -> None:
    measure.add_manifest_option(parser, default="for the error rates")
    parser.add_argument(
        "--precision", default="", help="INT8 model to measure (default: what would run here)"
    )
    parser.add_argument("--repeats", type=int, default=7, help="default: 7")
    parser.add_argument("--minutes", type=int, default=60, help="of agreement (default: 60)")
    parser.add_argument("--limit", type=int, help="only the first N utterances of each set")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from edge_runtime.bundle import Bundle
    from edge_runtime.precision import choose, this_processor

    bundle = Bundle.open(args.bundle)
    int8 = args.precision or choose(bundle.manifest.precisions, this_processor())[0]
    if int8 == FLOAT:
        raise SystemExit("int8.py: no INT8 model that would run here: name one with --precision")
    sizes = {name: bundle.model(name).stat().st_size for name in (FLOAT, int8)}
    clips = [measure.load(u.audio_filepath) for u in measure.manifests([])["samples"]]
    results: dict[str, Any] = {
        "precision": int8,
        "size_mb": {name: size / 1e6 for name, size in sizes.items()},
        "size_ratio_to_float32_weights": sizes[int8] / widened(bundle.model(FLOAT)),
        "chunks": {},
    }
    with tempfile.TemporaryDirectory(prefix="vitconformer-bench-") as name:
        folder = Path(name)
        audio = measure.save_clips(clips, folder)
        dynamic = folder / "dynamic.onnx"
        usual_dynamic(bundle.model(FLOAT), dynamic)
        for chunk_ms in CHUNKS_MS:
            theirs = folder / f"sherpa-{chunk_ms}.onnx"
            rewrite(dynamic, theirs, frames=chunk_ms // 10)
            options = {"bundle": str(args.bundle), "chunk_ms": chunk_ms, "audio": audio}
            results["chunks"][str(chunk_ms)] = speed(options, int8, str(theirs), args.repeats)
    results["agreement"] = agreement(args.bundle, int8, clips, args.minutes)
    results["sets"] = {
        name: accuracy(args.bundle, int8, utterances)
        for name, utterances in measure.manifests(args.manifest, args.limit).items()
    }
    return results


def widened(model: Path) -> int:
    """Bytes of the float graph if its matrices were stored as they are computed with."""
    from calibration.graph import load_graph

    return int(load_graph(model).model.ByteSize())


def usual_dynamic(model: Path, target: Path) -> None:
    """What sherpa-onnx's export scripts make of a float model."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from calibration.graph import load_graph

    plain = target.with_suffix(".float.onnx")
    onnx.save(load_graph(model).model, plain)
    quantize_dynamic(
        plain,
        target,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        extra_options={"DisableShapeInference": True, "DefaultTensorType": 1},
    )


def speed(options: dict[str, Any], int8: str, theirs: str, repeats: int) -> dict[str, Any]:
    """CPU seconds per audio second of all three, and of the graph alone."""
    runs = measure.alternate(
        {
            "float": partial(measure.child, run_ours, **options, precision=FLOAT),
            "int8": partial(measure.child, run_ours, **options, precision=int8),
            "sherpa": partial(measure.child, run_sherpa, **options, model=theirs),
        },
        repeats,
    )
    seconds = sum(len(np.load(path, mmap_mode="r")) for path in options["audio"]) / SAMPLE_RATE
    cpu = {name: [r["cpu_s"] / seconds for r in found] for name, found in runs.items()}
    graph = measure.alternate(
        {
            name: partial(
                measure.child, run_graph, bundle=options["bundle"], precision=precision,
                chunk_ms=options["chunk_ms"],
            )
            for name, precision in (("float", FLOAT), ("int8", int8))
        },
        repeats,
    )  # fmt: skip
    steps = {name: [r["step_s"] for r in found] for name, found in graph.items()}
    return {
        "cpu_s_per_audio_s": {name: statistics.median(values) for name, values in cpu.items()},
        "ratio": measure.median_ratio(cpu["int8"], cpu["float"]),
        "ratio_to_sherpa": measure.median_ratio(cpu["int8"], cpu["sherpa"]),
        "graph_ms": {name: 1e3 * statistics.median(values) for name, values in steps.items()},
        "graph_ratio": measure.median_ratio(steps["int8"], steps["float"]),
    }


def run_ours(*, bundle: str, chunk_ms: int, audio: list[str], precision: str) -> dict[str, float]:
    from benchmarks.sherpa import _timed
    from edge_runtime.recognizer import Recognizer

    recognizer = Recognizer.open(bundle, chunk_ms=chunk_ms, endpoint=None, precision=precision)

    def recognise(pieces: list[measure.Samples]) -> None:
        stream = recognizer.stream()
        for piece in pieces:
            stream.push(piece)

    return _timed(recognise, audio, chunk_ms)


def run_graph(*, bundle: str, chunk_ms: int, precision: str) -> dict[str, float]:
    from edge_runtime.bundle import Bundle
    from edge_runtime.engine import Engine

    session = Engine.from_bundle(Bundle.open(bundle), precision=precision).session(
        chunk_frames=chunk_ms // 10
    )
    binding = session._binding
    binding.features[:] = np.random.default_rng(0).normal(-8, 4, binding.features.shape)
    times = []
    for _ in range(40):
        start = time.process_time()
        for _ in range(10):
            binding.run()
        times.append((time.process_time() - start) / 10)
    return {"step_s": statistics.median(times[5:])}


def agreement(
    bundle: Path, int8: str, clips: Sequence[measure.Samples], minutes: int
) -> dict[str, Any]:
    """Edits per token for every ten minutes of one stream."""
    from edge_runtime.bundle import Bundle
    from edge_runtime.decoding import GreedyConfig, decoder_factory
    from edge_runtime.engine import Engine
    from edge_runtime.features import open_frontend
    from edge_runtime.metrics import ErrorCounts, word_errors

    opened = Bundle.open(bundle)
    new_decoder = decoder_factory(GreedyConfig(), opened.vocabulary())
    engines = [Engine.from_bundle(opened, precision=precision) for precision in (FLOAT, int8)]
    sessions = [engine.session() for engine in engines]
    decoders = [new_decoder() for _ in engines]
    features = open_frontend(engines[0].spec.frontend).stream()
    parts: list[ErrorCounts] = []
    rng = np.random.default_rng(0)
    heard, counts = 0.0, ErrorCounts()
    while heard < minutes * 60:
        clip = clips[rng.integers(len(clips))]
        pause = np.zeros(rng.integers(SAMPLE_RATE // 4, SAMPLE_RATE), np.float32)
        frames = features.push(np.concatenate([clip * np.float32(rng.uniform(0.3, 1)), pause]))
        said = []
        for session, decoder in zip(sessions, decoders, strict=True):
            session.push(frames)
            while outputs := session.step():
                decoder.advance(outputs[0].logprobs, outputs[0].stats)
            # In silence, so that neither has a token in the making.
            said.append(" ".join(str(token.id) for token in decoder.split(decoder.frames)))
        counts += word_errors(*said)
        heard += (len(clip) + len(pause)) / SAMPLE_RATE
        if heard >= 600 * (len(parts) + 1) or heard >= minutes * 60:
            parts.append(counts)
            counts = ErrorCounts()
    return {
        "edits_per_token": [part.rate for part in parts],
        "tokens": sum(part.reference_length for part in parts),
    }


def accuracy(bundle: Path, int8: str, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Both error rates over one set, and what lies between them."""
    from edge_runtime import confidence_metrics, judging
    from edge_runtime.metrics import ErrorCounts, corpus_rate, paired_difference
    from edge_runtime.recognizer import Recognizer

    counts: dict[str, list[ErrorCounts]] = {}
    ece = {}
    for precision in (FLOAT, int8):
        recognizer = Recognizer.open(bundle, precision=precision)
        confidences: list[float] = []
        right: list[bool] = []
        for utterance in utterances:
            finals = judging.recognise(recognizer, [measure.load(utterance.audio_filepath)])
            judged = judging.judge(utterance.text, finals)
            counts.setdefault(precision, []).append(judged.counts)
            confidences += [word.confidence for word in judged.words]
            right += judged.right
        ece[precision] = confidence_metrics.summary(confidences, right)["ece"]
    difference = paired_difference(list(zip(counts[FLOAT], counts[int8], strict=True)))
    return {
        "wer": {"float": corpus_rate(counts[FLOAT]), "int8": corpus_rate(counts[int8])},
        "difference": difference.value,
        "interval": [difference.low, difference.high],
        "ece": {"float": ece[FLOAT], "int8": ece[int8]},
        "utterances": len(utterances),
    }


def table(results: dict[str, Any]) -> Table:
    rows = [["what", "float", results["precision"], "difference or ratio"]]
    for chunk_ms, found in results["chunks"].items():
        cpu, graph = found["cpu_s_per_audio_s"], found["graph_ms"]
        rows += [
            [f"{chunk_ms} ms: CPU s / audio s", f"{cpu['float']:.5f}", f"{cpu['int8']:.5f}",
             f"{found['ratio']:.2f}"],
            [f"{chunk_ms} ms: the same, sherpa-onnx with dynamic INT8", f"{cpu['sherpa']:.5f}",
             f"{cpu['int8']:.5f}", f"{found['ratio_to_sherpa']:.2f}"],
            [f"{chunk_ms} ms: graph, ms per step", f"{graph['float']:.2f}", f"{graph['int8']:.2f}",
             f"{found['graph_ratio']:.2f}"],
        ]  # fmt: skip
    for name, found in results["sets"].items():
        low, high = found["interval"]
        rows += [
            [f"{name}: WER at 320 ms, greedy", f"{found['wer']['float']:.2%}",
             f"{found['wer']['int8']:.2%}",
             f"{100 * found['difference']:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"],
            [f"{name}: ECE of word confidences", f"{found['ece']['float']:.3f}",
             f"{found['ece']['int8']:.3f}", f"{found['ece']['int8'] - found['ece']['float']:+.3f}"],
        ]  # fmt: skip
    sizes = list(results["size_mb"].values())
    rows.append(
        ["file, MB (the float file stores matrices as float16)", f"{sizes[0]:.1f}",
         f"{sizes[1]:.1f}", f"{results['size_ratio_to_float32_weights']:.2f} of float32"]
    )  # fmt: skip
    parts = results["agreement"]["edits_per_token"]
    rows.append(
        ["edits per token, for every 10 minutes of a stream", "",
         " ".join(f"{part:.2%}" for part in parts), f"{results['agreement']['tokens']} tokens"]
    )  # fmt: skip
    return rows


def headline(results: dict[str, Any]) -> str:
    """The one line for people and scripts."""
    worst = max((abs(found["difference"]) for found in results["sets"].values()), default=0.0)
    return f"int8/float {results['chunks']['320']['ratio']:.2f} dWER {100 * worst:.2f}"


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
