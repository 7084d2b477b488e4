"""Bundle to engine: builds INT8 and FP16, proves them on the goldens, keeps the faster one.

The chain is INT8, then FP16, then onnxruntime on the CPU; every step is reported, and one that
fails costs nothing but its time: an engine that is there stays until a better one took its place.

Which of two sound engines is faster depends on the module: at a batch of one the products are small
and INT8 often gains nothing, so that is measured, and FP16, which is closer to the float graph,
wins unless INT8 is clearly faster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.backends import Backend
from edge_runtime.backends.onnx import open_onnx
from edge_runtime.bundle import Bundle
from edge_runtime.contract.bundle import FRAME_MS, GOLDENS_NAME
from edge_runtime.errors import BackendError, BundleError, ConfigError
from edge_runtime.modelspec import ModelSpec
from jetson.backend import GraphFacts, TensorRTBackend, describe_graph
from jetson.build import WORKSPACE_MIB, BuildRequest, build_plan
from jetson.cuda import Cuda
from jetson.goldens import NOISE_ARGMAX, Goldens, compare, streams, time_steps
from jetson.machine import Machine
from jetson.store import Record, Store
from jetson.telemetry import snapshot
from jetson.trt import major

log = logging.getLogger(__name__)

BATCHES = (1, 2, 4, 8)
CANDIDATES = ("int8", "fp16")
CLEARLY_FASTER = 0.97  # of the other's time

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where engines are built: a GPU, a TensorRT, and the store they go to."""

    cuda: Cuda
    trt: Any
    machine: Machine
    store: Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What an engine must reach to be used."""

    argmax: float = 0.97  # least share of frames with the float graph's best token
    snr_db: float = 20.0  # least distance of the error from the log-probabilities
    real_time: float = 0.5  # greatest p95 of a step, as a share of the audio it stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is built, and how it is judged."""

    chunk_frames: tuple[int, ...] = ()  # default: all of the bundle's
    batches: tuple[int, ...] = BATCHES
    candidates: tuple[str, ...] = CANDIDATES
    gate: Gate = field(default_factory=Gate)
    workspace_mib: int = WORKSPACE_MIB
    steps: int = 200  # timed, after `warm_up`
    warm_up: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a build."""

    record: Record | None  # None: onnxruntime on the CPU it is
    tried: dict[str, dict[str, Any]]  # candidate -> its measurements, or why it failed


def source_of(bundle: Bundle, candidate: str, tensorrt_major: int) -> tuple[Path, str]:
    """The bundle's file for a candidate, and the mode to build it in.

    Raises BundleError if the bundle has none that this TensorRT takes.
    """
    names = bundle.manifest.precisions
    choices = {
        "int8": [("int8-trt10", "strong")] if tensorrt_major >= 10 else [("int8-trt8", "int8")],
        "fp16": [("float16-trt10", "strong")] if tensorrt_major >= 10 else [],
    }[candidate]
    if candidate == "fp16" and tensorrt_major <= 10:
        choices.append(("float32", "fp16"))
    for precision, mode in choices:
        if precision in names:
            return bundle.model(precision), mode
    wanted = " or ".join(precision for precision, _ in choices)
    raise BundleError(
        f"has no {wanted}",
        file=str(bundle.path),
        field="precisions",
        remedy="calibrate it with --targets trt10 (JetPack 6.1 and later) or trt8 (6.0)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    """An engine that passed."""

    plan: bytes
    source: Path
    facts: GraphFacts


def prepare(
    bundle: Bundle, goldens: Goldens | None, site: Site, options: Options, report: Report
) -> Outcome:
    """Builds, proves and stores. `goldens` default to the bundle's, else to some made here.

    Raises ConfigError for options that do not fit the bundle, BundleError for goldens of another
    one. An engine that cannot be built or fails is no error: it is reported.
    """
    reference = open_onnx(bundle.model())
    manifest = bundle.manifest
    spec = ModelSpec.of(
        reference, chunk_frames=manifest.chunk_frames, default_chunk_ms=manifest.default_chunk_ms
    )
    if goldens is None and (file := bundle.goldens_file()) is not None:
        goldens = Goldens.load(file)
    if goldens is None:
        report(f"the bundle has no {GOLDENS_NAME}: comparing on noise, which says less than speech")
        gate = replace(options.gate, argmax=min(options.gate.argmax, NOISE_ARGMAX))
        options = replace(options, gate=gate)
    cases = streams(goldens, reference, spec, _chunks(spec, options))
    built: dict[str, _Built] = {}
    tried: dict[str, dict[str, Any]] = {}
    for candidate in options.candidates:
        try:
            built[candidate], tried[candidate] = _build(
                bundle, candidate, spec, cases, site, options, report
            )
            if failures := judge(tried[candidate], options.gate):
                tried[candidate]["failed"] = "; ".join(failures)
                del built[candidate]
        except (BackendError, BundleError, MemoryError) as error:
            tried[candidate] = {"failed": str(error)}
        report(f"{candidate}: {tried[candidate].get('failed') or 'agrees with the float graph'}")
    if not built:
        report("no engine is fit for use: the one before stays, or onnxruntime on the CPU runs")
        return Outcome(record=None, tried=tried)
    chosen = choose({name: tried[name] for name in built}, spec.default_window.shift)
    report(f"{chosen} it is")
    return Outcome(record=_save(bundle, chosen, built[chosen], tried, site), tried=tried)


def _build(
    bundle: Bundle,
    candidate: str,
    spec: ModelSpec,
    cases: dict[int, Goldens],
    site: Site,
    options: Options,
    report: Report,
) -> tuple[_Built, dict[str, Any]]:
    """An engine of one candidate, and its measurements."""
    source, mode = source_of(bundle, candidate, major(site.trt))
    profiles = [
        spec.input_shapes(batch, window)
        for window in spec.windows
        if window.shift in cases
        for batch in options.batches
    ]
    report(f"{candidate}: building from {source.name}, {len(profiles)} profiles")
    facts = describe_graph(open_onnx(source), mode)
    request = BuildRequest(
        model=source,
        mode=mode,
        profiles=profiles,
        timing_cache=site.store.timing_cache(site.machine),
        workspace_mib=options.workspace_mib,
    )
    plan = build_plan(site.trt, request)
    backend = TensorRTBackend(site.cuda, site.trt, plan, facts)
    return _Built(plan=plan, source=source, facts=facts), measure(backend, cases, options)


def _save(
    bundle: Bundle, chosen: str, built: _Built, tried: dict[str, dict[str, Any]], site: Site
) -> Record:
    manifest, facts = bundle.manifest, built.facts
    digests = {name: manifest.files[file].sha256 for name, file in manifest.precisions.items()}
    return site.store.save(
        Record(
            model=digests["float32"],
            stands_for=tuple(digests.values()),
            machine=site.machine,
            candidate=chosen,
            source=built.source.name,
            source_sha256=manifest.files[built.source.name].sha256,
            inputs=tuple(facts.inputs),
            outputs=tuple(facts.outputs),
            metadata=facts.metadata,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            measured={"candidates": tried, "telemetry": snapshot().to_json()},
        ),
        built.plan,
    )


def _chunks(spec: ModelSpec, options: Options) -> tuple[int, ...]:
    """Feature frames of every chunk size that is wanted."""
    offered = tuple(window.shift for window in spec.windows)
    if unknown := sorted(set(options.chunk_frames) - set(offered)):
        choices = ", ".join(str(frames * FRAME_MS) for frames in offered)
        raise ConfigError(f"no chunk of {unknown[0] * FRAME_MS} ms: there are {choices}")
    return options.chunk_frames or offered


def measure(
    backend: Backend, cases: dict[int, Goldens], options: Options
) -> dict[str, list[dict[str, Any]]]:
    """Agreement and time of every chunk size and batch."""
    found = []
    for goldens in cases.values():
        for batch in options.batches:
            agreement = compare(backend, goldens, batch)
            took = time_steps(backend, goldens, batch, steps=options.steps, warm_up=options.warm_up)
            found.append({**asdict(agreement), **took})
    return {"profiles": found}


def judge(measured: dict[str, Any], gate: Gate) -> list[str]:
    """What of the gate an engine misses, as texts."""
    failures = []
    for profile in measured["profiles"]:
        where = f"{profile['chunk_frames'] * FRAME_MS} ms, batch {profile['batch']}"
        if not profile["argmax"] >= gate.argmax:
            failures.append(f"{where}: {profile['argmax']:.2%} of the tokens agree")
        if not profile["snr_db"] >= gate.snr_db:  # also NaN
            failures.append(f"{where}: {profile['snr_db']:.1f} dB")
        if not profile["p95_ms"] <= gate.real_time * profile["chunk_frames"] * FRAME_MS:
            failures.append(f"{where}: a step takes {profile['p95_ms']:.1f} ms")
    return failures


def choose(measured: dict[str, dict[str, Any]], chunk_frames: int) -> str:
    """The candidate to keep, by the median time at the default chunk (or any) and one stream."""

    def milliseconds(name: str) -> float:
        profiles = measured[name]["profiles"]
        smallest = min(profile["batch"] for profile in profiles)
        single = [profile for profile in profiles if profile["batch"] == smallest]
        own = [profile for profile in single if profile["chunk_frames"] == chunk_frames]
        return sum(float(profile["p50_ms"]) for profile in own or single)

    if len(measured) == 1 or "fp16" not in measured:
        return min(measured, key=milliseconds)
    fast = min(measured, key=milliseconds)
    clear = milliseconds(fast) < CLEARLY_FASTER * milliseconds("fp16")
    return fast if clear else "fp16"


def chunks_of(text: Sequence[int]) -> tuple[int, ...]:
    """Milliseconds to feature frames. Raises ConfigError for what is no whole number of frames."""
    if odd := [ms for ms in text if ms % FRAME_MS or ms <= 0]:
        raise ConfigError(f"--chunk-ms {odd[0]}: a positive multiple of {FRAME_MS}")
    return tuple(ms // FRAME_MS for ms in text)
