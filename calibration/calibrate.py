"""INT8 from beginning to end: observe, choose, emit, prove.

    found = calibrate(bundle.model(), spec, Plan(utterances=...), out, targets=("x86", "dynamic"))

Also a script: `python calibration/calibrate.py --help`, the same as `vitconformer calibrate`.

A method is chosen by what it does to the model's output, not by what it does to a tensor: each
becomes a file, and the one whose log-probabilities diverge least from the float model's wins.
Sounds for choosing are not those that ranges were observed on.  Two changes to the graph are tried
and used only if they help.  If even the best costs more tokens than the budget allows, the layers
that hurt most stay float, as few as will do (`calibration.choose`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from calibration import census, qdq
from calibration.cache import CACHE_NAME, cache, release_number
from calibration.choose import Trial, choose
from calibration.compare import Difference, logprobs
from calibration.emit import ON_THE_GRID, emit, precision_of
from calibration.goldens import goldens
from calibration.graph import FloatGraph, load_graph
from calibration.lint import lint
from calibration.observe import Plan, observe, read
from calibration.ranges import Ranges
from edge_runtime.contract.bundle import GOLDENS_NAME
from edge_runtime.engine import Engine
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.features import open_frontend
from edge_runtime.files import write_atomically
from edge_runtime.manifest import Utterance
from edge_runtime.modelspec import ModelSpec

log = logging.getLogger(__name__)

RANGES_NAME = "ranges.json"
TENSORRT = {"trt10": (10, 3), "trt8": (8, 6), "float16-trt10": (10, 3)}  # oldest that reads it
HELD_BACK = 24  # utterances that methods are compared on, at least; a tenth of more than 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What came out."""

    ranges: Ranges
    goldens: Path
    files: dict[str, Path]  # target -> INT8 file
    differences: dict[str, Difference]  # target -> what quantisation changed
    kernels: dict[str, dict[str, int]]  # target -> operators that would run


def file_name(target: str) -> str:
    """The file of a target: `encoder.int8-x86.onnx`."""
    return f"encoder.{precision_of(target)}.onnx"


def calibrate(
    model: Path,
    engine: Engine,
    plan: Plan,
    out: Path,
    *,
    targets: Sequence[str],
    budget: float = 0.02,
    plain: bool = False,
    tensorrt_cache: str = "",
    ranges: Ranges | None = None,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> Calibration:
    """Ranges, INT8 files and `goldens.npz` under `out`.

    Args:
        model: the float graph; `engine` has it open, and knows its windows.
        plan: what to observe; a tenth of it, `HELD_BACK` at least, is kept for comparing.
        budget: edits per token that INT8 may cost before layers are kept in float.
        plain: leave norms and biases as they are, instead of trying `calibration.smooth` and
            `calibration.bias`.
        tensorrt_cache: release of TensorRT that a `calibration.cache` is also written for; it goes
            with the graph as it is, so nothing else is tried then.
        ranges: of an earlier calibration of this model; then nothing is observed or chosen.

    Raises:
        BundleError: the graph or the ranges cannot be used, or onnxruntime would run a file in
            float; files that were there before stay.
        ConfigError, AudioError: the manifest is too short or an audio file cannot be read.
    """
    if tensorrt_cache:
        release_number(tensorrt_cache)
    graph, spec = load_graph(model), engine.spec
    observed, kept = apart(plan)
    frontend = open_frontend(spec.frontend)
    sounds = [frontend.compute(read(utterance)) for utterance in kept]
    expected = logprobs(graph.model, spec, sounds)
    answers = goldens(model, spec, sounds)
    trial = Trial(graph=graph, spec=spec, sounds=sounds, expected=expected)
    if ranges is None:
        ranges = _ranges(graph, spec, observed, out, progress)
        ranges = choose(
            trial,
            ranges,
            observed,
            lambda changed: _ranges(changed, spec, observed, out, progress),
            budget=budget,
            plain=plain or bool(tensorrt_cache),
            progress=progress,
        )
    ranges.scales(graph)  # those of another model are refused before anything is written
    implicit = cache(graph, ranges, tensorrt_cache) if tensorrt_cache else b""

    files, differences, found = {}, {}, {}
    products = len(graph.linears) - len(ranges.keep_float)
    for target in targets:
        content = emit(graph, ranges, target)
        path = out / file_name(target)
        part = out / f".{path.name}.part"  # proved before it takes the place of an older one
        write_atomically(part, content)
        try:
            found[target] = _prove(part, target, products)
            differences[target] = (
                trial.cost(ranges)
                if target in ON_THE_GRID
                else trial.cost_of(content, literal=target in qdq.TARGETS)
            )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        files[target] = path
    ranges.write(out / RANGES_NAME)
    for partial in out.glob(f".{RANGES_NAME}.*.partial"):  # until now a killed run could go on
        partial.unlink()
    write_atomically(out / GOLDENS_NAME, answers)
    if implicit:
        write_atomically(out / CACHE_NAME, implicit)
    return Calibration(
        ranges=ranges,
        goldens=out / GOLDENS_NAME,
        files=files,
        differences=differences,
        kernels=found,
    )


def apart(plan: Plan) -> tuple[Plan, tuple[Utterance, ...]]:
    """What is observed of a plan, and what is kept for comparing.

    Raises ConfigError where nothing would be left to observe.
    """
    total = len(plan.utterances)
    held_back = max(HELD_BACK, total // 10)
    if total <= held_back:
        raise ConfigError(
            f"the manifest has {total} utterances; calibration wants more than {held_back}, which "
            "it keeps for comparing methods"
        )
    # From everywhere in the manifest, which may be several, one after the other.
    kept = {i * total // held_back for i in range(held_back)}
    rest = tuple(u for i, u in enumerate(plan.utterances) if i not in kept)
    return dataclasses.replace(plan, utterances=rest), tuple(
        plan.utterances[i] for i in sorted(kept)
    )


def _prove(file: Path, target: str, products: int) -> dict[str, int]:
    """Operators that would run.  Raises BundleError for a file that its engine would not like."""
    if target in TENSORRT:
        model = onnx.load(file)
        findings = [f for f in lint(model, tensorrt=TENSORRT[target]) if not f.warning]
        if findings:
            raise BundleError(
                "; ".join(map(str, findings[:3])),
                file=file_name(target),
                expected="what TensorRT reads",
                remedy="this is a bug in the calibration, not in your data: please report it",
            )
        kernels = Counter(node.op_type for node in model.graph.node)
    elif target == "arm64":  # its kernels are those of another processor
        kernels = census.kernels(file)
    else:
        kernels = census.check(file, products)
    return dict(sorted(kernels.items()))


def _ranges(
    graph: FloatGraph,
    spec: ModelSpec,
    plan: Plan,
    out: Path,
    progress: Callable[[str, int, int], object],
) -> Ranges:
    partial = out / f".{RANGES_NAME}.{plan.fingerprint(graph)[:12]}.partial"
    seen = observe(
        graph, spec, plan, partial,
        progress=lambda chunks: progress("observing", min(chunks, plan.chunks), plan.chunks),
    )  # fmt: skip
    lines = [u.to_json() for u in plan.utterances]
    return Ranges.of(
        graph,
        seen,
        manifest_sha256=hashlib.sha256(json.dumps(lines).encode()).hexdigest(),
        tools={name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", "numpy")},
    )


if __name__ == "__main__":
    from edge_runtime.cli import main

    sys.exit(main(["calibrate", *sys.argv[1:]]))
