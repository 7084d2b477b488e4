"""Does it hold on a real GPU? One command for any machine with NVIDIA's driver and TensorRT.

    python -m jetson.verify_gpu FOLDER --out result.json

FOLDER holds `encoder.onnx` and what there is of `encoder.int8-trt10.onnx`,
`encoder.float16-trt10.onnx`, `encoder.int8-trt8.onnx` and `goldens.npz`: a bundle is such a folder.
Every engine that this TensorRT can build is built, and for every chunk size and batch

* streamed through the product's backend, with CUDA graphs and without: both must say the same, to
  the bit;
* compared with the goldens, which are the float graph's, and with the same ONNX file computed
  literally by onnxruntime (every pair of rounding and unrounding as it stands, float16 as float16);
* timed: p50, p95 and p99 of a step.

Where Polygraphy is installed, its own runner, which shares none of our code for CUDA, runs the
first window too.  Everything goes into one JSON file.  Exit code 0 if all comparisons hold, 1 if
one does not, or if there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.onnx import open_onnx
from edge_runtime.contract.bundle import FRAME_MS, GOLDENS_NAME
from edge_runtime.errors import EdgeError
from edge_runtime.files import write_atomically
from edge_runtime.modelspec import ModelSpec
from jetson import cuda, trt
from jetson.backend import TensorRTBackend, describe_graph
from jetson.build import BuildRequest, build_plan
from jetson.goldens import NOISE_ARGMAX, Goldens, compare, streams, time_steps
from jetson.machine import this_machine
from jetson.telemetry import snapshot

# Name of the result, file, mode, first and last major version of TensorRT that builds it.
ENGINES = (
    ("int8", "encoder.int8-trt10.onnx", "strong", 10, 99),
    ("int8-weak", "encoder.int8-trt8.onnx", "int8", 8, 10),
    ("fp16", "encoder.float16-trt10.onnx", "strong", 10, 99),
    ("fp16-weak", "encoder.onnx", "fp16", 8, 10),
    ("float", "encoder.onnx", "float", 8, 99),
)
LEAST_ARGMAX = 0.97  # share of frames, against the goldens
LEAST_LITERAL_ARGMAX = 0.98  # against the same file in onnxruntime


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jetson.verify_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--out", type=Path, default=Path("verify_gpu.json"), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--chunks", default="8,16,32,64", help="feature frames (default: %(default)s)"
    )
    parser.add_argument("--batches", default="1,2,4,8", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="to time (default: %(default)s)")
    parser.add_argument("--cuda", help="cuda-python or pycuda (default: either)")
    args = parser.parse_args(argv)
    try:
        facts = verify(args)
    except (EdgeError, OSError) as error:
        sys.stderr.write(f"verify_gpu: {' '.join(str(error).split())}\n")
        return 1
    write_atomically(args.out, (json.dumps(facts, indent=1) + "\n").encode())
    for name, engine in facts["engines"].items():
        sys.stdout.write(f"{name}: {'; '.join(engine['problems']) or 'holds'}\n")
    sys.stdout.write(f"{args.out}: {'all holds' if facts['holds'] else 'NOT all holds'}\n")
    return 0 if facts["holds"] else 1


def verify(args: argparse.Namespace) -> dict[str, Any]:
    """All of it. Raises EdgeError if there is no GPU, or nothing to verify."""
    driver = cuda.open_cuda(args.cuda)  # before TensorRT is touched
    tensorrt = trt.load()
    chunks = tuple(int(text) for text in args.chunks.split(","))
    batches = tuple(int(text) for text in args.batches.split(","))
    reference = open_onnx(args.folder / "encoder.onnx")
    spec = ModelSpec.of(reference, chunk_frames=chunks)
    cases = _cases(args.folder, spec, reference)
    profiles = [goldens.shapes(batch) for goldens in cases for batch in batches]
    engines: dict[str, Any] = {}
    for name, file, mode, first, last in ENGINES:
        model = args.folder / file
        if not first <= trt.major(tensorrt) <= last or not model.exists():
            continue
        sys.stderr.write(f"{name}: building from {file}\n")
        request = BuildRequest(
            model=model,
            mode=mode,
            profiles=profiles,
            timing_cache=args.out.with_suffix(".timing-cache"),
        )
        started = perf_counter()
        try:
            plan = build_plan(tensorrt, request)
            built = {"build_s": perf_counter() - started, "plan_bytes": len(plan)}
            facts = describe_graph(open_onnx(model), mode)
            pair = [
                TensorRTBackend(driver, tensorrt, plan, facts, graphs=graphs)
                for graphs in (True, False)
            ]
            engines[name] = built | _examine(pair, model, cases, batches, args)
            engines[name]["polygraphy"] = _polygraphy(plan, model, cases[0])
        except (EdgeError, MemoryError) as error:
            engines[name] = {"problems": [str(error)]}
        engines[name] |= {"file": file, "mode": mode}
    return {
        "simulated": driver.name == "simulated",
        "machine": this_machine(driver, tensorrt).to_json(),
        "cuda": driver.name,
        "telemetry": snapshot().to_json(),
        "steps": args.steps,
        "engines": engines,
        "holds": bool(engines) and not any(engine["problems"] for engine in engines.values()),
    }


def _cases(folder: Path, spec: ModelSpec, reference: Any) -> list[Goldens]:
    """A stream for every chunk size: the goldens' sound, else noise."""
    path = folder / GOLDENS_NAME
    goldens = Goldens.load(path) if path.exists() else None
    if goldens is None:
        sys.stderr.write(f"no {GOLDENS_NAME}: comparing on noise, which says less than speech\n")
    chunks = [window.shift for window in spec.windows]
    return list(streams(goldens, reference, spec, chunks).values())


def _examine(
    pair: Sequence[TensorRTBackend],
    model: Path,
    cases: Sequence[Goldens],
    batches: Sequence[int],
    args: argparse.Namespace,
) -> dict[str, Any]:
    recorded, queued = pair
    steps = args.steps
    least = LEAST_ARGMAX if (args.folder / GOLDENS_NAME).exists() else NOISE_ARGMAX
    rows, problems = [], []
    for goldens in cases:
        literal = literally(model, goldens)
        as_goldens = Goldens(
            chunk_frames=goldens.chunk_frames,
            features=goldens.features,
            lengths=goldens.lengths,
            states=goldens.states,
            logprobs=literal,
        )
        for batch in batches:
            where = f"{goldens.chunk_frames * FRAME_MS} ms, batch {batch}"
            to_float = compare(recorded, goldens, batch)
            to_literal = compare(recorded, as_goldens, batch)
            same = _same(recorded, queued, goldens, batch)
            rows.append(
                {
                    "chunk_frames": goldens.chunk_frames,
                    "batch": batch,
                    "recorded": recorded.bind(goldens.shapes(batch)).recorded,
                    "graphs_equal_queued": same,
                    "against_float": asdict(to_float),
                    "against_literal": asdict(to_literal),
                    "graphs_on": time_steps(recorded, goldens, batch, steps=steps),
                    "graphs_off": time_steps(queued, goldens, batch, steps=steps),
                }
            )
            if not same:
                problems.append(f"{where}: with CUDA graphs it says something else")
            if not to_float.argmax >= least:
                problems.append(f"{where}: {to_float.argmax:.2%} as the float graph")
            if not to_literal.argmax >= LEAST_LITERAL_ARGMAX:
                problems.append(f"{where}: {to_literal.argmax:.2%} as onnxruntime on the same file")
    return {"profiles": rows, "layers": _census(recorded.layers()), "problems": problems}


def literally(model: Path, goldens: Goldens) -> NDArray[np.float32]:
    """Log-probabilities [n, T', V] of the file in onnxruntime, nothing fused or reordered."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), [node.name for node in session.get_outputs()[:5]]
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    dtypes = [kinds[node.type] for node in inputs]
    state: list[NDArray[Any]] = [part[None] for part in goldens.states]  # [1, ...]
    said = []
    for window, length in zip(goldens.features, goldens.lengths, strict=True):
        arrays = [window[None], np.array([length]), *state]
        feeds = {
            node.name: array.astype(dtype)
            for node, array, dtype in zip(inputs, arrays, dtypes, strict=True)
        }
        logprobs, _, *state = session.run(outputs, feeds)
        said.append(logprobs[0].astype(np.float32))
    return np.stack(said)


def _same(recorded: TensorRTBackend, queued: TensorRTBackend, goldens: Goldens, batch: int) -> bool:
    """Whether both give the same bits along the whole stream."""
    one, other = (backend.bind(goldens.shapes(batch)) for backend in (recorded, queued))
    for window, length in zip(goldens.features, goldens.lengths, strict=True):
        for binding in (one, other):
            binding.features[:], binding.lengths[:] = window, length
        if one.run().tobytes() != other.run().tobytes():
            return False
    return True


def _census(layers: str) -> dict[str, int]:
    """How many layers TensorRT made, in INT8 and of reformatting: what its inspector says."""
    names = [json.dumps(layer) for layer in json.loads(layers).get("Layers", [])]
    return {
        "layers": len(names),
        "int8": sum("Int8" in name for name in names),
        "reformat": sum("eformat" in name or "copyPackedKernel" in name for name in names),
    }


def _polygraphy(plan: bytes, model: Path, goldens: Goldens) -> dict[str, Any]:
    """The first window by Polygraphy's runner: its best tokens against the goldens'."""
    try:
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    except ImportError as error:
        return {"skipped": str(error)}
    session = open_onnx(model)
    arrays: list[NDArray[Any]] = [
        goldens.features[:1],
        goldens.lengths[:1],
        *(state[None] for state in goldens.states),
    ]
    half = {spec.name for spec in session.inputs if spec.dtype == "tensor(float16)"}
    feeds = {
        spec.name: array.astype(np.float16) if spec.name in half else array
        for spec, array in zip(session.inputs, arrays, strict=True)
    }
    try:
        with TrtRunner(EngineFromBytes(plan)) as runner:
            given = runner.infer(feeds)[session.outputs[0].name]
    except Exception as error:  # a third opinion must not cost the first two
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    same = given[0].argmax(1) == goldens.logprobs[0].argmax(1)
    return {"argmax": float(same.mean()), "frames": prod(same.shape)}


if __name__ == "__main__":
    sys.exit(main())
