"""From a model's path to a backend that runs it: what the entry points name.

`tensorrt` runs the engine that was built here for the model, or says why it cannot; `jetson` goes
on with onnxruntime on the CPU then, and says that too.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_runtime.backends import Backend
from edge_runtime.errors import BackendError, BundleError
from jetson import cuda, trt
from jetson.backend import GraphFacts, TensorRTBackend
from jetson.machine import this_machine
from jetson.store import Record, Store, sha256_of

log = logging.getLogger(__name__)


def open_tensorrt(model: Path, *, threads: int = 1) -> TensorRTBackend:
    """The engine for `model` or any other graph of its bundle. `threads` are the CPU's: not used.

    Raises BackendError if there is no GPU, no TensorRT or no engine, BundleError if the file is
    missing or the engine must not be run.
    """
    if not model.is_file():
        raise BundleError("does not exist", file=str(model), expected="an ONNX file")
    driver = cuda.open_cuda()  # before TensorRT is touched
    tensorrt = trt.load()
    machine = this_machine(driver, tensorrt)
    store = Store.default()
    record = store.find(sha256_of(model), machine)
    facts = facts_of(record, f"{model} (as {record.candidate} engine)")
    return TensorRTBackend(driver, tensorrt, store.plan(record, machine), facts)


def facts_of(record: Record, source: str) -> GraphFacts:
    """What the hub must know of a stored engine; `source` is named in errors."""
    return GraphFacts(
        source=source, inputs=record.inputs, outputs=record.outputs, metadata=record.metadata
    )


def open_best(model: Path, *, threads: int = 1) -> Backend:
    """The engine, else onnxruntime with a warning that says why. Raises as `open_onnx`."""
    try:
        return open_tensorrt(model, threads=threads)
    except (BackendError, BundleError) as error:
        from edge_runtime.backends.onnx import open_onnx

        log.warning("onnxruntime runs on the CPU: %s", error)
        return open_onnx(model, threads=threads)
