"""An ONNX file to a serialised engine, the same way on every TensorRT from 8.5 to 11.

How precision is chosen is all that differs between versions, and all of that is `precision_setup`:

======== ======================= =============== ===============
mode     TensorRT 8              10              11
======== ======================= =============== ===============
strong   -                       strongly typed  strongly typed
int8     INT8 and FP16 flags     the same        -
fp16     FP16 flag               the same        -
float    as the file says        the same        the same
======== ======================= =============== ===============
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.backends import Shape
from edge_runtime.errors import BackendError, BundleIncompatible
from edge_runtime.files import write_atomically
from jetson.trt import major, make_logger

log = logging.getLogger(__name__)

MODES = ("strong", "int8", "fp16", "float")
WORKSPACE_MIB = 256  # the smallest Orin Nano has 4 GiB for everything


def precision_setup(trt: Any, mode: str) -> tuple[int, tuple[Any, ...]]:
    """Flags of the network, and of the builder, for `mode` in this version of TensorRT.

    Raises BackendError if this version cannot do it.
    """
    version = major(trt)
    impossible = (mode == "strong" and version < 10) or (mode in ("int8", "fp16") and version > 10)
    if impossible:
        raise BackendError(f"TensorRT {trt.__version__} builds no engine in the mode {mode!r}")
    network = 0
    if version < 10:
        network |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if mode == "strong" and version == 10:  # TensorRT 11 knows nothing else
        network |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    flags: tuple[Any, ...] = ()
    if mode == "int8":
        flags = (trt.BuilderFlag.INT8, trt.BuilderFlag.FP16)
    elif mode == "fp16":
        flags = (trt.BuilderFlag.FP16,)
    return network, flags


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One engine to build."""

    model: Path  # the ONNX file
    mode: str  # of MODES
    profiles: Sequence[Sequence[Shape]]  # shapes of the inputs, for each profile
    timing_cache: Path  # read where it is there, and written back
    workspace_mib: int = WORKSPACE_MIB


def build_plan(trt: Any, request: BuildRequest) -> bytes:
    """Builds it: minutes, on a Jetson. A GPU must have been found (`open_cuda`).

    Raises BundleIncompatible if TensorRT does not take the file, BackendError if the engine cannot
    be built: out of memory, or a mode that this version does not have.
    """
    logger = make_logger(trt)
    network_flags, builder_flags = precision_setup(trt, request.mode)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags)
    _parse(trt, logger, network, request.model)
    config = builder.create_builder_config()
    for flag in builder_flags:
        config.set_flag(flag)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names layers, costs no time
    _add_profiles(builder, network, config, request.profiles)
    cache = config.create_timing_cache(_read(request.timing_cache))
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        log.info("the timing cache is another GPU's or version's; starting a new one")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    try:
        plan = builder.build_serialized_network(network, config)
    except (RuntimeError, MemoryError) as error:
        raise BackendError(f"{request.model.name}: the engine was not built: {error}") from error
    if plan is None:
        said = logger.last_error or "no reason given"
        remedy = "stop other programs, or lower --workspace" if "memory" in said.lower() else ""
        raise BackendError(
            f"{request.model.name}: the engine was not built: {said}{remedy and '; ' + remedy}"
        )
    write_atomically(request.timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _parse(trt: Any, logger: Any, network: Any, model: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.read_bytes()):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise BundleIncompatible(
            f"TensorRT {trt.__version__} refuses it: {' '.join('; '.join(errors).split())[:400]}",
            file=str(model),
            expected="operators and an opset that this TensorRT reads",
            remedy="calibrate with the target of this TensorRT: trt10, or trt8 for version 8",
        )


def _add_profiles(
    builder: Any, network: Any, config: Any, profiles: Sequence[Sequence[Shape]]
) -> None:
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, shape in zip(names, shapes, strict=True):
            profile.set_shape(name, shape, shape, shape)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"TensorRT takes no profile of {[list(shape) for shape in shapes]}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
