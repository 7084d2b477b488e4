"""Everything that a report tells, measured."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from calibration.calibrate import Calibration, apart
from calibration.emit import CPU_TARGETS, precision_of
from calibration.graph import load_graph
from calibration.observe import Plan
from calibration.report.layers import measure_layers
from calibration.report.page import Facts
from calibration.report.recognition import FLOAT, compare_recognition
from edge_runtime.bundle import Bundle
from edge_runtime.engine import Engine
from edge_runtime.manifest import Utterance

_HELD_BACK = "held back from the ranges, but the method was chosen on them"
# Which of the files is compared, best first; those for TensorRT do not run here.
_COMPARED = CPU_TARGETS


def gather(
    bundle: Bundle,
    found: Calibration,
    plan: Plan,
    recordings: Sequence[Utterance] = (),
    *,
    progress: Callable[..., object] = lambda what, done, total: None,
) -> Facts:
    """Runs the calibration's audio once more through the float graph, and recordings through both.

    Args:
        bundle: with the INT8 files of `found` in it.
        plan: what was calibrated with.
        recordings: with texts; those that were held back from the ranges, if there are none.

    Raises AudioError naming a file that cannot be read.
    """
    manifest = bundle.manifest
    graph = load_graph(bundle.model())
    observed, kept = apart(plan)
    progress("measuring layers", 0, 1)
    engine = Engine.from_bundle(bundle, precision=FLOAT)
    layers = measure_layers(graph, engine.spec, found.ranges, observed)
    progress("measuring layers", 1, 1)

    target = next((name for name in _COMPARED if name in found.files), None)
    heard = tuple(recordings) or kept
    chunks = {}
    if target is not None:
        for chunk_ms in manifest.chunks_ms:
            what = f"recognising at {chunk_ms} ms"
            chunks[chunk_ms] = compare_recognition(
                bundle,
                precision_of(target),
                heard,
                chunk_ms,
                progress=partial(progress, what, total=len(heard)),
            )
    files = [bundle.model(), *found.files.values()]
    return Facts(
        title=f"{manifest.name} {manifest.version}",
        precision=precision_of(target or next(iter(found.files))),
        sizes={path.name: path.stat().st_size for path in files},
        float32_bytes=graph.model.ByteSize(),
        ranges=found.ranges,
        differences={precision_of(name): cost for name, cost in found.differences.items()},
        layers=layers,
        chunks=chunks,
        default_chunk_ms=manifest.default_chunk_ms,
        source="given for this report" if recordings else _HELD_BACK,
        processor=_processor(),
    )


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the system names it."""
    try:
        for line in cpuinfo.read_text("utf-8", errors="replace").splitlines():
            name, _, model = line.partition(":")
            if name.strip() == "model name":
                return model.strip()
    except OSError:
        pass
    return platform.machine()
