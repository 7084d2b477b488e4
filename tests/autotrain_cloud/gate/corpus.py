"""Sets of synthetic speech with several speakers, and bundles that are worse than the demo's."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile
import soxr
from onnx import helper, numpy_helper

from edge_runtime.bundle import Bundle, write_bundle
from training.voices import VOICES, Line, speak

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "bundles" / "en-demo"
SENTENCES = (ROOT / "benchmarks" / "sentences.txt").read_text("utf-8").split("\n")[:40]
SPEAKERS = (
    *("flite-slt", "flite-awb", "flite-kal16", "flite-rms", "festival-kal_diphone"),
    *("espeak-en-us+m1", "espeak-en-us+m3", "espeak-en-us+f2", "espeak-en-us+f4"),
    "festival-ked_diphone",
)
RATE = 16_000


def speak_set(
    folder: Path, name: str, *, each: int, first: int, speakers: Sequence[str] = SPEAKERS
) -> Path:
    """A manifest of `each` sentences by every speaker, from sentence `first` on."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, speaker in enumerate(speakers):
        start = first + number * each
        texts = [SENTENCES[i % len(SENTENCES)] for i in range(start, start + each)]
        recordings = speak(VOICES[speaker], [Line(spoken=f"{text}.") for text in texts])
        for i, (text, recording) in enumerate(zip(texts, recordings, strict=True)):
            assert recording is not None
            samples = soxr.resample(recording.samples, recording.rate, RATE)
            path = folder / f"{name}-{speaker}-{i}.flac"
            lines.append(_write(path, samples, text, speaker))
    return write_lines(folder / f"{name}.jsonl", lines)


def noise_set(folder: Path, *, seconds: float = 20.0) -> Path:
    """White noise and silence: nobody speaks."""
    rng = np.random.default_rng(0)
    sounds = {
        "silence": np.zeros(round(seconds * RATE), np.float32),
        "white": rng.normal(0, 0.05, round(seconds * RATE)).astype(np.float32),
    }
    lines = [_write(folder / f"{name}.flac", sound, "", "") for name, sound in sounds.items()]
    return write_lines(folder / "noise.jsonl", lines)


def _write(path: Path, samples: Any, text: str, speaker: str) -> dict[str, Any]:
    soundfile.write(path, samples, RATE)
    return {
        "audio_filepath": path.name,
        "duration": len(samples) / RATE,
        "text": text,
        "speaker": speaker,
        "label_source": "source",
    }


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --- bundles -------------------------------------------------------------------------------------


def variant(
    path: Path,
    version: str,
    *,
    graph: Callable[[onnx.ModelProto], None] | None = None,
    confidence: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """The demo bundle with both its graphs, or its confidence map, changed."""
    demo = Bundle.open(DEMO)
    files: dict[str, Path | bytes] = {name: demo.file(name) for name in demo.manifest.files}
    if graph is not None:
        for name in demo.manifest.precisions.values():
            model = onnx.load(demo.file(name))
            graph(model)
            files[name] = model.SerializeToString()
    if confidence is not None:
        fields = json.loads(demo.file("confidence.json").read_text("utf-8"))
        confidence(fields)
        files["confidence.json"] = json.dumps(fields).encode()
    write_bundle(path, replace(demo.manifest, version=version), files)
    return path


def scramble(spread: float) -> Callable[[onnx.ModelProto], None]:
    """A graph whose normalisations have other scales: factors of exp(N(0, spread)).

    These are stored alike in the float graph and in the quantised one, so both change alike.
    """

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith("norm.weight"):
                scales = numpy_helper.to_array(tensor)
                rng = np.random.default_rng([*tensor.name.encode()])
                scales = scales * np.exp(rng.normal(0, spread, scales.shape)).astype(scales.dtype)
                tensor.CopyFrom(numpy_helper.from_array(scales, tensor.name))

    return change


def trained_on_scrambled_labels(path: Path) -> Path:
    """The demo, really fine-tuned for some steps, on speech whose texts are each other's."""
    work = path.with_name(f"{path.name}-work")
    spoken = speak_set(work, "spoken", each=2, first=10)
    lines = read_lines(spoken)
    texts = [line["text"] for line in lines]
    for line, text in zip(lines, texts[3:] + texts[:3], strict=True):  # another sentence
        line["text"] = text
    write_lines(spoken, lines)
    twice = write_lines(work / "twice.jsonl", lines * 2)  # calibration wants many
    sets = ("optim.steps=12", "optim.warmup_steps=2", "optim.lr=1e-3", "optim.ema_decay=0.5",
            "data.max_seconds=20.0", "data.workers=0", "augment.features=false",
            "augment.specaugment=false")  # fmt: skip
    weights, tokenizer = DEMO.with_suffix(".safetensors"), DEMO.with_suffix(".tokenizer")
    for words in (
        ("features", "--manifest", spoken, "--out", work / "store"),
        ("train", "--recipe", "finetune", "--init", weights, "--tokenizer", tokenizer,
         "--train", work / "store", "--replay", work / "store", "--threads", 1, "--no-curves",
         "--out", work / "run", "--set", *sets),
        ("export", "--checkpoint", work / "run" / "step-0000012.safetensors",
         "--tokenizer", tokenizer, "--parent", DEMO, "--parent-weights", weights,
         "--out", work / "bundle"),
        ("calibrate", "--bundle", work / "bundle", "--manifest", twice, "--targets", "dynamic",
         "--chunks", 20, "--out", work / "int8", "--bundle-out", path),
    ):  # fmt: skip
        # Processes: training sets the threads of the one that it is in.
        subprocess.run([sys.executable, "-m", "edge_runtime", *map(str, words)], check=True)
    return path


def waste_time(model: onnx.ModelProto) -> None:
    """A graph that also multiplies large matrices of noughts and adds the sum to its input.

    Several times what the real graph takes, on any machine, in the memory of three such matrices.
    """
    graph = model.graph
    features = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["wasted" if name == features else name for name in node.input]
    large, products = 600, 5
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([large, large], np.int64), "waste.shape"),
            numpy_helper.from_array(np.array(0, np.float32), "waste.zero"),
            numpy_helper.from_array(np.array([1, 1], np.int64), "waste.one"),
        ]
    )
    matrices = [f"waste.{number}" for number in range(products + 1)]
    waste = [
        helper.make_node("ReduceMean", [features], ["waste.mean"], keepdims=0),
        helper.make_node("Mul", ["waste.mean", "waste.zero"], ["waste.nought"]),
        helper.make_node("Reshape", ["waste.nought", "waste.one"], ["waste.scalar"]),
        helper.make_node("Expand", ["waste.scalar", "waste.shape"], [matrices[0]]),
        *(
            helper.make_node("MatMul", [before, matrices[0]], [after])
            for before, after in itertools.pairwise(matrices)
        ),
        helper.make_node("ReduceMean", [matrices[-1]], ["waste.nothing"], keepdims=0),
        helper.make_node("Add", [features, "waste.nothing"], ["wasted"]),
    ]
    for node in reversed(waste):
        graph.node.insert(0, node)


def overconfident(fields: dict[str, Any]) -> None:
    """Surer of every word, in the same order."""
    fields["bias"] += 4.0
