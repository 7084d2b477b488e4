"""Times of the engine that is there: every chunk size and batch, CUDA graphs on and off.

Power, temperatures and clocks are read before and after, because a time without them says little.
"""

from __future__ import annotations

from typing import Any

from edge_runtime.backends.onnx import open_onnx
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BackendError
from edge_runtime.modelspec import ModelSpec
from jetson.backend import TensorRTBackend
from jetson.goldens import noise, record, time_steps
from jetson.opening import facts_of
from jetson.prepare import Options, Site
from jetson.store import sha256_of
from jetson.telemetry import snapshot


def bench(bundle: Bundle, site: Site, options: Options) -> dict[str, Any]:
    """Everything as JSON values. Raises BackendError if there is no engine for these shapes."""
    found = site.store.find(sha256_of(bundle.model()), site.machine)
    plan = site.store.plan(found, site.machine)
    reference = open_onnx(bundle.model())
    spec = ModelSpec.of(reference, chunk_frames=bundle.manifest.chunk_frames)
    windows = [w for w in spec.windows if w.shift in (options.chunk_frames or (w.shift,))]
    before, rows = snapshot().to_json(), []
    for graphs in (True, False):
        facts = facts_of(found, found.source)
        backend = TensorRTBackend(site.cuda, site.trt, plan, facts, graphs=graphs)
        built = set(backend.profiles())
        for window in windows:
            states = [shape[1:] for shape in spec.input_shapes(1, window)[2:]]
            sound = record(reference, noise(8 * window.size, window.size), states, window.shift)
            for batch in options.batches:
                if (batch, window.size) in built:
                    took = time_steps(backend, sound, batch, steps=options.steps)
                    what = {"chunk_ms": window.chunk_ms, "batch": batch, "cuda_graphs": graphs}
                    rows.append(what | took)
    if not rows:
        raise BackendError("the engine has none of these chunk sizes and batches; build them")
    return {
        "machine": site.machine.to_json(),
        "candidate": found.candidate,
        "cuda": site.cuda.name,
        "steps": options.steps,
        "times": rows,
        "telemetry": {"before": before, "after": snapshot().to_json()},
    }
