"""The door to TensorRT: what is used of it, how it is loaded, and how its words reach ours.

One table names everything that is used.  Tests hold it against the real Python bindings of the
TensorRT versions that JetPacks ship, and the simulated TensorRT of the tests has nothing else, so
that the runtime cannot come to use what the table does not say.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from edge_runtime.errors import BackendError

log = logging.getLogger(__name__)

# Class ("" for the module) -> attributes that every TensorRT from 8.5 to 11.4 has.
USED: dict[str, tuple[str, ...]] = {
    "": (
        "Builder",
        "BuilderFlag",
        "ILogger",
        "LayerInformationFormat",
        "MemoryPoolType",
        "NetworkDefinitionCreationFlag",
        "OnnxParser",
        "ProfilingVerbosity",
        "Runtime",
        "TensorIOMode",
        "TensorLocation",
        "__version__",
    ),
    "Builder": (
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
    ),
    "EngineInspector": ("get_engine_information",),
    "IBuilderConfig": (
        "add_optimization_profile",
        "create_timing_cache",
        "get_timing_cache",
        "profiling_verbosity",
        "set_flag",
        "set_memory_pool_limit",
        "set_timing_cache",
    ),
    "ICudaEngine": (
        "create_engine_inspector",
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_location",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "num_io_tensors",
        "num_optimization_profiles",
    ),
    "IExecutionContext": (
        "execute_async_v3",
        "get_tensor_shape",
        "infer_shapes",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
    ),
    "ILogger": ("ERROR", "INTERNAL_ERROR", "WARNING"),
    "INetworkDefinition": ("get_input", "num_inputs"),
    "IOptimizationProfile": ("set_shape",),
    "ITensor": ("name",),
    "ITimingCache": ("serialize",),
    "LayerInformationFormat": ("JSON",),
    "MemoryPoolType": ("WORKSPACE",),
    "OnnxParser": ("get_error", "num_errors", "parse"),
    "ParserError": ("desc",),
    "ProfilingVerbosity": ("DETAILED",),
    "Runtime": ("deserialize_cuda_engine",),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "TensorLocation": ("DEVICE",),
}
# What only some versions have, by the first and last major version that must have it.
USED_IN: dict[tuple[int, int], dict[str, tuple[str, ...]]] = {
    (8, 10): {
        "BuilderFlag": ("FP16", "INT8"),
        "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH",),
    },
    (10, 10): {"NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",)},
}

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}


def load() -> Any:
    """The module `tensorrt`. Raises BackendError if it is missing or too old."""
    try:
        import tensorrt
    except ImportError as error:
        raise BackendError(
            f"TensorRT cannot be imported ({error}); JetPack brings it as python3-libnvinfer"
        ) from error
    if major(tensorrt) < 8 or version(tensorrt) < (8, 5):
        raise BackendError(
            f"TensorRT {tensorrt.__version__} is too old (expected 8.5 or newer); update JetPack"
        )
    return tensorrt


def version(trt: Any) -> tuple[int, int]:
    """Major and minor."""
    first, second = trt.__version__.split(".")[:2]
    return int(first), int(second)


def major(trt: Any) -> int:
    return version(trt)[0]


def dtype_of(trt_dtype: Any) -> np.dtype[Any]:
    """Numpy's of a `tensorrt.DataType`. Raises BackendError for one that no contract uses."""
    if trt_dtype.name not in _DTYPES:
        raise BackendError(f"the engine has a tensor of {trt_dtype.name}")
    return np.dtype(_DTYPES[trt_dtype.name])


def make_logger(trt: Any) -> Any:
    """A `tensorrt.ILogger` that passes words on to `logging`; `last_error` says what went wrong."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last_error = " ".join(text.split())[:400]
                log.info("TensorRT: %s", self.last_error)  # the exception that follows is louder
            elif severity == trt.ILogger.WARNING:
                log.info("TensorRT: %s", text)
            else:
                log.debug("TensorRT: %s", text)

    return Logger()
